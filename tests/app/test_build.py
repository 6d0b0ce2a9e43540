"""All wiring, and the end of a process: what runs may finish, what would outlast it is told to go."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import orjson
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from gateway.app.build import build_app
from gateway.app.process import make_runner
from gateway.credentials.key_ring import KeyRing, ensure_ring
from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load
from tests.kit.asking import ask, credential_of
from tests.kit.client import CHAT, JSON, RawClient
from tests.kit.command import RunningCommand, running_command
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.upstream import ScriptedUpstream, two_events
from tests.kit.waiting import until

ANYWHERE = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")


async def begun(client: RawClient) -> None:
    """Read the first event of a stream."""
    await client.send(client.request_bytes("POST", CHAT, b"{}", headers=JSON))
    assert (await client.read_head()).status == 200
    assert await client.read_chunk() == b"data: 1\n\n"


class TestDrain:
    async def test_waits_for_a_running_stream_and_no_longer(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(two_events)
        client = await gateway.connect()
        await begun(client)
        draining = asyncio.create_task(gateway.app.drain(30))
        await asyncio.sleep(0.2)
        assert not draining.done()

        upstream.gate("go on").set()
        assert await client.read_chunk() == b"data: 2\n\n"
        assert await client.read_chunk() == b""
        await asyncio.wait_for(draining, 2)

        (line,) = await gateway.lines.wait(1)
        assert line["ending"] == "complete"

    async def test_gives_up_when_its_time_is_over(self, gateway: Gateway, upstream: ScriptedUpstream) -> None:
        upstream.plays(two_events)
        client = await gateway.connect()
        await begun(client)
        began = time.monotonic()

        await gateway.app.drain(0.3)

        assert 0.25 < time.monotonic() - began < 2
        upstream.gate("go on").set()
        assert await client.read_chunk() == b"data: 2\n\n"

    async def test_says_1001_to_both_sides_of_a_websocket_when_its_time_is_over(self) -> None:
        async with talking() as (client, heard, gateway):
            draining = asyncio.create_task(gateway.app.drain(0.5))
            pong = await client.ping()
            await asyncio.wait_for(pong, 0.4)
            await draining
            ending = asyncio.create_task(gateway.runner.cleanup())
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 5)
            await asyncio.wait_for(ending, 5)
            (line,) = await gateway.lines.wait(1)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert "restart" in closed.value.rcvd.reason
        assert heard == [1001]
        assert (line["status"], line["ending"]) == (101, "drained")

    async def test_what_is_cut_when_the_process_goes_on_without_it_is_logged_as_drained(
        self, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(two_events)
        way = {"base_url": upstream.base_url, "api_key": "sk-upstream-key"}
        async with running_gateway(upstream=way) as gateway:
            client = await RawClient.connect(gateway.host, gateway.port, gateway.credential())
            await begun(client)
            await gateway.app.drain(0)
            lines = gateway.lines
        (line,) = [orjson.loads(raw) for raw in lines.raw]
        await client.close()

        assert (line["status"], line["ending"]) == (200, "drained")


@asynccontextmanager
async def talking() -> AsyncIterator[tuple[ClientConnection, list[int | None], Gateway]]:
    """A realtime session; the close codes that its upstream hears are noted."""
    heard: list[int | None] = []

    async def listen(connection: ServerConnection) -> None:
        async for _ in connection:
            pass
        heard.append(connection.close_code)

    async with serve(listen, "127.0.0.1", 0, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        way = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-upstream-key"}
        async with (
            running_gateway(upstream=way) as gateway,
            connect(
                f"ws://{gateway.host}:{gateway.port}/v1/realtime?model=m",
                additional_headers={"Authorization": f"Bearer {gateway.credential()}"},
                compression=None,
            ) as client,
        ):
            yield client, heard, gateway


@dataclass
class Process:
    """`gateway serve`, and a credential for it."""

    command: RunningCommand
    credential: str

    async def connect(self) -> RawClient:
        return await RawClient.connect(self.command.host, self.command.port, self.credential)

    async def ready(self) -> int:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.command.admin_port}/readyz") as answer,
        ):
            return answer.status


@asynccontextmanager
async def serving(directory: Path, base_url: str, *more: str) -> AsyncIterator[Process]:
    ring, _ = ensure_ring(directory / "keys")
    credential = credential_of(ring)
    keys = ("--keys-dir", str(directory / "keys"))
    async with running_command("serve", *ANYWHERE, *keys, "--upstream", base_url, *more) as command:
        yield Process(command, credential)


class TestProcess:
    async def test_sigterm_finishes_a_stream_turns_unready_and_says_1001_to_websockets(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        """A stream and a WebSocket are open, each by an upstream of its own."""
        upstream.plays(two_events)
        heard: list[int | None] = []

        async def listen(connection: ServerConnection) -> None:
            async for _ in connection:
                pass
            heard.append(connection.close_code)

        async with serve(listen, "127.0.0.1", 0, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            talker = credential_of(ensure_ring(tmp_path / "keys")[0], tenant="talker")
            table = f'tenants.talker = {{ upstream = {{ base_url = "http://127.0.0.1:{port}/v1" }} }}'
            config = tmp_path / "gateway.toml"
            config.write_text(f"drain_notice_seconds = 0.3\ndrain_seconds = 2\n{table}\n[tenants.default]\n")
            async with (
                serving(tmp_path, upstream.base_url, "--config", str(config)) as process,
                await process.connect() as client,
                connect(
                    f"ws://{process.command.host}:{process.command.port}/v1/realtime?model=m",
                    additional_headers={"Authorization": f"Bearer {talker}"},
                    compression=None,
                ) as socket,
            ):
                await begun(client)
                assert await process.ready() == 200
                process.command.signal(signal.SIGTERM)
                await process.command.says("stopping")
                assert await process.ready() == 503
                async with await process.connect() as late:
                    answer = await late.request("GET", "/gateway/me")
                    assert answer.status == 200, "load balancers have not noticed yet"

                await asyncio.sleep(0.5)
                upstream.gate("go on").set()
                assert await client.read_chunk() == b"data: 2\n\n"
                assert await client.read_chunk() == b""
                await asyncio.wait_for(await socket.ping(), 1)
                with pytest.raises(websockets.ConnectionClosed) as closed:
                    await asyncio.wait_for(socket.recv(), 5)
                assert await process.command.exit_code() == 0

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert heard == [1001]
        endings = {line["operation"]: line["ending"] for line in map(orjson.loads, process.command.stdout)}
        assert endings == {
            "gatewayMe": "complete",
            "connectRealtime": "drained",
            "createChatCompletion": "complete",
        }

    @pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
    async def test_second_signal_ends_it_at_once(
        self, tmp_path: Path, upstream: ScriptedUpstream, first: signal.Signals
    ) -> None:
        upstream.plays(two_events)
        async with serving(tmp_path, upstream.base_url) as process, await process.connect() as client:
            await begun(client)
            process.command.signal(first)
            await process.command.says("signal again")
            began = time.monotonic()
            process.command.signal(signal.SIGTERM)

            assert await process.command.exit_code(5) == 0
            assert time.monotonic() - began < 2
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.read_chunk()

        assert [orjson.loads(line)["ending"] for line in process.command.stdout] == ["drained"]


class TestWiring:
    def test_what_only_shows_when_things_are_put_together_is_a_problem(self) -> None:
        settings = load(environ={})
        tenant = settings.tenants["default"].model_copy(update={"scopes": ("nope:read",)})
        broken = settings.model_copy(update={"tenants": {"default": tenant}})

        with pytest.raises(SettingsInvalid, match=r"tenants\.default\.scopes"):
            build_app(broken, ring=KeyRing.ephemeral())

    async def test_gateway_that_has_not_started_is_not_ready_and_one_that_has_is(self) -> None:
        app = build_app(load(environ={}), ring=KeyRing.ephemeral())
        assert not app.health.ready().ok
        runner = make_runner(app)

        await runner.setup()
        assert app.health.ready().ok
        await runner.cleanup()

    async def test_gateway_that_never_served_anything_ends_in_no_time(self) -> None:
        runner = make_runner(build_app(load(environ={}), ring=KeyRing.ephemeral()))
        await runner.setup()
        began = time.monotonic()

        await runner.cleanup()

        assert time.monotonic() - began < 1.5

    async def test_two_gateways_in_one_process_share_nothing(self, upstream: ScriptedUpstream) -> None:
        way = {"base_url": upstream.base_url, "api_key": "sk-upstream-key"}
        limits = {"acme": {"scopes": ["*"], "limits": {"max_requests_per_1_minute": 1}}}
        async with (
            running_gateway(upstream=way, tenants=limits) as one,
            running_gateway(upstream=way, tenants=limits) as other,
        ):
            statuses = [
                (await ask(gateway, "GET", "/v1/models")).status for gateway in (one, other, one, other)
            ]
            refused = await ask(one, "GET", "/v1/models", credential=other.credential())

        assert statuses == [200, 200, 429, 429]
        assert refused.status == 401
        assert not re.search(r"in_flight\{.*\} [1-9]", one.metrics())

    async def test_gauges_show_what_is_open_now(self, gateway: Gateway, upstream: ScriptedUpstream) -> None:
        upstream.plays(two_events)
        client = await gateway.connect()
        await begun(client)

        assert gateway.metric('gateway_exchanges_in_flight{tenant="acme"}') == 1
        assert gateway.metric("gateway_client_connections") == 1
        assert gateway.metric('gateway_upstream_connections{state="busy",upstream="default"}') == 1
        upstream.gate("go on").set()
        await client.read_chunk()
        await client.read_chunk()
        await gateway.lines.wait(1)
        assert gateway.metric('gateway_exchanges_in_flight{tenant="acme"}') == 0
        assert gateway.metric('gateway_upstream_connections{state="busy",upstream="default"}') == 0
        await client.close()
        await until(lambda: not gateway.metric("gateway_client_connections"), within_seconds=2)
