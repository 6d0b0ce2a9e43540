"""`gateway upstream provision`: says what it would do, does it once, and tells what the configuration needs."""

from __future__ import annotations

import asyncio
import os
import tomllib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from gateway.cli.upstream import steps
from gateway.credentials.private_files import locked
from gateway.operations.table import OperationTable
from gateway.policy.tenants import tenant_policies
from gateway.settings.sources import load
from tests.cli.upstream.organization import (
    ADMIN_KEY,
    PROJECT,
    Organization,
    answering,
    running_organization,
)
from tests.kit import command as commands
from tests.kit.command import run_command
from tests.kit.waiting import until

APPLY = ("acme", "--apply")


async def test_without_apply_it_is_only_said(organization: Organization) -> None:
    done = await organization.run("provision", "acme")
    assert (done.code, done.stderr) == (0, "")
    assert {call.partition(" ")[0] for call in organization.calls} == {"GET"}
    for words in (
        f"1. Make the project {PROJECT}.",
        "max_requests_per_1_minute = 300 of gpt-4o",
        "50.00 USD",
        "expires in 90d",
        f"{organization.key_file} (mode 0600)",
        "Nothing has been changed. To do it: gateway upstream provision acme --apply",
    ):
        assert words in done.stdout
    assert await organization.projects() == []
    assert not organization.key_file.parent.exists()


async def test_twice_is_as_good_as_once(organization: Organization) -> None:
    first = await organization.run("provision", *APPLY)
    assert first.code == 0, first.stderr
    await organization.is_whole()
    key, keys = organization.key, await organization.keys()
    again = await organization.run("provision", *APPLY)
    assert again.code == 0
    assert "acme has all of it" in again.stdout
    assert {call.partition(" ")[0] for call in organization.calls} == {"GET"}
    assert (organization.key, [one["id"] for one in await organization.keys()]) == (
        key,
        [one["id"] for one in keys],
    )
    assert key not in first.stdout + first.stderr + again.stdout + again.stderr


async def test_tells_the_lines_that_the_configuration_lacks_until_it_has_them(
    organization: Organization,
) -> None:
    organization.more = '[tenants.beta]\nupstream.api_key = "sk-common"\n'
    done = await organization.run("provision", *APPLY)
    (project,) = await organization.projects()
    told = tomllib.loads(done.stdout.partition("new ones:")[2].rpartition("\n\n")[0])
    upstream = {"project": project["id"], "api_key": f"file:{organization.key_file}"}
    assert told == {"tenants": {"acme": {"stored_objects": "own", "upstream": upstream}}}
    assert "is not the public API" in done.stdout
    organization.upstream += "".join(f'\n{name} = "{value}"' for name, value in upstream.items())
    done = await organization.run("provision", "acme")
    assert "stored_objects" in done.stdout
    assert "api_key" not in done.stdout
    organization.more += '[tenants.acme]\nstored_objects = "own"\n'
    organization.upstream = organization.upstream  # the table of the tenant comes after that of its upstream
    done = await organization.run("provision", "acme")
    assert "The configuration leads there already." in done.stdout
    policies = tenant_policies(load(organization.configuration(), environ={}), OperationTable.load())
    assert policies["acme"].apart


async def test_at_the_public_api_a_named_project_needs_no_word(tmp_path: Path) -> None:
    """What is told there is what the gateway's own rules ask for."""
    file = tmp_path / "gateway.toml"
    file.write_text(
        '[tenants.acme]\nupstream = { api_key = "a", project = "proj_a" }\n'
        '[tenants.beta]\nupstream = { api_key = "b", project = "proj_b" }\n'
    )
    policies = tenant_policies(load(file, environ={}), OperationTable.load())
    assert all(policy.apart for policy in policies.values())


