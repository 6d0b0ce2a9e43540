"""A model in a realtime session is judged in every event, and by the upstream's own word."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import pytest_asyncio
import websockets
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from tests.kit.asking import ask
from tests.kit.client import HANDSHAKE, MIB
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.readers import readers
from tests.kit.upstream import ScriptedUpstream
from tests.promises.restricted_models.conftest import RESTRICTED

pytestmark = pytest.mark.asyncio(loop_scope="module")


QUIET = '{"type":"response.create"}'


class TestRealtime:
    EVIL = (
        b'{"type":"session.update","session":{"model":"bad"}}',
        b'{"type":"anything","session":{"type":"realtime","model":"bad"}}',
        rb'{"type":"session.update","s\u0065ssion":{"model":"bad"}}',
        rb'{"type":"session.update","session":{"\u006dodel":"bad"}}',
        b'{"session":{"model":"good"},"session":{"model":"bad"}}',
        b'{"session":{"model":"bad"},"session":{"model":"good"}}',
        b'{"session":{"model":"good","model":"bad"}}',
        b'{"session":{"model":["bad"]}}',
        b'{"session" \n:\t{"x":[{}],"model":\r"bad"}}',
        b'{"session":{"model":"bad"}} trailing',
        b'{"type":"session.update","session":{"audio":{"input":{"transcription":{"language":"de"}}}}}',
        b'{"type":"session.update","session":{"input_audio_transcription":{}}}',
        b'{"type":"session.update","session":{"tools":[{"type":"image_generation"}]}}',
        b'{"type":"response.create","response":{"tools":[{"type":"image_generation"}]}}',
        b'{"type":"session.update","session":{"prompt":{"id":"pmpt_1"}}}',
        rb'{"type":"session.update","session":{"\u0070rompt":{"id":"pmpt_1"}}}',
        '{"session":{"model":"bad"}}'.encode("utf-16"),
    )

    @pytest.mark.parametrize("event", EVIL)
    @pytest.mark.parametrize("how", ["text", "binary", "fragmented"])
    async def test_session_may_not_change_to_another_model(self, echo: Echo, event: bytes, how: str) -> None:
        if how != "binary":
            try:
                event.decode()
            except UnicodeDecodeError:
                how = "binary"
        async with echo.talking() as client:
            await client.send(QUIET)
            if how == "text":
                await client.send(event.decode())
            elif how == "binary":
                await client.send(event)
            else:
                await client.send([event[at : at + 7].decode() for at in range(0, len(event), 7)])
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 5)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        assert closed.value.rcvd.reason
        assert echo.heard == [QUIET]

    async def test_refusal_names_the_model_and_is_logged_as_one(self, echo: Echo) -> None:
        logged = len(echo.gateway.lines.raw)
        async with echo.talking() as client:
            await client.send(self.EVIL[0].decode())
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 5)
            line = (await echo.gateway.lines.wait(logged + 1))[logged]

        assert closed.value.rcvd is not None
        assert "'bad'" in closed.value.rcvd.reason
        assert (line["status"], line["ending"]) == (101, "refused")

    @pytest.mark.parametrize(
        "event",
        [
            '{"type":"session.update","session":{"model":"good-mini"}}',
            '{"type":"session.update","session":{"model":null,"voice":"marin"}}',
            '{"type":"session.update","session":{"instructions":"use the \\"model\\": \\"bad\\""}}',
            '{"type":"conversation.item.create","item":{"content":"model bad"}}',
            '{"type":"x","item":{"model":"bad"}}',
            '{"type":"session.update","session":{"audio":{"input":{"transcription":null}}}}',
            '{"type":"session.update","session":{"audio":{"input":{"transcription":{"model":"good"}}}}}',
            '{"type":"session.update","session":{"model":"good","prompt":{"id":"pmpt_1"}}}',
            '{"type":"session.update","session":{"tools":[{"type":"function","name":"f"},{"type":"mcp"}]}}',
            "ping",
        ],
    )
    async def test_what_sets_no_other_model_passes(self, echo: Echo, event: str) -> None:
        async with echo.talking() as client:
            await client.send(event)
            assert await asyncio.wait_for(client.recv(), 5) == event

        assert echo.heard == [event]

    async def test_large_event_passes_and_large_change_of_session_does_not(self, echo: Echo) -> None:
        sound = '{"type":"input_audio_buffer.append","audio":"' + "A" * 3 * MIB + '"}'
        change = '{"pad":"' + "A" * 3 * MIB + '","session":{"model":"bad"}}'
        async with echo.talking() as client:
            await client.send(sound)
            assert await asyncio.wait_for(client.recv(), 10) == sound
            await client.send(change)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 5)

        assert echo.heard == [sound]
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code in (1008, 1009)

    @pytest.mark.parametrize("size", [100_000, 900_000, 3 * MIB])
    async def test_large_events_keep_their_order_and_are_judged(self, echo: Echo, size: int) -> None:
        pad = "A" * size
        events = [
            f'{{"type":"session.update","pad":"{pad}","session":{{"voice":"v"}}}}',
            '{"type":"x","n":1}',
            '{"type":"x","n":2}',
            f'{{"type":"y","pad":"{pad}"}}',
            '{"type":"x","n":3}',
        ]
        async with echo.talking() as client:
            for event in events:
                await client.send(event)
            assert [await asyncio.wait_for(client.recv(), 10) for _ in events] == events
            for last in (f'{{"pad":"{pad}","session":{{"model":"bad"}}}}', QUIET):
                await client.send(last)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 10)

        assert echo.heard == events
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008

    async def test_event_of_too_much_structure_is_refused(self, echo: Echo) -> None:
        event = '{"model":"good","x":[' + "[]," * 300_000 + "1]}"
        async with echo.talking() as client:
            await client.send(event)
            with pytest.raises(websockets.ConnectionClosed) as closed:
                await asyncio.wait_for(client.recv(), 10)

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert not echo.heard

    async def test_session_lives_on_while_a_large_event_waits_to_be_examined(self, echo: Echo) -> None:
        first = '{"type":"y","pad":"' + "A" * 100_000 + '"}'
        async with echo.talking() as client:
            await client.send(first)
            assert await asyncio.wait_for(client.recv(), 10) == first
            held = readers()
            for pid in held:
                os.kill(pid, signal.SIGSTOP)
            await client.send(first)
            await client.send('{"type":"x"}')
            await asyncio.sleep(1.5)  # several heartbeats, none of which is missed
            assert echo.heard == [first]
            for pid in held:
                os.kill(pid, signal.SIGCONT)
            assert await asyncio.wait_for(client.recv(), 10) == first
            assert await asyncio.wait_for(client.recv(), 10) == '{"type":"x"}'

    async def test_unrestricted_tenant_may_change_as_it_likes(self, echo: Echo) -> None:
        async with echo.talking("free") as client:
            await client.send(self.EVIL[0].decode())
            assert await asyncio.wait_for(client.recv(), 5) == self.EVIL[0].decode()

        assert echo.heard == [self.EVIL[0].decode()]

    @pytest.mark.parametrize("scope", ["unlisted:read", "unlisted:write"])
    async def test_socket_on_an_unlisted_path_is_not_open_to_a_restricted_reader(
        self, restricted: Gateway, upstream: ScriptedUpstream, scope: str
    ) -> None:
        """Nobody knows where its events name their models, and they write."""
        answer = await ask(restricted, "GET", "/v1/responses", headers=HANDSHAKE, scopes=[scope])

        assert answer.status == 403
        assert not upstream.requests


@dataclass
class Echo:
    """A realtime upstream that says back what it hears, and the gateway in front of it."""

    gateway: Gateway
    heard: list[str | bytes]

    @asynccontextmanager
    async def talking(self, tenant: str = "acme") -> AsyncIterator[ClientConnection]:
        """A session with the model `good`."""
        self.heard.clear()
        async with connect(
            f"ws://{self.gateway.host}:{self.gateway.port}/v1/realtime?model=good",
            additional_headers={"Authorization": f"Bearer {self.gateway.credential(tenant=tenant)}"},
            max_size=None,
            compression=None,
        ) as client:
            yield client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def echo() -> AsyncIterator[Echo]:
    """For all sessions of this module."""
    heard: list[str | bytes] = []

    async def listen(connection: ServerConnection) -> None:
        try:
            async for message in connection:
                heard.append(message)
                if message != QUIET:
                    await connection.send(message)
        except websockets.ConnectionClosed:
            pass

    async with serve(listen, "127.0.0.1", 0, max_size=None, compression=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        upstream = {"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-upstream-key"}
        own = {"stored_objects": "own", "upstream": {"api_key": "sk-key-of-free"}}
        tenants = {"acme": RESTRICTED, "free": EVERY_SCOPE | own}
        edge = {"websocket_heartbeat_seconds": 0.3}
        async with running_gateway(upstream=upstream, tenants=tenants, edge=edge) as gateway:
            yield Echo(gateway, heard)
