"""A gateway that is killed before it hears what was made upstream leaves that to nobody, and the operator is told."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path

import aiohttp
import orjson
import pytest

from gateway.credentials.key_ring import ensure_ring
from tests.kit.asking import credential_of, form, running_simulator
from tests.kit.client import FORM, JSON, RawAnswer, RawClient
from tests.kit.command import RunningCommand, run_command, running_command
from tests.kit.faults.fault_proxy import FaultProxy
from tests.kit.one_account import ACCOUNT_KEY
from tests.kit.redis import RedisServer
from tests.kit.waiting import found, until


class Asks:
    """Asks a gateway that runs as a process of its own."""

    def __init__(self, running: RunningCommand, keys_dir: Path) -> None:
        self._running = running
        self._ring = ensure_ring(keys_dir)[0]

    async def __call__(
        self, tenant: str, method: str, target: str, body: bytes | None = None, headers: str = ""
    ) -> RawAnswer:
        credential = credential_of(self._ring, tenant=tenant)
        async with await RawClient.connect(self._running.host, self._running.port, credential) as client:
            return await client.request(method, target, body, headers=headers or (JSON if body else ""))


async def upstreams_own(base_url: str, path: str) -> Iterable[str]:
    """The ids that the upstream itself lists."""
    key = {"Authorization": f"Bearer {ACCOUNT_KEY}"}
    async with aiohttp.ClientSession(headers=key) as upstream, upstream.get(base_url + path) as answer:
        return [one["id"] for one in (await answer.json())["data"]]


async def test_what_a_killed_gateway_had_made_is_reached_by_nobody_and_named_to_the_operator(
    redis: RedisServer, tmp_path: Path
) -> None:
    keys_dir, config = tmp_path / "keys", tmp_path / "gateway.toml"
    ensure_ring(keys_dir)
    async with running_simulator(keys=[ACCOUNT_KEY]) as simulator:
        port = int(simulator.base_url.rpartition(":")[2].partition("/")[0])
        async with FaultProxy(port) as way:
            config.write_text(
                f'redis_url = "{redis.url}"\n[upstream]\nbase_url = "http://127.0.0.1:{way.port}/v1"\n'
                f'api_key = "{ACCOUNT_KEY}"\n[tenants.a]\nscopes = ["*"]\n[tenants.b]\nscopes = ["*"]\n'
            )
            serve = ("serve", "--config", str(config), "--keys-dir", str(keys_dir), "--listen", "127.0.0.1:0",
                     "--admin-listen", "127.0.0.1:0")  # fmt: skip
            async with running_command(*serve) as running:
                ask = Asks(running, keys_dir)
                kept = await ask("a", "POST", "/v1/files", form(("purpose", b"batch"), ("file", b"{}")), FORM)
                assert kept.status == 200, kept
                way.set("down", swallow=True)
                asking = asyncio.create_task(ask("a", "POST", "/v1/vector_stores", b'{"name":"of a"}'))
                await until(lambda: ("POST", "/v1/vector_stores") in simulator.asked)
                running.signal(signal.SIGKILL)
                await running.exit_code()
                with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                    await asking
            way.set("down", swallow=False)
            [made] = await upstreams_own(simulator.base_url, "/vector_stores")
            async with running_command(*serve) as running:
                ask = Asks(running, keys_dir)
                for tenant in ("a", "b"):
                    assert (await ask(tenant, "GET", f"/v1/vector_stores/{made}")).status == 404
                    assert orjson.loads((await ask(tenant, "GET", "/v1/vector_stores")).body)["data"] == []
                orphans = ("objects", "orphans", "--older-than", "1s", "--json", "--config", str(config))

                async def named() -> str:
                    said = await run_command(*orphans)
                    return said.stdout if said.code == 1 else ""

                [orphan] = orjson.loads(await found(named))
                assert [one["id"] for one in orphan["found"]] == [made]
                adopted = await run_command(
                    "objects", "adopt", "a", "vector_store", made, "--config", str(config)
                )
                assert adopted.code == 0, adopted
                assert (await ask("a", "GET", f"/v1/vector_stores/{made}")).status == 200
                assert (await ask("b", "GET", f"/v1/vector_stores/{made}")).status == 404
                # What had been recorded before is whose it was.
                file_id = orjson.loads(kept.body)["id"]
                assert (await ask("a", "GET", f"/v1/files/{file_id}")).status == 200
                assert (await ask("b", "GET", f"/v1/files/{file_id}")).status == 404