async def test_the_key_goes_where_the_configuration_has_it_from(organization: Organization) -> None:
    file = organization.folder / "own" / "key of acme"
    organization.upstream += f'\napi_key = "file:{file}"'
    done = await organization.run("provision", *APPLY)
    assert done.code == 0, done.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert await organization.ask("/models", file.read_text().strip()) != 401
    assert not organization.key_file.exists()
    assert "api_key =" not in done.stdout


async def test_a_key_that_opens_something_else_is_not_overwritten(organization: Organization) -> None:
    organization.key_file.parent.mkdir(mode=0o700)
    organization.key_file.write_text("sk-common\n")
    done = await organization.run("provision", *APPLY)
    assert done.code == 1
    assert "it is not overwritten" in done.stderr
    assert organization.key == "sk-common"
    assert await organization.keys() == []
    organization.key_file.write_text("sk-svcacct-simulated-that-was-deleted\n")
    assert (await organization.run("provision", *APPLY)).code == 0
    await organization.is_whole()


async def test_a_file_that_others_have_their_key_from_is_refused(organization: Organization) -> None:
    file = organization.folder / "common.key"
    file.write_text("sk-common")
    organization.upstream += f'\napi_key = "file:{file}"'
    organization.more = f'[tenants.beta.upstream]\napi_key = "file:{file}"\n'
    done = await organization.run("provision", *APPLY)
    assert (done.code, organization.calls) == (1, [])
    assert "is also what tenants.beta.upstream.api_key names" in done.stderr


async def test_a_key_that_another_machine_may_have_is_not_taken_away(organization: Organization) -> None:
    await organization.run("provision", *APPLY)
    key = organization.key
    organization.key_file.unlink()
    done = await organization.run("provision", *APPLY)
    assert done.code == 1
    assert "another machine may have it" in done.stderr
    assert await organization.ask("/models", key) != 401
    organization.key_file.write_text(key)
    organization.key_file.chmod(0o600)
    assert (await organization.run("provision", *APPLY)).code == 0
    await organization.is_whole()


