"""A gateway that goes loses nobody: what it has let in is answered, what runs may end, and then it is gone."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from tests.kit.asking import assert_refused
from tests.kit.client import CHAT, HANDSHAKE, JSON, PLAIN, QUESTION, RawAnswer, RawClient
from tests.kit.tls import TlsUpstream
from tests.kit.upstream import OK, ScriptedUpstream, Turn, answer_ok, two_events
from tests.kit.waiting import until
from tests.kit.websocket import CLOSE, TEXT, Frame, accepted, close_frame, frame, read_frame, read_to_the_end
from tests.promises.going import WAYS, Going, Leaving, Stopping, going

both_ways = pytest.mark.parametrize("way", WAYS)


def way_to(upstream: ScriptedUpstream) -> dict[str, Any]:
    """A gateway's settings of its upstream."""
    if isinstance(upstream, TlsUpstream):
        return upstream.settings
    return {"base_url": upstream.base_url, "api_key": "sk-upstream-key"}


async def asks(client: RawClient) -> RawAnswer:
    return await client.request("GET", "/v1/models")


async def idle(gateway: Going, count: int) -> list[RawClient]:
    """Connections that have been answered, and told that they may ask again."""
    clients = [await gateway.connect() for _ in range(count)]
    answers = await asyncio.gather(*map(asks, clients))
    assert all(answer.get("connection") is None for answer in answers)
    return clients


class AskAtOnce:
    """Is due just before the connections of these clients: they ask, and the turn of the loop goes on for a while."""

    due_step: int | None = None

    def __init__(self, clients: list[RawClient]) -> None:
        self._clients = clients

    def due(self, _: float) -> None:
        for client in self._clients:
            os.write(client.socket.fileno(), client.request_bytes("GET", "/v1/models"))
        time.sleep(0.2)


async def closes_after(client: RawClient) -> float:
    """How long it takes until the gateway closes a connection."""
    began = time.monotonic()
    assert await client.closed()
    return time.monotonic() - began


async def close_all(clients: list[RawClient]) -> None:
    for client in clients:
        await client.close()


