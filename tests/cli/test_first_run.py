"""The first start makes a key and a credential, tells those who should know, and never does it behind others' backs."""

from __future__ import annotations

import re
import shutil
import socket
import stat
from pathlib import Path

import pytest

from tests.kit.client import RawClient
from tests.kit.command import Completed, run_command, running_command
from tests.kit.redis import RedisServer
from tests.kit.terminal import on_terminal
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import comes_to

CREDENTIAL = re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+")
ANYWHERE = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--set", "drain_notice_seconds=0")


class Place:
    """Where a gateway has its keys, and what it shares."""

    def __init__(self, folder: Path, upstream: ScriptedUpstream, redis: RedisServer) -> None:
        self.keys = folder / "keys"
        self.file = self.keys / "first-credential.jwt"
        self.serving = ("serve", *ANYWHERE, "--upstream", upstream.base_url, *self.shared(redis))
        self._redis = redis

    def shared(self, redis: RedisServer) -> tuple[str, ...]:
        return ("--keys-dir", str(self.keys), "--set", f"redis_url={redis.url}")

    async def run(self, *words: str) -> Completed:
        return await run_command(*words, *self.shared(self._redis))

    async def status(self, host: str, port: int, credential: str) -> int:
        async with await RawClient.connect(host, port, credential) as client:
            return (await client.request("GET", "/gateway/me")).status


@pytest.fixture
def place(tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer) -> Place:
    return Place(tmp_path, upstream, redis)


async def test_first_credential_goes_to_a_file_of_its_owners_where_standard_error_is_no_terminal(
    place: Place,
) -> None:
    async with running_command(*place.serving) as gateway:
        credential = place.file.read_text().strip()
        assert await place.status(gateway.host, gateway.port, credential) == 200
    said = "\n".join(gateway.stderr)
    assert str(place.file) in said
    assert not CREDENTIAL.search(said) and credential not in said
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o600
    before = place.file.read_bytes()
    async with running_command(*place.serving) as again:
        assert await place.status(again.host, again.port, credential) == 200
    assert again.first_credential is None and place.file.read_bytes() == before


async def test_first_credential_that_cannot_be_kept_is_on_no_register(place: Place) -> None:
    place.file.mkdir(parents=True, mode=0o700)
    place.keys.chmod(0o700)
    async with running_command(*place.serving) as gateway:
        listed = (await place.run("credential", "list")).stdout.splitlines()
    assert len(listed) == 1
    assert any("it is lost, and `gateway credential issue` makes another" in line for line in gateway.stderr)


async def test_first_credential_is_on_the_register_and_can_be_revoked(place: Place) -> None:
    async with running_command(*place.serving) as gateway:
        credential = gateway.first_credential
        assert credential is not None
        listed = (await place.run("credential", "list")).stdout.splitlines()
        assert len(listed) == 2
        jti, tenant, subject = listed[1].split()[:3]
        assert (tenant, subject) == ("default", "first-run") and jti in "\n".join(gateway.stderr)
        assert (await place.run("credential", "revoke", "--jti", jti)).code == 0
        await comes_to(401, lambda: place.status(gateway.host, gateway.port, credential))
        assert "revoked" in (await place.run("credential", "list")).stdout


async def test_first_credential_can_be_done_without(place: Place) -> None:
    async with running_command(*place.serving, "--no-first-credential") as gateway:
        assert gateway.first_credential is None
    assert not CREDENTIAL.search("\n".join(gateway.stderr))
    assert not place.file.exists()
    assert len((await place.run("credential", "list")).stdout.splitlines()) == 1


async def test_first_credential_is_shown_on_a_terminal_and_kept_nowhere(place: Place) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that it ends by itself
        screen = await on_terminal(*place.serving, "--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert screen.code == 1
    [credential] = CREDENTIAL.findall(screen.text)
    assert not place.file.exists()
    inspected = await run_command(
        "credential", "inspect", "--keys-dir", str(place.keys), GATEWAY_CREDENTIAL=credential
    )
    assert inspected.code == 0


@pytest.mark.parametrize(
    "command", [("serve", *ANYWHERE), ("credential", "issue", "--tenant", "default", "--scope", "*")]
)
@pytest.mark.parametrize("emptied", [True, False], ids=["empty folder", "no folder"])
async def test_no_key_is_made_where_credentials_are_registered_that_it_would_refuse(
    place: Place, command: tuple[str, ...], emptied: bool, upstream: ScriptedUpstream
) -> None:
    issued = await place.run("credential", "issue", "--tenant", "default", "--scope", "models:read")
    assert issued.code == 0
    aside = place.keys.parent / "aside"
    place.keys.rename(aside)
    if emptied:
        place.keys.mkdir(mode=0o700)

    refused = await place.run(*command, "--upstream", upstream.base_url)

    assert refused.code == 1 and refused.stdout == ""
    assert (
        "keys_dir" in refused.stderr
        and "not expired: 1," in refused.stderr
        and "keys generate" in refused.stderr
    )
    assert not list(place.keys.glob("*"))
    if emptied:
        place.keys.rmdir()
    shutil.copytree(aside, place.keys)
    assert (await place.run("credential", "issue", "--tenant", "default", "--scope", "models:read")).code == 0


async def test_beginning_anew_without_the_keys_of_before_takes_a_word(place: Place) -> None:
    await place.run("credential", "issue", "--tenant", "default", "--scope", "models:read")
    shutil.rmtree(place.keys)
    assert (await place.run("keys", "generate")).code == 0
    async with running_command(*place.serving) as gateway:
        assert gateway.first_credential is None
