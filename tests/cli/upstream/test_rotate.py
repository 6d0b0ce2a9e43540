"""`gateway upstream rotate` and `retire`."""

from __future__ import annotations

import asyncio

from tests.cli.upstream.organization import Organization, answering
from tests.kit.waiting import until

APPLY = ("acme", "--apply")


async def test_rotating_says_first_what_it_would_do(organization: Organization) -> None:
    await organization.run("provision", *APPLY)
    key = organization.key
    done = await organization.run("rotate", "acme")
    assert done.code == 0
    assert "until it has been in force for 5m" in done.stdout
    assert "it has been replaced" in done.stdout
    assert {call.partition(" ")[0] for call in organization.calls} == {"GET"}
    assert organization.key == key


async def test_the_old_key_goes_on_for_as_long_as_is_wished(organization: Organization) -> None:
    await organization.run("provision", *APPLY)
    old = organization.key
    rotating = asyncio.create_task(organization.run("rotate", *APPLY, "--keep", "3s"))
    await until(lambda: organization.key != old)
    for key in (old, organization.key):
        assert await organization.ask("/models", key) != 401
    assert not any(call.startswith("DELETE") for call in organization.calls)
    assert (await rotating).code == 0
    assert await organization.ask("/models", old) == 401
    await organization.is_whole()


async def test_the_file_that_was_lost_gets_a_new_key_and_the_lost_one_ends(
    organization: Organization,
) -> None:
    await organization.run("provision", *APPLY)
    old = organization.key
    organization.key_file.unlink()
    done = await organization.run("rotate", *APPLY, "--keep", "0")
    assert done.code == 0, done.stderr
    assert "last used" in done.stdout
    assert await organization.ask("/models", old) == 401
    await organization.is_whole()


async def test_a_rotation_that_was_interrupted_is_ended_without_a_third_key(
    organization: Organization,
) -> None:
    await organization.run("provision", *APPLY)
    old = organization.key
    organization.faults = {5: answering(403)}
    done = await organization.run("rotate", *APPLY, "--keep", "0")
    assert (done.code, organization.calls[5].partition(" ")[0]) == (1, "DELETE")
    new = organization.key
    assert new != old
    assert "rotate acme" in (await organization.run("provision", "acme")).stderr
    done = await organization.run("rotate", *APPLY, "--keep", "0")
    assert done.code == 0
    assert "no further key is made" in done.stderr
    assert organization.key == new
    assert await organization.ask("/models", old) == 401
    await organization.is_whole()
    assert (await organization.run("rotate", *APPLY, "--keep", "0")).code == 0
    assert organization.key != new


async def test_keys_of_others_are_named_and_left_alone(organization: Organization) -> None:
    await organization.run("provision", *APPLY)
    (project,) = await organization.projects()
    path = f"/organization/projects/{project['id']}/service_accounts"
    theirs = await organization.ask(path, method="POST", name="of somebody")
    done = await organization.run("rotate", *APPLY, "--keep", "0")
    assert done.code == 0
    assert await organization.ask("/models", theirs["api_key"]["value"]) != 401
    done = await organization.run("provision", "acme")
    assert "others have keys of its project: " in done.stderr
    listed = await organization.run("list")
    assert "keys of others" in listed.stdout


async def test_there_is_nothing_to_rotate_without_a_project(organization: Organization) -> None:
    done = await organization.run("rotate", *APPLY)
    assert done.code == 1
    assert "gateway upstream provision acme" in done.stderr


async def test_retiring_needs_the_name_once_more(organization: Organization) -> None:
    await organization.run("provision", *APPLY)
    key = organization.key
    for words in (("acme",), APPLY, (*APPLY, "--confirm", "acm")):
        done = await organization.run("retire", *words)
        assert done.code == (0 if words == ("acme",) else 1)
        assert "acme" in done.stdout + done.stderr
        assert await organization.ask("/models", key) != 401
        await organization.is_whole()
    done = await organization.run("retire", "acme")
    assert "lost for ever: every file" in done.stderr
    assert "still in the configuration" in done.stderr


async def test_a_tenant_that_is_gone_from_the_configuration_can_be_retired(
    organization: Organization,
) -> None:
    organization.more = "[tenants.beta]\n"
    await organization.run("provision", "beta", "--apply")
    organization.more = ""
    listed = await organization.run("list")
    assert "the configuration has no such tenant" in listed.stdout
    assert (await organization.run("retire", "beta", "--apply", "--confirm", "beta")).code == 0
    assert await organization.projects() == []
    done = await organization.run("retire", "beta", "--apply", "--confirm", "beta")
    assert (done.code, "beta has no project" in done.stdout) == (0, True)


async def test_who_was_retired_can_be_provisioned_anew(organization: Organization) -> None:
    await organization.run("provision", *APPLY)
    first = (await organization.projects())[0]["id"]
    await organization.run("retire", *APPLY, "--confirm", "acme")
    assert (await organization.run("provision", *APPLY)).code == 0
    await organization.is_whole()
    assert (await organization.projects())[0]["id"] != first