@pytest.mark.parametrize("verb", ["provision", "rotate"])
async def test_a_key_that_another_machine_has_just_made_is_not_taken_for_nobodys(
    organization: Organization, verb: str
) -> None:
    """An upstream may say late that a key is used, and there is a moment in which it is not."""
    await organization.run("provision", *APPLY)
    (project,), (key,) = await organization.projects(), await organization.keys()
    theirs = organization.key
    organization.key_file.unlink()

    async def unused(
        request: web.Request, serve: Callable[[], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if not request.path.endswith("/api_keys"):
            return await serve()
        path = f"/organization/projects/{project['id']}/api_keys"
        page = await organization.ask(f"{path}?limit=100")
        return web.json_response(page | {"data": [one | {"last_used_at": None} for one in page["data"]]})

    organization.fault = unused
    if verb == "provision":
        done = await organization.run("provision", *APPLY)
        assert done.code == 1
        assert f"acme has the key {key['id']}, made " in done.stderr
        assert "not used yet, as far as the upstream says" in done.stderr
        assert await organization.ask("/models", theirs) != 401
        return
    rotating = asyncio.create_task(organization.run("rotate", *APPLY, "--keep", "2s"))
    await until(organization.key_file.exists)
    assert await organization.ask("/models", theirs) != 401
    assert (await rotating).code == 0
    assert await organization.ask("/models", theirs) == 401
    await organization.is_whole()


async def test_a_link_to_the_key_stays_one(organization: Organization) -> None:
    elsewhere = organization.folder / "elsewhere"
    elsewhere.mkdir(mode=0o700)
    organization.key_file.parent.mkdir(mode=0o700)
    organization.key_file.symlink_to(elsewhere / "the key")
    assert (await organization.run("provision", *APPLY)).code == 0
    before = organization.key
    assert (await organization.run("rotate", *APPLY, "--keep", "0")).code == 0
    assert organization.key_file.is_symlink()
    assert organization.key != before
    assert [file.name for file in elsewhere.iterdir()] == ["the key"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, who alone can give files away")
async def test_who_could_read_the_file_can_read_what_takes_its_place(organization: Organization) -> None:
    """The gateway of another user in a folder of root's would go on with the old key, until that is deleted."""
    await organization.run("provision", *APPLY)
    for owner, mode in (((65534, 65533), 0o600), ((0, 65533), 0o640)):
        os.chown(organization.key_file, *owner)
        organization.key_file.chmod(mode)
        assert (await organization.run("rotate", *APPLY, "--keep", "0")).code == 0
        status = organization.key_file.stat()
        assert ((status.st_uid, status.st_gid), status.st_mode & 0o777) == (owner, mode)
    organization.key_file.chmod(0o644)
    done = await organization.run("rotate", "acme")
    assert "every user of this machine can read" in done.stderr
    assert (await organization.run("rotate", *APPLY, "--keep", "0")).code == 0
    assert organization.key_file.stat().st_mode & 0o777 == 0o600


async def test_models_with_the_same_limits_are_one_line(organization: Organization) -> None:
    organization.limits = "[tenants.acme.limits]\nmax_tokens_per_1_minute = 3000000\n"
    await organization.run("provision", *APPLY)
    done = await organization.run("provision", "acme")
    raising = [line for line in done.stdout.splitlines() if "Raise" in line]
    assert raising == [
        "1. Raise the limits of dall-e-3, gpt-4.1, gpt-4o, gpt-4o-mini, gpt-image-1 and 2 more, "
        "if the upstream allows it: max_tokens_per_1_minute from 2000000 to 3000000."
    ]


async def test_a_project_that_the_configuration_names_and_that_is_another_is_said(
    organization: Organization,
) -> None:
    organization.upstream += '\nproject = "proj_by_hand"'
    for words in (("acme",), APPLY, ("acme",)):
        done = await organization.run("provision", *words)
        assert done.code == 0
        assert "the configuration names the project proj_by_hand, which is not the one called" in done.stderr


async def test_a_command_that_waits_for_another_says_so(organization: Organization) -> None:
    await organization.run("provision", *APPLY)
    command = ("upstream", "provision", *APPLY, "--config", str(organization.configuration()))
    with locked(organization.key_file.parent):
        process = await asyncio.create_subprocess_exec(
            *commands.words(command),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=commands.environment({}),
        )
        assert process.stderr is not None
        async with asyncio.timeout(60):
            said = await process.stderr.readline()
        assert b"another command is at work in" in said
    assert await process.wait() == 0


async def test_two_projects_of_one_name_are_refused_until_one_is_archived(organization: Organization) -> None:
    for _ in range(2):
        await organization.ask("/organization/projects", method="POST", name=PROJECT)
    one, other = await organization.projects()
    done = await organization.run("provision", *APPLY)
    assert done.code == 1
    assert "several projects" in done.stderr
    assert one["id"] in done.stderr
    archived = ("acme", "--project", one["id"], "--apply", "--confirm", "acme")
    assert (await organization.run("retire", *archived)).code == 0
    assert (await organization.run("provision", *APPLY)).code == 0
    await organization.is_whole()
    assert [project["id"] for project in await organization.projects()] == [other["id"]]


async def test_its_project_is_found_behind_several_pages_of_others(organization: Organization) -> None:
    await organization.run("provision", *APPLY)
    for number in range(250):
        await organization.ask("/organization/projects", method="POST", name=f"gateway:default:t{number}")
    await organization.ask("/organization/projects", method="POST", name="gateway:another:acme")
    done = await organization.run("provision", *APPLY)
    assert "acme has all of it" in done.stdout
    assert organization.calls.count("GET /v1/organization/projects") == 3


async def test_limits_that_become_others_follow_and_what_cannot_is_said(organization: Organization) -> None:
    await organization.run("provision", *APPLY)
    organization.limits = (
        "[tenants.acme.limits]\nmax_requests_per_1_minute = 2000000\nmax_concurrent_requests = 5\n"
        "max_audio_megabytes_per_1_minute = 10\n"
        '[tenants.acme.limits.models."gpt-4o*"]\nmax_images_per_1_minute = 3\nmax_tokens_per_1_minute = 1000\n'
        '[tenants.acme.limits.models."o9*"]\nmax_requests_per_1_minute = 1\n'
    )
    done = await organization.run("provision", *APPLY)
    assert done.code == 0
    for words in (
        "max_concurrent_requests: the upstream knows no such limit",
        "max_images_per_1_minute of gpt-4o*: the project has it for no such model",
        "limits of o9*: the project has no such model",
        ": as before, the upstream refuses it (400)",
    ):
        assert words in done.stderr
    (project,) = await organization.projects()
    page = await organization.ask(f"/organization/projects/{project['id']}/rate_limits")
    rows = {row["model"]: row for row in page["data"]}
    assert rows["gpt-4o"]["max_requests_per_1_minute"] == 300  # the organization has no such number
    for model in ("gpt-4o", "gpt-4o-mini"):
        assert rows[model]["max_tokens_per_1_minute"] == 1000
    assert rows["whisper-1"]["max_audio_megabytes_per_1_minute"] == 10
    organization.limits = '[tenants.acme.limits.models."gpt-4o"]\nmax_requests_per_1_minute = 400'
    await organization.run("provision", *APPLY)
    page = await organization.ask(f"/organization/projects/{project['id']}/rate_limits")
    assert [row["max_requests_per_1_minute"] for row in page["data"] if row["model"] == "gpt-4o"] == [400]


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "does not accept the admin key (401)"), (403, "is answered 403")],
)
async def test_an_admin_key_that_will_not_do_is_named_and_not_told(
    organization: Organization, status: int, words: str
) -> None:
    organization.fault = answering(status)
    done = await organization.run("provision", *APPLY)
    assert done.code == 1
    assert words in done.stderr
    assert len(organization.calls) == 1


