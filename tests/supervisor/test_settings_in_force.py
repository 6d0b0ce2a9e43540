"""Settings of several workers: gathered once, in force in every worker or in none, also in one that starts later."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from gateway.app.serving import SLACK_SECONDS
from gateway.credentials.key_ring import KeyRing, ensure_ring
from tests.kit.asking import credential_of
from tests.kit.client import JSON, RawClient
from tests.kit.command import RunningCommand, running_command
from tests.kit.jwks import LOGIN, THEIRS, running_jwks_server, their_credential
from tests.kit.redis import free_port
from tests.kit.upstream import ScriptedUpstream, Turn, two_events
from tests.kit.waiting import until

WITHIN_SECONDS = 5.0
ANSWERED, DISABLED = (200, None), (403, "tenant_disabled")


@pytest.fixture
def config(tmp_path: Path, upstream: ScriptedUpstream) -> Path:
    """A configuration of one tenant."""
    upstream.plays(answer_models)
    file = tmp_path / "gateway.toml"
    written(file, upstream)
    return file


@pytest.fixture
def ring(tmp_path: Path) -> KeyRing:
    return ensure_ring(tmp_path / "keys")[0]


def written(
    file: Path, upstream: ScriptedUpstream, tables: str = "", top: str = "drain_seconds = 0.2"
) -> None:
    way = f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "sk-upstream"\n'
    draft = file.with_suffix(".draft")
    draft.write_text(f"{top}\n{way}[tenants.default]\n{tables}\n")
    draft.replace(file)


async def answer_models(turn: Turn) -> None:
    await turn.read_body()
    await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")


@asynccontextmanager
async def two_workers(config: Path, *, port: int = 0) -> AsyncIterator[RunningCommand]:
    async with running_command(
        *("serve", "--workers", "2", "--config", str(config), "--keys-dir", str(config.parent / "keys")),
        *(
            "--listen",
            f"127.0.0.1:{port}",
            "--admin-listen",
            "127.0.0.1:0",
            "--set",
            "drain_notice_seconds=0",
        ),
    ) as process:
        yield process


async def verdicts(process: RunningCommand, credential: str) -> set[tuple[int, str | None]]:
    """What both workers answer, by connections to both."""
    found: set[tuple[int, str | None]] = set()
    asked = Counter[int]()
    already = len(process.stdout)
    while min(asked[0], asked[1]) < 1:
        for _ in range(8):
            async with await RawClient.connect(process.host, process.port, credential) as client:
                answer = await client.request("GET", "/v1/models")
            code = orjson.loads(answer.body)["error"]["code"] if answer.status != 200 else None
            found.add((answer.status, code))
        already += 8
        await until(lambda wanted=already: len(process.stdout) >= wanted)  # type: ignore[misc]
        asked.update(orjson.loads(line)["worker"] for line in process.stdout[already - 8 :])
    return found


async def become(process: RunningCommand, credential: str, wanted: tuple[int, str | None]) -> None:
    """Wait until both workers answer so."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while await verdicts(process, credential) != {wanted}:
            await asyncio.sleep(0.1)


def said(process: RunningCommand, text: str) -> int:
    return sum(text in line for line in process.stderr)


def workers(process: RunningCommand) -> list[int]:
    pid = process.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_a_reload_is_in_force_in_every_worker_and_what_waits_is_said_once(
    config: Path, ring: KeyRing, upstream: ScriptedUpstream
) -> None:
    credential = credential_of(ring)
    async with two_workers(config) as process:
        assert await verdicts(process, credential) == {ANSWERED}
        written(config, upstream, "enabled = false", 'admin_hosts = ["metrics.example"]\ndrain_seconds = 7')
        process.signal(signal.SIGHUP)
        await become(process, credential, DISABLED)
        await asyncio.sleep(0.5)

        assert said(process, "configuration reloaded") in (1, 2)  # that of the signal, and of the change
        [start] = {line for line in process.stderr if "admin_hosts has changed" in line}
        [restart] = {line for line in process.stderr if "drain_seconds has changed" in line}
        assert start.endswith("at the next start")
        assert restart.endswith("(gateway restart)")


async def test_a_worker_that_comes_for_a_dead_one_works_by_what_its_neighbour_works_by(
    config: Path, ring: KeyRing, upstream: ScriptedUpstream
) -> None:
    credential = credential_of(ring)
    async with two_workers(config) as process:
        written(config, upstream, "enabled = false", "allow_uncontained = true")
        await become(process, credential, DISABLED)
        config.write_text("no toml")
        await process.says("not reloaded")
        before = workers(process)
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: len(workers(process)) == 2 and workers(process) != before, 10.0)
        await become(process, credential, DISABLED)

        written(config, upstream, "", "allow_uncontained = true")
        await become(process, credential, ANSWERED)
        await until(lambda: said(process, "allow_uncontained has changed") == 2)


async def test_a_file_that_is_wrong_changes_no_worker_and_is_said_once(
    config: Path, ring: KeyRing, upstream: ScriptedUpstream
) -> None:
    credential = credential_of(ring)
    async with two_workers(config) as process:
        written(config, upstream, 'enabled = false\nscopes = ["nope:read"]\nbogus = 1')
        await process.says("tenants.default.bogus")
        await asyncio.sleep(0.5)

        assert await verdicts(process, credential) == {ANSWERED}
        assert (said(process, "default.bogus"), said(process, "nope:read")) == (1, 1)


