"""Who floods waits for others: what one connection brings at once, what a turn takes, and in which order."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.credentials.key_ring import ensure_ring
from gateway.proxy.bites import (
    ANSWERS,
    AT_ONCE_BYTES,
    EVENTS,
    FRAMES,
    FRESH_BYTES,
    UNSENT_BYTES,
    Bites,
    Turns,
)
from gateway.proxy.channel import Channel, Held
from gateway.wire.search import Piece
from tests.conftest import StartGateway
from tests.kit.asking import credential_of
from tests.kit.client import CHAT, JSON, MIB, QUESTION, STREAMED_QUESTION, RawClient
from tests.kit.command import running_command
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn, answer_ok

ROOM = 128 * 1024


class Turning:
    """Counts the turns of the loop while it is asked to."""

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._loop.call_soon(self._next)

    def _next(self) -> None:
        self.number += 1
        self._loop.call_soon(self._next)


class Taken(Channel):
    """A connection that notes what it takes, and in which turn."""

    def __init__(self, turns: Turns, bites: Bites, turning: Turning, everything: list[Taken]) -> None:
        super().__init__(asyncio.get_running_loop(), turns, bites)
        self._turning = turning
        self.bites: list[tuple[int, int]] = []
        self.data = b""
        everything.append(self)

    def take(self, data: Piece) -> None:
        self.bites.append((self._turning.number, len(data)))
        self.data += data

    def lost(self, error: BaseException | None) -> None:
        pass


@asynccontextmanager
async def connections(count: int, bites: Bites) -> AsyncIterator[tuple[list[Taken], list[socket.socket]]]:
    """Connections that share their turns, and the peers' ends of them."""
    loop, turns, turning = asyncio.get_running_loop(), Turns(), Turning()
    taken: list[Taken] = []
    ends = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        await loop.create_connection(lambda: Taken(turns, bites, turning, taken), sock=ours)
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MIB)
        ends.append(theirs)
    try:
        yield taken, ends
    finally:
        for protocol in taken:
            if protocol.transport is not None:
                protocol.transport.abort()
        for end in ends:
            end.close()


async def until(*, taken: list[Taken], size: int) -> None:
    async with asyncio.timeout(10):
        while any(len(protocol.data) < size for protocol in taken):
            await asyncio.sleep(0)


@pytest.mark.parametrize("bites", [ANSWERS, EVENTS, FRAMES])
async def test_what_one_brings_is_taken_in_bites_and_all_of_a_turn_have_one_bound(bites: Bites) -> None:
    pattern = bytes(range(251)) * 800
    async with connections(12, bites) as (taken, ends):
        for end in ends:
            end.sendall(pattern)
        await until(taken=taken, size=len(pattern))

        assert all(protocol.data == pattern for protocol in taken)
        sizes = [size for protocol in taken for _, size in protocol.bites]
        assert max(sizes) <= bites.most_bytes
        by_turn: dict[int, int] = {}
        for protocol in taken:
            for turn, size in protocol.bites:
                by_turn[turn] = by_turn.get(turn, 0) + size * bites.weight
        # What waits has the room once, what comes in the turn once more, and either may end with a bite too many.
        assert max(by_turn.values()) <= 2 * (ROOM + bites.most_bytes * bites.weight) + 12 * AT_ONCE_BYTES


async def test_who_sends_little_does_not_wait_behind_those_who_flood() -> None:
    async with connections(13, EVENTS) as (taken, ends):
        for end in ends[:-1]:
            end.sendall(b"x" * 200_000)
        await until(taken=taken[:1], size=1)
        ends[-1].sendall(b"a small question")
        await until(taken=taken[-1:], size=1)

        waiting = [protocol for protocol in taken[:-1] if len(protocol.data) < 200_000]
        assert len(waiting) > 6
        await until(taken=taken[:-1], size=200_000)


async def test_an_answer_of_common_size_is_no_flood() -> None:
    async with connections(13, EVENTS) as (taken, ends):
        for end in ends[:-1]:
            end.sendall(b"x" * 200_000)
        await until(taken=taken[:1], size=FRESH_BYTES + 1)
        ends[-1].sendall(b"x" * 30_000)
        await until(taken=taken[-1:], size=30_000)

        assert all(len(protocol.data) < 200_000 for protocol in taken[1:-1])
        await until(taken=taken[:-1], size=200_000)


async def test_those_who_read_on_at_the_same_moment_share_turns() -> None:
    turns, turning = Turns(), Turning()
    went: list[int] = []

    async def read_on() -> None:
        await turns.share()
        went.append(turning.number)

    await asyncio.gather(*(read_on() for _ in range(20)))

    assert max(went.count(turn) for turn in went) <= 4


async def test_one_that_is_long_is_served_although_others_keep_coming() -> None:
    async with connections(5, ANSWERS) as (taken, ends):
        ends[0].sendall(b"x" * 200_000)
        async with asyncio.timeout(10):
            while len(taken[0].data) < 200_000:
                for end in ends[1:]:
                    end.sendall(b"y" * (AT_ONCE_BYTES + 1))
                await asyncio.sleep(0)