async def test_what_the_upstream_echoes_of_the_admin_key_is_not_told(organization: Organization) -> None:
    await organization.run("provision", "acme")  # writes the configuration
    done = await run_command(
        *("upstream", "provision", "acme", "--config", str(organization.configuration())),
        *("--set", "upstream.admin_api_key=env:OPENAI_ADMIN_KEY"),
        OPENAI_ADMIN_KEY=f"{ADMIN_KEY}-wrong",
    )
    assert done.code == 1
    assert "does not accept" in done.stderr
    assert ADMIN_KEY not in done.stdout + done.stderr


async def test_without_an_admin_key_it_is_said_where_one_belongs(organization: Organization) -> None:
    file = organization.configuration()
    file.write_text(file.read_text().replace("admin_api_key", "# admin_api_key"))
    command = ("upstream", "list", "--config", str(file))
    done = await run_command(*command)
    assert done.code == 1
    assert "OPENAI_ADMIN_KEY" in done.stderr
    assert (await run_command(*command, OPENAI_ADMIN_KEY=ADMIN_KEY)).code == 0


async def test_an_organization_that_is_full_says_so(tmp_path: Path) -> None:
    async with running_organization(tmp_path, most_projects=0) as organization:
        done = await organization.run("provision", *APPLY)
        assert done.code == 1
        assert "has reached its limit of 0 projects" in done.stderr
        assert "2,000 at most" in done.stderr


