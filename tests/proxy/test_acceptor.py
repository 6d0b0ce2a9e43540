"""Newcomers: none waits behind others in the kernel's queue, and none that the kernel has let in is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import struct
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import uvloop

from gateway.credentials.key_ring import KeyRing
from gateway.proxy.acceptor import Acceptor, listening_sockets
from gateway.proxy.bites import UNSENT_BYTES
from tests.kit.asking import credential_of
from tests.kit.command import running_command
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.waiting import until

CROWD = 500
ASKING = b"GET /v1/models HTTP/1.1\r\nHost: gateway\r\n\r\n"


class Echo(asyncio.Protocol):
    """Says back what it hears."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


@contextlib.contextmanager
def crowd(address: tuple[str, int], count: int, says: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many clients, connected and having spoken without the loop having had a turn."""
    clients: list[socket.socket] = []
    try:
        for _ in range(count):
            clients.append(socket.create_connection(address))
            clients[-1].sendall(says)
            clients[-1].setblocking(False)
        yield clients
    finally:
        for client in clients:
            client.close()


async def answers(clients: Sequence[socket.socket]) -> list[bytes]:
    """The first bytes that each client hears; nothing where the connection was lost."""
    loop = asyncio.get_running_loop()

    async def first(client: socket.socket) -> bytes:
        try:
            return await loop.sock_recv(client, 64)
        except ConnectionError:
            return b""

    async with asyncio.timeout(30):
        return await asyncio.gather(*map(first, clients))


@contextlib.asynccontextmanager
async def accepting(
    host: str = "127.0.0.1", *, reserved: int = 0
) -> AsyncIterator[tuple[Acceptor, tuple[str, int], list[str]]]:
    """An acceptor of what echoes; it, its first address, and why it has failed so far."""
    reasons: list[str] = []
    acceptor = Acceptor(
        Echo, listening_sockets(host, 0, backlog=4096), failed=reasons.append, reserved=reserved
    )
    try:
        yield acceptor, acceptor.addresses[0][:2], reasons
    finally:
        acceptor.close()


@contextlib.contextmanager
def no_more_files(left: int = 0) -> Iterator[None]:
    """The process may open so many more files, and no others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + left, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_client_that_vanishes_is_noticed_and_one_that_reads_slowly_does_not_fill_the_kernel(
    gateway: Gateway,
) -> None:
    with crowd((gateway.host, gateway.port), 1):
        await until(lambda: gateway.app.open_connections == 1)
        server = gateway.app.server
        assert server is not None
        (connection,) = server.connections
        assert connection.transport is not None
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES


async def test_a_crowd_that_comes_in_one_moment_is_let_in_within_a_few_turns_and_served(
    gateway: Gateway,
) -> None:
    with crowd((gateway.host, gateway.port), CROWD, ASKING) as clients:
        turns = 0
        while gateway.app.open_connections < CROWD and turns < CROWD:
            await asyncio.sleep(0)
            turns += 1
        said = await answers(clients)

    assert turns < 50
    assert [answer[:12] for answer in said] == [b"HTTP/1.1 401"] * CROWD


async def test_who_connected_before_a_stop_is_served_and_who_comes_after_it_is_not(gateway: Gateway) -> None:
    with crowd((gateway.host, gateway.port), 100, ASKING) as clients:
        gateway.runner.stop_accepting()
        said = await answers(clients)

    assert [answer[:12] for answer in said] == [b"HTTP/1.1 401"] * 100
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((gateway.host, gateway.port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_who_has_asked_by_the_time_a_process_is_told_to_stop_is_answered(
    number: signal.Signals, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async def slowly(turn: Turn) -> None:
        await turn.wait_for("open")
        await turn.send(OK)

    upstream.plays(slowly)
    async with running_command(
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
        *("--set", "drain_notice_seconds=0", "--keys-dir", str(tmp_path)),
        OPENAI_BASE_URL=upstream.base_url,
        OPENAI_API_KEY="sk-x",
    ) as command:
        asking = (
            ASKING[:-2] + b"Authorization: Bearer %b\r\n\r\n" % credential_of(KeyRing.load(tmp_path)).encode()
        )
        command.signal(signal.SIGSTOP)  # as on a machine that has something else to do
        with crowd((command.host, command.port), 100, asking) as clients:
            command.signal(number)
            command.signal(signal.SIGCONT)
            await until(lambda: len(upstream.requests) == 100)
            await asyncio.sleep(1)
            upstream.gate("open").set()
            said = await answers(clients)
        assert await command.exit_code() == 0

    assert [answer[:12] for answer in said] == [b"HTTP/1.1 200"] * 100


@pytest.mark.both_loops
async def test_without_files_newcomers_wait_and_are_served_once_there_are_some() -> None:
    async with accepting() as (_, address, reasons):
        with crowd(address, 5, b"hello") as clients:
            with no_more_files(left=2):
                await until(lambda: reasons)
                await asyncio.sleep(0.3)
                assert reasons == ["no_files"], "it looks again after a while, not at once"
            assert await answers(clients) == [b"hello"] * 5


async def test_with_files_in_reserve_newcomers_are_served_all_the_same() -> None:
    async with accepting(reserved=5) as (_, address, reasons):
        with crowd(address, 5, b"hello") as clients, no_more_files():
            assert await answers(clients) == [b"hello"] * 5
    assert reasons == []


@pytest.mark.both_loops
async def test_who_has_left_while_waiting_keeps_nobody_else_from_being_served() -> None:
    async with accepting() as (_, address, reasons):
        with crowd(address, 20, b"hello") as clients:
            for leaver in clients[::2]:
                leaver.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                leaver.close()
            assert await answers(clients[1::2]) == [b"hello"] * 10
    assert reasons == []


@pytest.mark.both_loops
async def test_every_address_of_a_host_is_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    async with accepting("both.test") as (acceptor, _, _):
        monkeypatch.undo()
        assert [address[0] for address in acceptor.addresses] == ["127.0.0.1", "::1"]
        for address in acceptor.addresses:
            with crowd(address[:2], 1, b"hello") as clients:
                assert await answers(clients) == [b"hello"]


async def test_it_takes_sockets_that_somebody_else_opened_and_holds_too() -> None:
    """A successor goes on where the one before stopped: closing ours does not end the queue."""
    held = socket.create_server(("127.0.0.1", 0), backlog=64)
    first = Acceptor(Echo, [held.dup()], failed=lambda _: None)
    with crowd(held.getsockname(), 3, b"first") as clients:
        assert await answers(clients) == [b"first"] * 3
    first.close()
    with crowd(held.getsockname(), 3, b"second") as clients:
        second = Acceptor(Echo, [held], failed=lambda _: None)
        assert await answers(clients) == [b"second"] * 3
        second.close()


async def test_an_address_in_use_is_told_and_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        before = len([*Path("/proc/self/fd").iterdir()])
        with pytest.raises(OSError, match="in use"):
            listening_sockets("127.0.0.1", taken.getsockname()[1], backlog=1)
        assert len([*Path("/proc/self/fd").iterdir()]) == before


# Sockets of others, which several watch at once.


class Named(asyncio.Protocol):
    """Says who has accepted, once somebody speaks."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(self._name)


@contextlib.contextmanager
def listening(count: int = 1) -> Iterator[list[socket.socket]]:
    sockets = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(count)]
    for one in sockets:
        # A copy of a socket that blocks would make all its copies block.
        one.setblocking(False)
    try:
        yield sockets
    finally:
        for one in sockets:
            one.close()


async def nobody_is_answered(clients: Sequence[socket.socket], for_seconds: float) -> None:
    await asyncio.sleep(for_seconds)
    for client in clients:
        with pytest.raises(BlockingIOError):
            client.recv(1)


def statuses(said: Sequence[bytes]) -> set[bytes]:
    return {answer[:12] for answer in said}


async def test_a_neighbours_queues_are_adopted_let_go_of_and_adopted_again(gateway: Gateway) -> None:
    with listening(3) as sockets, contextlib.ExitStack() as crowds:
        first = [c for one in sockets for c in crowds.enter_context(crowd(one.getsockname(), 50, ASKING))]
        gateway.runner.adopt(1, sockets)
        gateway.runner.adopt(1, sockets)
        assert statuses(await answers(first)) == {b"HTTP/1.1 401"}

        gateway.runner.release(1)
        gateway.runner.release(1)
        gateway.runner.release(2)
        second = [c for one in sockets for c in crowds.enter_context(crowd(one.getsockname(), 50, ASKING))]
        await nobody_is_answered(second, 0.3)
        assert all(one.fileno() >= 0 for one in sockets)
        own = crowds.enter_context(crowd((gateway.host, gateway.port), 1, ASKING))
        assert statuses(await answers(own)) == {b"HTTP/1.1 401"}, "its own are no concern of that"

        gateway.runner.adopt(1, sockets)
        assert statuses(await answers(second)) == {b"HTTP/1.1 401"}


async def test_whoever_waits_where_a_process_leaves_is_the_successors(gateway: Gateway) -> None:
    with listening(2) as sockets, contextlib.ExitStack() as crowds:
        theirs = [one.dup() for one in sockets]
        held = gateway.sockets[0].dup()
        gateway.runner.adopt(1, theirs)
        clients = [
            client
            for address in (*(one.getsockname() for one in sockets), (gateway.host, gateway.port))
            for client in crowds.enter_context(crowd(address, 50, b"hello"))
        ]
        gateway.runner.leave()
        assert all(one.fileno() < 0 for one in (*theirs, *gateway.sockets))
        gateway.runner.adopt(2, theirs)
        gateway.runner.release(1)
        successor = Acceptor(Echo, [*sockets, held], failed=lambda _: None)
        assert await answers(clients) == [b"hello"] * 150
        assert gateway.app.open_connections == 0
        successor.close()


@pytest.mark.both_loops
async def test_sockets_that_are_let_go_of_in_a_pause_are_not_looked_at_again() -> None:
    reasons: list[str] = []
    with listening() as (held,):
        acceptor = Acceptor(Echo, [held], failed=reasons.append)
        with crowd(held.getsockname(), 5, b"hello") as clients:
            with no_more_files():
                await until(lambda: reasons)
                acceptor.let_go()
            await nobody_is_answered(clients, 0.8)
            successor = Acceptor(Echo, [held], failed=reasons.append)
            assert await answers(clients) == [b"hello"] * 5
            successor.close()
    assert reasons == ["no_files"]


@pytest.mark.both_loops
async def test_who_waits_while_there_are_no_files_is_served_before_a_socket_is_closed() -> None:
    async with accepting() as (acceptor, address, reasons):
        with crowd(address, 5, b"hello") as clients:
            with no_more_files():
                acceptor.close()
                assert reasons == ["no_files"]
                await asyncio.sleep(0.2)
            assert await answers(clients) == [b"hello"] * 5
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


@pytest.mark.both_loops
async def test_a_pause_does_not_outlast_a_second_end() -> None:
    async with accepting() as (acceptor, address, _):
        with crowd(address, 5, b"hello"), no_more_files():
            acceptor.close()
            acceptor.close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address)


async def test_of_several_processes_that_watch_a_socket_one_lets_a_newcomer_in_whoever_comes_and_goes() -> (
    None
):
    """Each has a loop of its own; two adopt the socket and let go of it all the time, one of them leaves for good."""
    with listening() as (held,):
        ended = threading.Event()

        def watches(name: bytes, seconds: float) -> None:
            async def run() -> None:
                while not ended.is_set():
                    copy = held.dup()
                    acceptor = Acceptor(lambda: Named(name), [copy], failed=lambda _: None)
                    await asyncio.sleep(seconds)
                    if seconds < 0.01:
                        acceptor.leave()
                    else:
                        acceptor.let_go()
                        copy.close()
                await asyncio.sleep(0.5)

            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(run())

        threads = [
            threading.Thread(target=watches, args=(name, seconds), daemon=True)
            for name, seconds in ((b"a", 0.003), (b"b", 0.011), (b"c", 0.7))
        ]
        for thread in threads:
            thread.start()
        said: list[bytes] = []
        try:
            for _ in range(30):
                with crowd(held.getsockname(), 50, b"?") as clients:
                    said += await answers(clients)
        finally:
            ended.set()
            for thread in threads:
                await asyncio.to_thread(thread.join, 10)

    assert len(said) == 1500
    assert set(said) <= {b"a", b"b", b"c"}
    assert len(set(said)) > 1
