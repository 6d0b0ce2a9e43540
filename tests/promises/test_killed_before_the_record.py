"""A gateway that dies between the upstream's answer and the record: nobody has what was made, and it can be found."""

from __future__ import annotations

import signal
from pathlib import Path

from gateway.objects.redis_objects import RedisObjects
from gateway.objects.store import Named, Scope
from gateway.policy.accounts import storage_of
from tests.kit.client import JSON, RawClient
from tests.kit.command import running_command
from tests.kit.faults.fault_proxy import FaultProxy
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import until

MADE = b'{"id":"vs_1","object":"vector_store"}'
SETTINGS = """
redis_url = "redis://127.0.0.1:{port}/0"
[upstream]
base_url = "{base_url}"
api_key = "sk-shared-by-both"
model_list_seconds = 0
[tenants.default]
scopes = ["*"]
[tenants.another]
scopes = ["*"]
"""


async def test_what_was_made_by_a_gateway_that_is_killed_is_nobodys_and_its_intent_is_left(
    tmp_path: Path, redis: RedisServer
) -> None:
    async with ScriptedUpstream() as upstream, FaultProxy(redis.port) as link:

        async def script(turn: Turn) -> None:
            await turn.read_body()
            turn.open("asked")
            await turn.wait_for("answer")
            await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(MADE), MADE))
            turn.open("answered")

        upstream.plays(script)
        file = tmp_path / "gateway.toml"
        file.write_text(SETTINGS.format(port=link.port, base_url=upstream.base_url))
        where = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--workers", "1")
        serve = ("serve", "--config", str(file), "--keys-dir", str(tmp_path / "keys"), *where)
        async with running_command(*serve) as gateway:
            credential = gateway.first_credential
            assert credential is not None
            async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
                await client.send(client.request_bytes("POST", "/v1/vector_stores", b"{}", headers=JSON))
                await upstream.passed("asked")
                link.set("up", swallow=True)
                upstream.gate("answer").set()
                await upstream.passed("answered")
                await until(lambda: any(b"vs_1" in piece for piece in link.swallowed))
                gateway.signal(signal.SIGKILL)
                await gateway.exit_code()
                assert await client.reader.read() == b""

        link.set("up", swallow=False)
        upstream.gate("answer").clear()
        storage, store = storage_of(upstream.base_url), RedisObjects(redis.url)
        for tenant in ("default", "another"):
            assert await store.look(Scope(storage, tenant), [Named("vector_store", "vs_1")]) == [False]
        left = [intent async for intent in store.intents(Scope(storage, "default"))]
        assert [intent.kind for intent in left] == ["vector_store"]
        await store.close()

        heard = len(upstream.requests)
        async with (
            running_command(*serve) as gateway,
            await RawClient.connect(gateway.host, gateway.port, credential) as client,
        ):
            assert (await client.request("GET", "/v1/vector_stores/vs_1")).status == 404
            assert len(upstream.requests) == heard