class TestLetIn:
    @both_ways
    @pytest.mark.parametrize("notice_seconds", [0.0, 0.6])
    async def test_who_has_connected_and_asks_later_is_answered(
        self, way: str, notice_seconds: float, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async with going(way, tmp_path, upstream=way_to(upstream), notice_seconds=notice_seconds) as gateway:
            clients = [await gateway.connect() for _ in range(100)]
            await gateway.go()

            async def later(client: RawClient) -> RawAnswer:
                await asyncio.sleep(random.uniform(0.2, 1.5))
                return await asks(client)

            answers = await asyncio.gather(*map(later, clients))
            ended = [await client.closed() for client in clients]
            assert await gateway.gone(within_seconds=5) < 4
            await close_all(clients)

        assert [answer.status for answer in answers] == [200] * 100
        assert [answer.get("connection") for answer in answers] == ["close"] * 100
        assert all(ended)

    @both_ways
    async def test_who_never_asks_is_waited_for_as_long_as_for_a_head_and_no_longer(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        edge = {"header_timeout_seconds": 1.5}
        async with going(way, tmp_path, upstream=way_to(upstream), edge=edge) as gateway:
            silent, half = await gateway.connect(), await gateway.connect()
            empty = await gateway.connect()
            await empty.send(b"\r\n")
            await asyncio.sleep(0.5)
            await gateway.go()
            await half.send(b"GET /v1/models HTTP/1.1\r\n")
            waited = asyncio.create_task(closes_after(silent))
            as_well = asyncio.create_task(closes_after(empty))
            answer = await half.read_answer()
            assert (answer.status, answer.get("connection")) == (408, "close")
            assert 1.3 < await waited < 2.2
            assert 1.3 < await as_well < 2.2
            await close_all([silent, half, empty])
            assert await gateway.gone(within_seconds=5) < 3

    async def test_who_connects_to_a_socket_that_is_left_waits_for_the_successor(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async with going("leave", tmp_path, upstream=way_to(upstream)) as leaving:
            assert isinstance(leaving, Leaving)
            before = [await leaving.connect() for _ in range(20)]
            await leaving.go()
            after = [await leaving.connect() for _ in range(20)]
            assert leaving.gateway.app.open_connections <= 20
            said = await asyncio.gather(*map(asks, before))
            await leaving.gone(within_seconds=5)
            async with going("leave", tmp_path, upstream=way_to(upstream)) as successor:
                assert isinstance(successor, Leaving)
                successor.gateway.runner.accept([one.dup() for one in leaving.held])
                said += await asyncio.gather(*map(asks, after))
                await close_all([*before, *after])

        assert [answer.status for answer in said] == [200] * 40


class TestIdle:
    async def test_a_leaving_process_keeps_them_for_the_notice_and_then_closes_them(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async with going("leave", tmp_path, upstream=way_to(upstream), notice_seconds=1.5) as gateway:
            asking, resting = await idle(gateway, 2)
            await asyncio.sleep(1.2)
            await gateway.go()
            rested = asyncio.create_task(closes_after(resting))
            await asyncio.sleep(1)
            answer = await asks(asking)
            assert (answer.status, answer.get("connection")) == (200, "close")
            assert await asking.closed()
            assert 1.3 < await rested < 2
            assert await gateway.gone(within_seconds=5) < 2.2
            await close_all([asking, resting])

    async def test_a_stopping_process_tells_clients_to_go_as_soon_as_balancers_are_told(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async with going("SIGTERM", tmp_path, upstream=way_to(upstream), notice_seconds=2) as gateway:
            asking, resting = await idle(gateway, 2)
            await gateway.go()
            rested = asyncio.create_task(closes_after(resting))
            answer = await asks(asking)
            assert (answer.status, answer.get("connection")) == (200, "close")
            async with await gateway.connect() as newcomer:
                answer = await asks(newcomer)
                assert (answer.status, answer.get("connection")) == (200, "close")
            assert 1.8 < await rested < 2.6
            assert await gateway.gone(within_seconds=5) < 3
            await close_all([asking, resting])

    @both_ways
    async def test_a_request_that_has_come_when_they_are_to_be_closed_is_answered(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async with going(way, tmp_path, upstream=way_to(upstream), notice_seconds=0.7) as gateway:
            clients = await idle(gateway, 50)
            await asyncio.sleep(1)
            await gateway.go()
            await asyncio.sleep(0.3)
            # The gateway has something else to do until their time is over.
            if isinstance(gateway, Stopping):
                gateway.command.signal(signal.SIGSTOP)
                await asyncio.gather(
                    *(client.send(client.request_bytes("GET", "/v1/models")) for client in clients)
                )
                await asyncio.sleep(1)
                gateway.command.signal(signal.SIGCONT)
            else:
                for client in clients:
                    os.write(client.socket.fileno(), client.request_bytes("GET", "/v1/models"))
                time.sleep(1)
            answers = await asyncio.gather(*(client.read_answer() for client in clients))
            await gateway.gone(within_seconds=5)
            await close_all(clients)

        assert [(answer.status, answer.get("connection")) for answer in answers] == [(200, "close")] * 50

    async def test_a_request_that_comes_in_the_very_turn_in_which_they_are_closed_is_answered(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async with going("leave", tmp_path, upstream=way_to(upstream), notice_seconds=0.3) as gateway:
            assert isinstance(gateway, Leaving)
            clients = await idle(gateway, 20)
            await asyncio.sleep(1)
            assert gateway.gateway.app.server is not None
            gateway.gateway.app.server.state.wheel.ask(
                AskAtOnce(clients), asyncio.get_running_loop().time() + 0.25
            )
            await gateway.go()
            answers = await asyncio.gather(*(client.read_answer() for client in clients))
            await gateway.gone(within_seconds=5)
            await close_all(clients)

        assert [(answer.status, answer.get("connection")) for answer in answers] == [(200, "close")] * 20

    @both_ways
    async def test_who_asks_again_right_behind_an_answer_that_was_begun_before_is_answered(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(two_events)
        async with going(way, tmp_path, upstream=way_to(upstream)) as gateway:
            client = await gateway.connect()
            await client.send(client.request_bytes("POST", CHAT, QUESTION, headers=JSON))
            assert (await client.read_head()).get("connection") is None
            await client.read_chunk()
            await gateway.go()
            await asyncio.sleep(0.2)
            upstream.gate("go on").set()
            assert await client.read_chunk() == b"data: 2\n\n"
            assert await client.read_chunk() == b""
            upstream.plays(answer_ok)
            await asyncio.sleep(0.3)
            answer = await asks(client)
            assert (answer.status, answer.get("connection")) == (200, "close")
            await gateway.gone(within_seconds=2)
            await client.close()

    @both_ways
    async def test_who_asks_once_a_second_does_not_keep_it_alive(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async with going(way, tmp_path, upstream=way_to(upstream), notice_seconds=30) as gateway:
            (client,) = await idle(gateway, 1)
            await gateway.go()
            await asyncio.sleep(1)
            answer = await asks(client)
            assert answer.get("connection") == "close"
            assert await client.closed(), "although the client does not close it"
            if way == "leave":
                assert await gateway.gone(within_seconds=2) < 2.5
            await client.close()


class TestRunning:
    @both_ways
    async def test_an_answer_that_has_not_been_read_yet_is_sent_to_its_end(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        """What the upstream has sent lies in the gateway, whose exchange is over; the client reads it only later."""
        size = 3_000_000

        async def much(turn: Turn) -> None:
            await turn.read_body()
            await turn.send(OK.replace(b"Content-Length: 2\r\n\r\n{}", b"Content-Length: %d\r\n\r\n" % size))
            await turn.send(bytes(size))

        upstream.plays(much)
        async with going(way, tmp_path, upstream=way_to(upstream)) as gateway:
            clients = [slow_reader(gateway.host, gateway.port) for _ in range(5)]
            async with await gateway.connect() as client:
                asking = client.request_bytes("GET", "/v1/models")
            for reader in clients:
                reader.sendall(asking)
            await until(lambda: len(upstream.requests) == 5)
            await asyncio.sleep(0.5)
            await gateway.go()
            await asyncio.sleep(1)
            sizes = await asyncio.gather(*(asyncio.to_thread(read_slowly, client) for client in clients))
            await gateway.gone(within_seconds=5)

        assert [found > size for found in sizes] == [True] * 5

    @both_ways
    async def test_requests_that_were_sent_ahead_are_answered_and_the_last_answer_says_that_it_is_the_last(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async def slowly(turn: Turn) -> None:
            await turn.read_body()
            await turn.wait_for("open")
            await turn.send(OK)

        upstream.plays(slowly)
        async with going(way, tmp_path, upstream=way_to(upstream)) as gateway:
            client = await gateway.connect()
            await client.send(client.request_bytes("POST", CHAT, QUESTION, headers=JSON) * 3)
            await until(lambda: upstream.requests)
            await gateway.go()
            await asyncio.sleep(0.2)
            upstream.gate("open").set()
            answers = [await client.read_answer() for _ in range(3)]
            assert await client.closed()
            await gateway.gone(within_seconds=2)
            await client.close()

        assert [answer.status for answer in answers] == [200] * 3
        assert [answer.get("connection") for answer in answers] == [None, None, "close"]

    @both_ways
    async def test_who_never_stops_sending_ahead_is_told_to_stop(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async def slowly(turn: Turn) -> None:
            await turn.read_body()
            await asyncio.sleep(0.05)
            await turn.send(OK)

        upstream.plays(slowly)
        edge = {"header_timeout_seconds": 1.0}
        async with going(way, tmp_path, upstream=way_to(upstream), edge=edge) as gateway:
            client = await gateway.connect()
            asking = client.request_bytes("GET", "/v1/models")
            await client.send(asking * 3)
            await gateway.go()
            answer = await client.read_answer()
            while answer.get("connection") is None:
                await client.send(asking)
                answer = await client.read_answer()
            assert (answer.status, answer.get("connection")) == (200, "close")
            assert await gateway.gone(within_seconds=5) < 2.5
            await client.close()

    @both_ways
    @pytest.mark.parametrize("tls", [False, True])
    async def test_bodies_that_come_in_and_those_that_are_yet_to_be_asked_for_are_served(
        self, way: str, tls: bool, tmp_path: Path
    ) -> None:
        async with (
            TlsUpstream(tmp_path) if tls else ScriptedUpstream() as upstream,
            going(way, tmp_path, upstream=way_to(upstream)) as gateway,
        ):
            json, file, expecting = [await gateway.connect() for _ in range(3)]
            whole = json.request_bytes("POST", CHAT, QUESTION, headers=JSON)
            await json.send(whole[:-10])
            await file.send(
                file.request_bytes("POST", "/v1/files", headers=PLAIN + "Content-Length: 200000\r\n")
                + bytes(70_000)
            )
            await asyncio.sleep(0.2)
            await gateway.go()
            await asyncio.sleep(0.3)
            await expecting.send(
                expecting.request_bytes(
                    "POST", CHAT, headers=f"{JSON}Content-Length: {len(QUESTION)}\r\nExpect: 100-continue\r\n"
                )
            )
            assert (await expecting.read_head()).status == 100
            await asyncio.sleep(0.5)
            await expecting.send(QUESTION)
            await json.send(whole[-10:])
            for _ in range(13):
                await file.send(bytes(10_000))
                await asyncio.sleep(0.02)
            answers = [await client.read_answer() for client in (json, file, expecting)]
            assert await gateway.gone(within_seconds=5) < 4
            await close_all([json, file, expecting])
            bodies = sorted(len(seen.body) for seen in upstream.requests)

        assert [(answer.status, answer.get("connection")) for answer in answers] == [(200, "close")] * 3
        assert bodies == [len(QUESTION), len(QUESTION), 200_000]

    @both_ways
    async def test_a_client_that_leaves_meanwhile_is_not_taken_for_one_that_was_cut(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(two_events)
        async with going(way, tmp_path, upstream=way_to(upstream)) as gateway:
            client = await gateway.connect()
            await client.send(client.request_bytes("POST", CHAT, QUESTION, headers=JSON))
            await client.read_head()
            await gateway.go()
            client.reset()
            assert await gateway.gone(within_seconds=3) < 2
            lines = await gateway.lines(1)

        assert [line["ending"] for line in lines] == ["client_left"]

    @both_ways
    @pytest.mark.parametrize("impatient", [False, True])
    async def test_what_outlasts_its_time_is_cut_and_recorded(
        self, way: str, impatient: bool, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(two_events)
        async with going(
            way, tmp_path, upstream=way_to(upstream), drain_seconds=60 if impatient else 1.5
        ) as gateway:
            client, silent = await gateway.connect(), await gateway.connect()
            await client.send(client.request_bytes("POST", CHAT, QUESTION, headers=JSON))
            assert (await client.read_head()).status == 200
            await client.read_chunk()
            await gateway.go()
            await asyncio.sleep(0.3)
            if impatient:
                await gateway.at_once()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.read_chunk()
            took = await gateway.gone(within_seconds=5)
            await close_all([client, silent])
            lines = await gateway.lines(1)

        assert took < 2.3 if impatient else 1.5 < took < 3.5
        assert [(line["status"], line["ending"]) for line in lines] == [(200, "drained")]


def slow_reader(host: str, port: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8_192)
    client.settimeout(10)
    client.connect((host, port))
    return client


def read_slowly(client: socket.socket) -> int:
    """How many bytes came until the end."""
    size = 0
    with client:
        while data := client.recv(8_000):
            size += len(data)
            time.sleep(0.005)
    return size


class TestWebSockets:
    @both_ways
    @pytest.mark.parametrize("impatient", [False, True])
    async def test_they_run_until_their_time_is_over_and_both_sides_are_told(
        self, way: str, impatient: bool, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        heard: list[int | None] = []
        upstream.plays(lambda turn: converses(turn, heard))
        async with going(
            way, tmp_path, upstream=way_to(upstream), drain_seconds=60 if impatient else 2
        ) as gateway:
            clients = [await opened(gateway) for _ in range(10)]
            await gateway.go()
            await asyncio.sleep(1)
            for client in clients:
                await client.send(frame(TEXT, b'{"type":"hello"}'))
                assert (await read_frame(client.reader)).payload == b'{"type":"hello"}'
            began = time.monotonic()
            if impatient:
                await gateway.at_once()
            told = await asyncio.gather(*map(hears_and_answers, clients))
            ended = [await client.closed() for client in clients]
            await gateway.gone(within_seconds=5)
            took = time.monotonic() - began
            await close_all(clients)
            lines = await gateway.lines(10)

        assert [(frame.opcode, frame.code, frame.reason) for frame in told] == [
            (CLOSE, 1001, "the gateway is restarting")
        ] * 10
        assert all(ended)
        assert heard == [1001] * 10
        assert took < 2 if impatient else 0.5 < took < 3
        assert [(line["status"], line["ending"]) for line in lines] == [(101, "drained")] * 10

    @both_ways
    async def test_who_talks_without_pause_is_told_all_the_same(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        heard: list[int | None] = []
        upstream.plays(lambda turn: converses(turn, heard, echoes=False))
        async with going(way, tmp_path, upstream=way_to(upstream), drain_seconds=0.5) as gateway:
            client = await opened(gateway)

            async def talks() -> None:
                try:
                    while True:
                        await client.send(frame(TEXT, bytes(3000)))
                        await asyncio.sleep(0.001)
                except (ConnectionError, RuntimeError):
                    pass

            talking = asyncio.create_task(talks())
            await gateway.go()
            frames = await read_to_the_end(client.reader)
            await gateway.gone(within_seconds=5)
            talking.cancel()
            await client.close()
            lines = await gateway.lines(1)

        assert [(frame.opcode, frame.code) for frame in frames] == [(CLOSE, 1001)]
        assert [line["ending"] for line in lines] == ["drained"]

    @both_ways
    async def test_one_that_closes_meanwhile_is_complete_and_one_that_is_opened_meanwhile_runs(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        heard: list[int | None] = []
        upstream.plays(lambda turn: converses(turn, heard))
        async with going(way, tmp_path, upstream=way_to(upstream), drain_seconds=2.5) as gateway:
            closing, silent = await opened(gateway), await gateway.connect()
            await gateway.go()
            await asyncio.sleep(0.3)
            await closing.send(close_frame(1000, "bye"))
            assert (await read_frame(closing.reader)).code == 1000
            assert await closing.closed()
            await shakes_hands(silent)
            await silent.send(frame(TEXT, b'{"type":"hello"}'))
            assert (await read_frame(silent.reader)).payload == b'{"type":"hello"}'
            assert (await read_frame(silent.reader)).code == 1001
            await silent.send(close_frame(1001))
            assert await silent.closed()
            await gateway.gone(within_seconds=5)
            await close_all([closing, silent])
            lines = await gateway.lines(2)

        assert heard == [1000, 1001]
        assert [line["ending"] for line in lines] == ["complete", "drained"]


async def converses(turn: Turn, heard: list[int | None], *, echoes: bool = True) -> None:
    """The script of an upstream that says back what it hears, and notes the code of the close."""
    await turn.send(accepted(turn))
    while (found := await read_frame(turn.reader, 20)).opcode != CLOSE:
        if echoes:
            await turn.send(frame(found.opcode, found.payload, masked=False))
    heard.append(found.code)
    await turn.send(frame(CLOSE, found.payload, masked=False))
    turn.close()


async def hears_and_answers(client: RawClient) -> Frame:
    """The next frame, a close, which is answered."""
    heard = await read_frame(client.reader)
    await client.send(close_frame(1001))
    return heard


async def shakes_hands(client: RawClient) -> None:
    await client.send(client.request_bytes("GET", "/v1/realtime?model=m", headers=HANDSHAKE))
    assert (await client.read_head()).status == 101


async def opened(gateway: Going) -> RawClient:
    """A client with an open session."""
    client = await gateway.connect()
    await shakes_hands(client)
    return client


class TestUnanswered:
    @both_ways
    async def test_who_has_no_answer_when_the_time_is_over_is_told_to_try_again(
        self, way: str, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async def never(turn: Turn) -> None:
            await turn.gone()

        upstream.plays(never)
        async with going(way, tmp_path, upstream=way_to(upstream), drain_seconds=1) as gateway:
            waiting, upgrading, uploading, body = clients = [await gateway.connect() for _ in range(4)]
            await waiting.send(waiting.request_bytes("GET", "/v1/models"))
            await upgrading.send(upgrading.request_bytes("GET", "/v1/realtime?model=m", headers=HANDSHAKE))
            await uploading.send(
                uploading.request_bytes("POST", "/v1/files", headers=PLAIN + "Content-Length: 200000\r\n")
                + bytes(70_000)
            )
            await body.send(body.request_bytes("POST", CHAT, QUESTION, headers=JSON)[:-5])
            await until(lambda: len(upstream.requests) == 3)
            await gateway.go()
            answers = [await client.read_answer() for client in clients]
            assert await gateway.gone(within_seconds=5) < 3
            await close_all(clients)
            lines = await gateway.lines(4)

        for answer in answers:
            assert_refused(answer, 503, "draining")
            assert (answer.get("connection"), answer.get("retry-after")) == ("close", "1")
        assert [(line["status"], line["ending"]) for line in lines] == [(503, "drained")] * 4
        assert await upstream.all_closed()