async def test_an_upstream_that_asks_for_much_patience_is_left_alone(organization: Organization) -> None:
    organization.fault = answering(429, **{"Retry-After": "3600"})
    done = await organization.run("provision", *APPLY)
    assert (done.code, len(organization.calls)) == (1, 1)
    assert "asks to be left alone for 3600 seconds" in done.stderr


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "a:b", "", "-x", "acme\n", "a" * 65, "ünicode", "other"]
)
async def test_a_name_that_is_no_tenants_reaches_nothing(organization: Organization, name: str) -> None:
    for verb in ("provision", "rotate", "retire"):
        done = await organization.run(verb, "--", name)
        assert done.code in (0, 1)
        assert {call.partition(" ")[0] for call in organization.calls} <= {"GET"}
        if (verb, name) != ("retire", "other"):
            assert (done.code, organization.calls) == (1, [])
    assert sorted(path.name for path in organization.folder.iterdir()) == ["admin.key", "gateway.toml"]


async def test_a_folder_that_others_can_write_is_refused_before_there_is_a_key(
    organization: Organization,
) -> None:
    organization.key_file.parent.mkdir()
    organization.key_file.parent.chmod(0o777)
    done = await organization.run("provision", *APPLY)
    assert done.code == 1
    assert "every user of this machine can write" in done.stderr
    assert await organization.keys() == []


async def test_what_root_writes_is_whose_the_folder_is(organization: Organization) -> None:
    owner = 65534 if os.geteuid() == 0 else os.geteuid()
    organization.key_file.parent.mkdir(mode=0o700)
    os.chown(organization.key_file.parent, owner, -1)
    done = await organization.run("provision", *APPLY)
    assert done.code == 0, done.stderr
    assert organization.key_file.stat().st_uid == owner


async def test_an_upstream_that_is_not_there_is_said_not_to_be(tmp_path: Path) -> None:
    async with running_organization(tmp_path) as organization:
        pass
    done = await organization.run("provision", *APPLY)
    assert done.code == 1
    assert "the upstream cannot be asked" in done.stderr
    assert "Run this again" in done.stderr


async def test_a_key_that_is_never_accepted_waits_for_the_next_run(
    organization: Organization, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "ACCEPTED_SECONDS", 0.5)
    await organization.run("provision", *APPLY)
    before = organization.key

    async def unknown(
        request: web.Request, serve: Callable[[], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        refused = request.path.endswith("/models") and before not in request.headers["Authorization"]
        return await (answering(401)(request, serve) if refused else serve())

    organization.fault = unknown
    done = await organization.run("rotate", *APPLY, "--keep", "0")
    assert done.code == 1
    assert "has not accepted the new key" in done.stderr
    assert organization.key == before
    organization.fault = None
    assert "a key waits in" in (await organization.run("list")).stdout
    assert (await organization.run("rotate", *APPLY, "--keep", "0")).code == 0
    await organization.is_whole()
    assert organization.key != before


async def test_a_key_that_cannot_be_written_is_deleted_at_once(organization: Organization) -> None:
    organization.key_file.parent.mkdir(mode=0o700)
    (organization.key_file.parent / ".acme.key.next").mkdir()
    done = await organization.run("provision", *APPLY)
    assert done.code == 1
    assert await organization.accounts() == []


async def test_a_tenant_that_goes_elsewhere_is_not_given_a_project_here(organization: Organization) -> None:
    organization.upstream = 'base_url = "https://other.example.com/v1"'
    done = await organization.run("provision", *APPLY)
    assert (done.code, organization.calls) == (1, [])
    assert "acme goes to https://other.example.com/v1" in done.stderr


async def test_a_tenant_with_an_identity_needs_no_key(organization: Organization) -> None:
    organization.upstream = (
        'base_url = "https://api.openai.com/v1"\n[tenants.acme.upstream.workload_identity]\n'
        'token_file = "/a"\nidentity_provider_id = "b"\nservice_account_id = "c"\n'
    )
    file = organization.configuration()
    file.write_text(file.read_text().replace(organization.base_url, "https://api.openai.com/v1"))
    command = ("upstream", "provision", "acme", "--config", str(file))
    done = await run_command(*command, OPENAI_ADMIN_KEY=ADMIN_KEY)
    assert done.code == 1
    assert "has a workload_identity in the place of a key" in done.stderr