async def test_nothing_is_taken_while_somebody_holds_and_all_of_it_afterwards() -> None:
    async with connections(6, EVENTS) as (taken, ends):
        for end in ends:
            end.sendall(b"x" * 200_000)
        await until(taken=taken[:1], size=1)
        taken[0].hold(Held.BY_READER)
        held = len(taken[0].data)
        await until(taken=taken[1:], size=200_000)
        assert len(taken[0].data) == held < 200_000
        taken[0].go_on(Held.BY_READER)
        await until(taken=taken, size=200_000)


async def test_bites_shrink_where_bytes_are_dear() -> None:
    class Dear(Taken):
        def take(self, data: Piece) -> None:
            super().take(data)
            sum(range(len(data) * 100))

    async with connections(0, FRAMES):
        loop, turning = asyncio.get_running_loop(), Turning()
        ours, theirs = socket.socketpair()
        everything: list[Taken] = []
        await loop.create_connection(lambda: Dear(Turns(), FRAMES, turning, everything), sock=ours)
        theirs.sendall(b"x" * 30_000)
        await until(taken=everything, size=30_000)
        assert min(size for _, size in everything[0].bites[:-1]) <= FRAMES.most_bytes // 4
        everything[0].transport.abort()  # type: ignore[union-attr]
        theirs.close()


async def test_what_follows_an_answer_meets_no_other_exchange_however_much_it_is(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def chatter(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(OK + OK * 5000)

    upstream.plays(chatter)
    client = await gateway.connect()
    assert (await client.request("POST", CHAT, QUESTION, headers=JSON)).status == 200
    upstream.plays(answer_ok)
    answer = await client.request("GET", "/v1/models")

    assert (answer.status, answer.body) == (200, b"{}")
    assert upstream.requests[1].connection != upstream.requests[0].connection


async def test_a_large_answer_that_breaks_off_arrives_up_to_there(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def break_off(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + b"x" * 800_000)
        turn.close()

    upstream.plays(break_off)
    client = await gateway.connect()
    answer = await client.request("POST", CHAT, QUESTION, headers=JSON)

    assert (answer.status, answer.clean_end, len(answer.body)) == (200, False, 800_000)


async def test_a_client_that_reads_nothing_makes_neither_us_nor_the_kernel_hold_much(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def flood(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            await turn.send(b"data: more\n\n" * 5000)

    upstream.plays(flood)
    gateway = await start_gateway()
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (gateway.host, gateway.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=1024)
    client = RawClient(reader, writer, gateway.credential())
    await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
    await asyncio.sleep(0.5)  # until nothing moves any more
    client.reset()
    line = (await gateway.lines.wait())[0]

    assert line["bytes_out"] < UNSENT_BYTES + 512 * 1024


def flood_of_events(listener: socket.socket) -> None:
    """An upstream that floods whoever asks for a stream, and answers anything else."""

    def serve(connection: socket.socket) -> None:
        events = b'data: {"choices":[{"delta":{"content":"more"}}],"usage":null}\n\n' * 1000
        try:
            while request := connection.recv(65536):
                if b'"stream":true' in request:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
                    while True:
                        connection.sendall(events)
                connection.sendall(OK)
        except OSError:
            connection.close()

    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=serve, args=(connection,), daemon=True).start()


async def test_beside_twenty_who_read_a_fast_stream_another_is_served_before_much_of_it_has_passed(
    tmp_path: Path,
) -> None:
    ring, _ = ensure_ring(tmp_path / "keys")
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=flood_of_events, args=(listener,), daemon=True).start()
    passed = [0] * 20

    def read_on(place: int, sock: socket.socket) -> None:
        try:
            while piece := sock.recv(MIB):
                passed[place] += len(piece)
        except OSError:
            pass

    async with running_command(
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
        *("--keys-dir", str(tmp_path / "keys")),
        *("--upstream", f"http://127.0.0.1:{listener.getsockname()[1]}/v1"),
        *("--set", "tenants.default.limits.max_tokens_per_1_minute=1000000000"),
    ) as process:
        credential = credential_of(ring)
        readers = []
        async with await RawClient.connect(process.host, process.port, credential) as client:
            ask = client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON)
            for place in range(20):
                sock = socket.create_connection((process.host, process.port))
                sock.sendall(ask)
                readers.append(sock)
                threading.Thread(target=read_on, args=(place, sock), daemon=True).start()
            async with asyncio.timeout(20):
                while not all(passed):
                    await asyncio.sleep(0.01)
            before = sum(passed)
            for _ in range(5):
                answer = await client.request("POST", CHAT, QUESTION, headers=JSON)
                assert answer.status == 200
            meanwhile = sum(passed) - before
        for sock in readers:
            sock.close()
        listener.close()

    assert meanwhile < 20 * MIB


async def test_who_asks_once_comes_before_those_who_have_asked_for_much_at_once(gateway: Gateway) -> None:
    assert gateway.app.server is not None
    state = gateway.app.server.state
    floods = [await gateway.connect() for _ in range(50)]
    for flood in floods:
        flood.writer.write(b"GET /v1/models HTTP/1.1\r\nHost: gateway.test\r\n\r\n" * 100)
    client = await gateway.connect()
    while state.requests < 500:
        await asyncio.sleep(0)
    before = state.requests
    assert (await client.request("GET", "/gateway/me")).status == 200

    assert state.requests - before < 150
    for flood in floods:
        assert [(await flood.read_answer()).status for _ in range(100)] == [401] * 100