async def test_limits_that_workers_cannot_keep_together_are_taken_by_none(
    config: Path, ring: KeyRing, upstream: ScriptedUpstream
) -> None:
    credential = credential_of(ring)
    async with two_workers(config) as process:
        written(
            config,
            upstream,
            "enabled = false\nlimits.max_requests_per_1_minute = 5",
            'redis_url = "redis://127.0.0.1:1"',
        )
        await process.says("not reloaded")

        assert await verdicts(process, credential) == {ANSWERED}


async def test_a_worker_that_did_not_turn_during_a_reload_takes_it_once_it_turns(
    config: Path, ring: KeyRing, upstream: ScriptedUpstream
) -> None:
    credential = credential_of(ring)
    async with two_workers(config) as process:
        stopped = workers(process)[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            await asyncio.sleep(1.5)  # until it is known
            written(config, upstream, "enabled = false")
            await process.says("configuration reloaded")
        finally:
            os.kill(stopped, signal.SIGCONT)
        await become(process, credential, DISABLED)
        assert stopped in workers(process)


async def test_a_restart_takes_what_waited_and_refuses_what_cannot_be_in_force(
    config: Path, ring: KeyRing, upstream: ScriptedUpstream
) -> None:
    credential, port = credential_of(ring), free_port()
    async with two_workers(config, port=port) as process:
        before = workers(process)
        text = config.read_text()
        config.write_text(text.replace(upstream.base_url, f"http://127.0.0.1:{port}/v1"))
        process.signal(signal.SIGUSR2)
        await process.says("restart failed", within_seconds=20.0)
        assert said(process, "is this gateway itself")
        assert await verdicts(process, credential) == {ANSWERED}
        assert workers(process) == before

        async with ScriptedUpstream() as other:
            other.plays(answer_models)
            config.write_text(text.replace(upstream.base_url, other.base_url))
            await process.says("upstream has changed")
            process.signal(signal.SIGUSR2)
            await process.says("all workers have been replaced", within_seconds=30.0)
            seen = len(upstream.requests)
            assert await verdicts(process, credential) == {ANSWERED}
            assert len(upstream.requests) == seen
            assert other.requests


async def test_after_a_restart_a_stop_waits_as_long_as_is_configured_now(
    config: Path, ring: KeyRing, upstream: ScriptedUpstream
) -> None:
    upstream.plays(two_events)
    async with two_workers(config) as process:
        written(config, upstream, "", "drain_seconds = 60")
        await process.says("drain_seconds has changed")
        process.signal(signal.SIGUSR2)
        await process.says("all workers have been replaced", within_seconds=30.0)
        async with await RawClient.connect(process.host, process.port, credential_of(ring)) as client:
            await client.send(client.request_bytes("POST", "/v1/chat/completions", b"{}", headers=JSON))
            await client.read_head()
            assert await client.read_chunk() == b"data: 1\n\n"
            process.signal(signal.SIGTERM)
            await asyncio.sleep(SLACK_SECONDS + 1.5)
            upstream.gate("go on").set()
            assert await client.read_chunk() == b"data: 2\n\n"
            assert await client.read_chunk() == b""
        assert await process.exit_code() == 0


async def test_no_worker_opens_a_file_of_the_configuration(
    config: Path, ring: KeyRing, upstream: ScriptedUpstream
) -> None:
    """What is in force stays so when those files are gone, also for who starts then."""
    secret, keys = config.parent / "secret", config.parent / "set.json"
    secret.write_text("sk-from-a-file")
    keys.write_bytes(orjson.dumps({"keys": [THEIRS.public_jwk()]}))
    text = config.read_text().replace('"sk-upstream"', f'"file:{secret}"')
    config.write_text(
        f'{text}[issuers.login]\nissuer = "{LOGIN}"\naudience = "gateway"\njwks_file = "{keys}"\n'
        'tenant = "default"\nscopes = ["*"]\n'
    )
    async with two_workers(config) as process:
        for file in (config, secret, keys):
            file.unlink()
        await process.says("not reloaded")
        before = workers(process)
        os.kill(before[1], signal.SIGKILL)
        await until(lambda: len(workers(process)) == 2 and workers(process) != before, 10.0)
        assert await verdicts(process, their_credential()) == {ANSWERED}

    assert {sent.get("authorization") for sent in upstream.requests} == {"Bearer sk-from-a-file"}


async def test_keys_of_another_issuer_are_fetched_once_for_all_workers(
    config: Path, ring: KeyRing, upstream: ScriptedUpstream
) -> None:
    async with running_jwks_server() as server:
        server.publish(THEIRS)
        config.write_text(
            f'{config.read_text()}[issuers.login]\nissuer = "{LOGIN}"\naudience = "gateway"\n'
            f'jwks_url = "{server.url}"\ntenant = "default"\nscopes = ["*"]\n'
        )
        async with two_workers(config) as process:
            assert await verdicts(process, their_credential()) == {ANSWERED}
            before = workers(process)
            os.kill(before[0], signal.SIGKILL)
            await until(lambda: len(workers(process)) == 2 and workers(process) != before, 10.0)
            assert await verdicts(process, their_credential()) == {ANSWERED}
            async with await RawClient.connect("127.0.0.1", process.admin_port, "none") as client:
                page = (await client.request("GET", "/metrics")).body.decode()

        assert len(server.requests) == 1
        assert re.findall(r"^gateway_jwks_fetches_total.*$", page, re.MULTILINE) == [
            'gateway_jwks_fetches_total{issuer="login",result="new"} 1.0'
        ]
