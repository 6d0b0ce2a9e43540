"""Whatever happens at whichever call, running `gateway upstream` again brings everything to its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.cli.upstream.organization import (
    Fault,
    Organization,
    answering,
    dropped,
    lost,
    running_organization,
)

FAULTS: dict[str, Fault] = {
    "503": answering(503),
    "429": answering(429, **{"Retry-After": "0"}),
    "dropped": dropped,
    "lost": lost,
}
APPLIED = {
    "provision": ("provision", "acme", "--apply"),
    "rotate": ("rotate", "acme", "--apply", "--keep", "0s"),
    "retire": ("retire", "acme", "--apply", "--confirm", "acme"),
}


async def gone(
    request: web.Request, serve: Callable[[], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Administration is; to wait for a new key to be accepted takes half a minute."""
    busy = answering(503, **{"Retry-After": "0"})
    return await (busy(request, serve) if "/organization/" in request.path else serve())


async def prepare(organization: Organization, verb: str) -> None:
    if verb != "provision":
        assert (await organization.run(*APPLIED["provision"])).code == 0


async def is_done(organization: Organization, verb: str, before: str) -> None:
    if verb == "retire":
        assert await organization.projects() == []
        assert await organization.ask("/models", before) == 401
        return
    await organization.is_whole()
    if verb == "rotate":
        assert organization.key != before
        assert await organization.ask("/models", before) == 401


def key_of(organization: Organization) -> str:
    return organization.key if organization.key_file.exists() else ""


async def calls_of(folder: Path, verb: str) -> int:
    """How many there are when nothing happens."""
    async with running_organization(folder) as organization:
        await prepare(organization, verb)
        assert (await organization.run(*APPLIED[verb])).code == 0
        return len(organization.calls)


def folder_of(tmp_path: Path, name: object) -> Path:
    folder = tmp_path / str(name)
    folder.mkdir()
    return folder


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", APPLIED)
async def test_one_call_that_fails_is_overcome_in_the_same_run(tmp_path: Path, verb: str, fault: str) -> None:
    for number in range(await calls_of(folder_of(tmp_path, "undisturbed"), verb)):
        async with running_organization(folder_of(tmp_path, number)) as organization:
            await prepare(organization, verb)
            before = key_of(organization)
            organization.faults = {number: FAULTS[fault]}
            done = await organization.run(*APPLIED[verb])
            assert (done.code, organization.faults) == (0, {}), (number, done.stderr)
            await is_done(organization, verb, before)


@pytest.mark.parametrize("verb", APPLIED)
async def test_an_upstream_that_is_gone_from_some_call_on_leaves_what_the_next_run_ends(
    tmp_path: Path, verb: str
) -> None:
    for number in range(await calls_of(folder_of(tmp_path, "undisturbed"), verb)):
        async with running_organization(folder_of(tmp_path, number)) as organization:
            await prepare(organization, verb)
            before = key_of(organization)
            organization.faults = dict.fromkeys(range(number, number + 100), gone)
            done = await organization.run(*APPLIED[verb])
            organization.faults = {}
            if verb != "retire":
                assert not before or await organization.ask("/models", key_of(organization)) != 401
            again = await organization.run(*APPLIED[verb])
            assert again.code == 0, (number, done.stderr, again.stderr)
            await is_done(organization, verb, before)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("verb", APPLIED)
async def test_a_command_that_is_killed_at_any_call_is_brought_to_its_end_by_the_next(
    tmp_path: Path, verb: str, after: bool
) -> None:
    for number in range(await calls_of(folder_of(tmp_path, "undisturbed"), verb)):
        async with running_organization(folder_of(tmp_path, number)) as organization:
            await prepare(organization, verb)
            before = key_of(organization)
            await organization.killed(*APPLIED[verb], at=number, after=after)
            if before and verb != "retire":
                assert await organization.ask("/models", organization.key) != 401, number
            done = await organization.run(*APPLIED[verb])
            assert done.code == 0, (number, done.stderr)
            await is_done(organization, verb, before)
