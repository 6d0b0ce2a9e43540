"""The gateway as deploy/kubernetes starts it: its own arguments and variables, probes, mounted folders, and the end."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import orjson
import pytest

from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Key
from gateway.settings.sources import load
from tests.kit.client import RawClient
from tests.kit.command import RunningCommand, run_command, running_command
from tests.kit.pod import Pod, container, objects
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import comes_to

NOTICE_SECONDS = 1.0
FOLLOWED_WITHIN_SECONDS = 4.0


@pytest.fixture
def key() -> Key:
    return Key.generate("EdDSA", "first")


@pytest.fixture
def pod(tmp_path: Path, key: Key, upstream: ScriptedUpstream, redis: RedisServer) -> Pod:
    """A pod with its volumes, before it starts; only addresses and the notice are the test's."""
    mounted = Pod(
        tmp_path,
        GATEWAY_LISTEN="127.0.0.1:0",
        GATEWAY_ADMIN_LISTEN="127.0.0.1:0",
        GATEWAY_DRAIN_NOTICE_SECONDS=str(NOTICE_SECONDS),
        GATEWAY_UPSTREAM__BASE_URL=upstream.base_url,
    )
    mounted.mount("config", objects()["ConfigMap/gateway"]["data"])
    mounted.mount("secrets", {"upstream-key": "sk-1\n", "redis-url": f"{redis.url}\n"})
    mounted.mount("keys", {"first.json": orjson.dumps(key.jwk()).decode()})
    return mounted


@asynccontextmanager
async def started(pod: Pod) -> AsyncIterator[RunningCommand]:
    async with running_command(*pod.arguments, **pod.environ) as command:
        yield command


async def probe(command: RunningCommand, name: str) -> int:
    """What one of the manifest's probes is answered. The kubelet asks by address."""
    path = container()[name]["httpGet"]["path"]
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{command.admin_port}{path}") as answer,
    ):
        return answer.status


def credential(key: Key) -> str:
    return issue(
        KeyRing([key]),
        load(environ={}).credentials,
        tenant="default",
        subject="tester",
        scopes=frozenset({"models:read"}),
        ttl_seconds=600,
    ).credential


async def models(command: RunningCommand, credential: str) -> int:
    async with await RawClient.connect(command.host, command.port, credential) as client:
        return (await client.request("GET", "/v1/models")).status


async def test_probes_are_answered_and_credentials_of_the_mounted_keys_count(
    pod: Pod, key: Key, upstream: ScriptedUpstream
) -> None:
    async with started(pod) as command:
        for name in ("startupProbe", "livenessProbe"):
            assert await probe(command, name) == 200
        await comes_to(200, lambda: probe(command, "readinessProbe"))
        assert await models(command, credential(key)) == 200
    assert upstream.requests[-1].get("authorization") == "Bearer sk-1"
    assert not [line for line in command.stderr if "warning" in line.lower()], command.stderr


async def test_secrets_keys_and_tenants_are_followed_without_a_start(
    pod: Pod, key: Key, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    second = Key.generate("EdDSA", "second")
    async with started(pod) as command:
        assert await models(command, credential(key)) == 200
        assert await models(command, credential(second)) == 401

        pod.mount("keys", {f"{each.kid}.json": orjson.dumps(each.jwk()).decode() for each in (key, second)})
        await comes_to(200, lambda: models(command, credential(second)), FOLLOWED_WITHIN_SECONDS)

        pod.mount("secrets", {"upstream-key": "sk-2\n", "redis-url": f"{redis.url}\n"})

        async def sent() -> str:
            await models(command, credential(key))
            return upstream.requests[-1].get("authorization") or ""

        await comes_to("Bearer sk-2", sent, FOLLOWED_WITHIN_SECONDS)

        pod.mount("config", {"gateway.toml": "[tenants.default]\nenabled = false\n"})
        await comes_to(403, lambda: models(command, credential(key)), FOLLOWED_WITHIN_SECONDS)


async def test_at_its_end_a_pod_is_not_ready_but_serves_until_everybody_has_noticed(
    pod: Pod, key: Key
) -> None:
    async with started(pod) as command:
        await comes_to(200, lambda: probe(command, "readinessProbe"))
        command.signal(signal.SIGTERM)
        await comes_to(503, lambda: probe(command, "readinessProbe"), NOTICE_SECONDS)
        assert await probe(command, "livenessProbe") == 200
        assert await models(command, credential(key)) == 200
        assert await command.exit_code() == 0


async def test_issuing_a_credential_writes_nothing_beside_the_keys(pod: Pod, key: Key) -> None:
    """kubectl exec deployment/gateway -- gateway credential issue …"""
    _, *options = pod.arguments
    what = ("--tenant", "default", "--subject", "job", "--scope", "models:read")
    async with started(pod) as command:
        before = sorted(pod.folder("keys").iterdir())
        done = await run_command("credential", "issue", *options, *what, **pod.environ)
        assert done.code == 0, done.stderr
        assert await models(command, done.stdout.split()[-1]) == 200
        assert sorted(pod.folder("keys").iterdir()) == before
