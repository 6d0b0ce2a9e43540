"""Who may be connected: a share for each peer when it gets narrow, and whoever waits longest makes way."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from time import monotonic
from typing import Any

import pytest

from gateway.proxy.channel import NO_LINGER
from gateway.proxy.client_connections import GRACE_SECONDS, ClientConnections, NoRoom, Peer
from gateway.wire.addresses import peer_of
from tests.conftest import StartGateway
from tests.kit.asking import assert_refused
from tests.kit.client import RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, SSE_HEAD, ScriptedUpstream, Turn
from tests.kit.waiting import until

PATIENCE_SECONDS = GRACE_SECONDS + 0.1
HALF_A_HEAD = b"GET /v1/models HTTP/1.1\r\nHost: gateway.test\r\nX-Slow: "


async def connect(gateway: Gateway, peer: str = "127.0.0.1") -> RawClient:
    """A connection from a peer of one's choice."""
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port, local_addr=(peer, 0))
    client = RawClient(reader, writer, gateway.credential())
    gateway.clients.append(client)
    return client


async def idle(gateway: Gateway, count: int, peer: str = "127.0.0.1") -> list[RawClient]:
    """Connections that have been served and are kept."""
    clients = []
    for _ in range(count):
        client = await connect(gateway, peer)
        assert (await client.request("GET", "/v1/models")).status == 200
        clients.append(client)
    return clients


async def busy(gateway: Gateway, count: int, peer: str = "127.0.0.1") -> list[RawClient]:
    """Connections on which an answer is awaited; for an upstream that holds it."""
    lifecycle, clients = gateway.app.services.lifecycle, list[RawClient]()
    before = lifecycle.in_flight
    for _ in range(count):
        client = await connect(gateway, peer)
        await client.send(client.request_bytes("GET", "/v1/models/held"))
        clients.append(client)
    await until(lambda: lifecycle.in_flight == before + count)
    return clients


async def hold(turn: Turn) -> None:
    """Answers about the model `held` wait at the gate `open`; all others come at once."""
    await turn.read_body()
    if turn.seen.target.endswith("/held"):
        await turn.wait_for("open")
    await turn.send(OK)


async def refused(gateway: Gateway, peer: str = "127.0.0.1") -> None:
    """A newcomer is told to come back, whether or not it has said anything."""
    client = await connect(gateway, peer)
    assert_refused(await client.read_answer(), 503, "overloaded")
    assert await client.closed()


async def served(gateway: Gateway, peer: str = "127.0.0.1") -> RawClient:
    """A newcomer is served."""
    [client] = await idle(gateway, 1, peer)
    return client


async def is_open(client: RawClient) -> bool:
    """Whether the gateway has not closed it."""
    return (await client.request("GET", "/v1/models")).status == 200


def started(start_gateway: StartGateway, most: int, **more: Any) -> Any:
    """A gateway for so many connections."""
    return start_gateway(edge={"max_connections": most, "peer_share": 1.0, **more})


async def test_when_full_the_one_that_has_been_idle_longest_makes_way(start_gateway: StartGateway) -> None:
    gateway = await started(start_gateway, 4)
    oldest, second, third = await idle(gateway, 3)
    assert await is_open(oldest)  # and so it is not the oldest any more
    await asyncio.sleep(PATIENCE_SECONDS)
    fourth = await served(gateway)

    newcomer = await served(gateway)

    assert await second.reader.read() == b""
    for client in (oldest, third, fourth, newcomer):
        assert await is_open(client)
    assert gateway.metric("gateway_client_connections") == 4
    assert gateway.metric('gateway_closed_connections_total{reason="idle"}') == 1
    assert gateway.metric('gateway_refused_connections_total{reason="full"}') == 0


async def test_when_all_are_served_newcomers_are_refused_and_nobody_is_closed(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway, 3)
    upstream.plays(hold)
    inside = await busy(gateway, 3)
    await asyncio.sleep(PATIENCE_SECONDS)

    for _ in range(3):
        await refused(gateway)

    assert gateway.metric('gateway_refused_connections_total{reason="full"}') == 3
    line = (await gateway.lines.wait(3))[0]
    assert (line["status"], line["error"], line["detail"]) == (503, "overloaded", "3 of 3 connections in use")
    assert gateway.metric("gateway_client_connections") == 3, "who is being refused does not count"
    upstream.gate("open").set()
    assert [(await client.read_answer()).status for client in inside] == [200] * 3


async def test_a_burst_of_newcomers_does_not_push_each_other_out(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Who has just come has had no time to ask: it is no idle connection."""
    gateway = await started(start_gateway, 6)
    upstream.plays(hold)
    await busy(gateway, 3)

    async def status() -> int:
        client = await connect(gateway)
        try:
            await client.send(client.request_bytes("GET", "/v1/models/held"))
            return (await client.read_answer()).status
        except ConnectionError:
            return 503  # sent into a connection that had been refused

    asking = [asyncio.create_task(status()) for _ in range(12)]
    await until(lambda: gateway.app.services.lifecycle.in_flight == 6)
    await until(lambda: gateway.metric('gateway_refused_connections_total{reason="full"}') == 9)
    upstream.gate("open").set()

    assert sorted(await asyncio.gather(*asking)) == [200] * 3 + [503] * 9


async def test_half_a_head_makes_way_too_so_that_nobody_can_fill_the_house_with_them(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway, 8)
    slow = [await connect(gateway) for _ in range(8)]
    for client in slow:
        await client.send(HALF_A_HEAD)
    await until(lambda: gateway.metric("gateway_client_connections") == 8)
    await asyncio.sleep(PATIENCE_SECONDS)
    for client in slow:
        await client.send(b"a")  # single bytes do not make it younger

    await served(gateway)

    assert_refused(await slow[0].read_answer(), 503, "overloaded")
    assert gateway.metric('gateway_closed_connections_total{reason="head"}') == 1


async def test_one_peer_has_its_share_when_it_gets_narrow(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway, 20, peer_share=0.5)
    upstream.plays(hold)
    greedy = await busy(gateway, 16, "127.0.0.2")  # as many as it likes while there is room
    await asyncio.sleep(PATIENCE_SECONDS)

    for _ in range(3):
        await refused(gateway, "127.0.0.2")
    others = await idle(gateway, 4, "127.0.0.3")

    assert gateway.metric('gateway_refused_connections_total{reason="peer_share"}') == 3
    line = (await gateway.lines.wait(3))[0]
    assert line["detail"] == "127.0.0.2 has 16 of 20 connections"
    upstream.gate("open").set()
    assert [(await client.read_answer()).status for client in greedy] == [200] * 16
    await asyncio.sleep(PATIENCE_SECONDS)
    await served(gateway, "127.0.0.2")  # one of its own makes way
    assert gateway.metric('gateway_closed_connections_total{reason="idle"}') == 1
    for client in others:
        assert await is_open(client)


async def test_trusted_proxies_have_no_share(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    gateway = await started(
        start_gateway, 10, peer_share=0.1, trusted_proxies=["10.0.0.0/8", "127.0.0.4/30", "fd00::/8"]
    )
    upstream.plays(hold)

    await busy(gateway, 10, "127.0.0.5")

    await refused(gateway, "127.0.0.5")
    assert gateway.metric('gateway_refused_connections_total{reason="full"}') == 1


class One:
    """A connection that notes whether it had to make way."""

    def __init__(self) -> None:
        self.peer: Peer | None = None
        self.waits_since = 0.0
        self.client: str | None = None
        self.is_proxy = False
        self.made_way = False

    def make_way(self) -> None:
        assert self.peer is None, "it is counted no more"
        self.made_way = True


def test_nobody_makes_way_before_it_had_a_moment_to_speak() -> None:
    clients = ClientConnections(2, peer_share=1.0)
    first, second, early, late = One(), One(), One(), One()
    clients.enter(first, "192.0.2.1", 10.0)
    clients.enter(second, "192.0.2.1", 10.1)

    with pytest.raises(NoRoom, match="2 of 2 connections in use"):
        clients.enter(early, "192.0.2.2", 10.0 + GRACE_SECONDS - 0.01)
    assert not first.made_way
    clients.waits(first, 10.2)  # it has begun to speak
    clients.enter(late, "192.0.2.2", 10.1 + GRACE_SECONDS)

    assert (first.made_way, second.made_way) == (False, True)
    assert clients.open == 2
    for one in (first, second, early, late):
        clients.leave(one)
        clients.leave(one)
    assert (clients.open, clients._peers, clients._waiting) == (0, {}, {})


def test_where_a_peer_has_its_share_its_own_longest_makes_way_and_nobody_elses() -> None:
    clients = ClientConnections(10, peer_share=0.5)
    other, own = One(), [One() for _ in range(7)]
    clients.enter(other, "192.0.2.9", 0.0)
    for one in own:
        clients.enter(one, "2001:db8::1", 1.0)
        clients.asks(one)

    with pytest.raises(NoRoom, match="2001:db8::/64 has 7 of 10 connections"):
        clients.enter(One(), "2001:db8::2", 20.0)
    clients.waits(own[3], 21.0)
    clients.enter(One(), "2001:db8::3", 22.0)

    assert [one.made_way for one in (other, own[3], own[0])] == [False, True, False]


@pytest.mark.parametrize(
    ("host", "peer"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
    ],
)
def test_an_ipv6_peer_is_its_network(host: str, peer: str) -> None:
    assert peer_of(host) == peer


async def test_refusing_many_at_once_holds_few_connections(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Each is left a moment to read its answer, but not all of them together."""
    gateway = await started(start_gateway, 2)
    upstream.plays(hold)
    await busy(gateway, 2)
    crowd = [await connect(gateway) for _ in range(100)]
    await until(lambda: gateway.metric('gateway_refused_connections_total{reason="full"}') == 100)

    assert gateway.app.server is not None
    assert len(gateway.app.server.connections) <= 2 + 32 + 1
    for client in crowd:
        assert (await client.reader.read()).startswith(b"HTTP/1.1 503 ")


async def test_an_answer_that_nobody_fetches_holds_no_connection_for_ever(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """The gateway has written it all, but its last bytes wait for a client that does not read."""
    gateway = await started(start_gateway, 10, keepalive_seconds=0.2, write_idle_timeout_seconds=0.6)
    assert gateway.app.server is not None
    server = gateway.app.server

    async def until_it_is_stuck(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        transport = next(iter(server.connections)).transport
        assert transport is not None
        while not transport.get_write_buffer_size():
            await turn.chunk(b"x" * 8192)
            await asyncio.sleep(0)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(until_it_is_stuck)
    client = await connect(gateway)
    client.reader._limit = 1024  # type: ignore[attr-defined]  # stops reading early
    began = monotonic()
    await client.send(client.request_bytes("GET", "/v1/models"))

    assert (await gateway.lines.wait(1))[0]["ending"] == "complete"
    await until(lambda: not gateway.metric("gateway_client_connections") and not server.connections)
    assert monotonic() - began < 4


async def test_whatever_clients_do_nothing_is_left_of_them(
    start_gateway: StartGateway, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
) -> None:
    """They come, reset, idle, send half a head, are served, are pushed out and come again, from several peers."""
    gateway = await started(start_gateway, 6, peer_share=0.4, header_timeout_seconds=0.3)
    assert gateway.app.server is not None
    clients = gateway.app.server.state.clients
    chance = random.Random(7)
    most = 0

    async def visit(peer: str) -> None:
        nonlocal most
        for _ in range(6):
            client = await connect(gateway, peer)
            most = max(most, clients.open)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                match chance.randrange(5):
                    case 0:
                        client.reset()
                    case 1:
                        await client.send(HALF_A_HEAD)
                        await asyncio.sleep(chance.uniform(0, 1.5 * GRACE_SECONDS))
                    case 2:
                        await asyncio.sleep(chance.uniform(0, 1.5 * GRACE_SECONDS))
                    case _:
                        await client.request("GET", "/v1/models")
            await client.close()

    await asyncio.gather(*(visit(f"127.0.0.{number}") for number in range(2, 6) for _ in range(4)))
    await until(lambda: not clients.open)

    assert most == 6
    assert not clients._peers
    assert not clients._waiting
    assert not gateway.app.server.state._lingering
    assert not [record for record in caplog.records if record.exc_info]


async def test_an_empty_line_behind_a_request_does_not_keep_a_connection_from_making_way(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await started(start_gateway, 1)
    first = await connect(gateway)
    await first.send(first.request_bytes("GET", "/v1/models") + b"\r\n")
    assert (await first.read_answer()).status == 200
    await asyncio.sleep(PATIENCE_SECONDS)
    await served(gateway)

    assert await first.closed()


async def test_a_newcomer_takes_the_place_of_its_peers_only_connection(start_gateway: StartGateway) -> None:
    gateway = await started(start_gateway, 1)
    for _ in range(3):
        await served(gateway)
        await asyncio.sleep(PATIENCE_SECONDS)

    assert gateway.metric("gateway_client_connections") == 1
    assert gateway.app.server is not None
    assert list(gateway.app.server.state.clients._peers) == ["127.0.0.1"]


@pytest.mark.both_loops
@pytest.mark.parametrize("said", [b"", HALF_A_HEAD], ids=["nothing", "half a head"])
@pytest.mark.parametrize("reset", [False, True])
async def test_one_that_makes_way_may_just_have_left(
    reset: bool, said: bytes, start_gateway: StartGateway
) -> None:
    """The loop has not heard of it yet; the newcomer is none the worse for it."""
    gateway = await started(start_gateway, 1)
    assert gateway.app.server is not None
    server = gateway.app.server
    newcomer = One()
    with socket.create_connection((gateway.host, gateway.port)) as leaving:
        leaving.send(said)
        await until(lambda: server.state.clients.open)
        await asyncio.sleep(PATIENCE_SECONDS)
        if reset:
            leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    server.state.clients.enter(
        newcomer, "127.0.0.1", asyncio.get_running_loop().time()
    )  # in the turn in which it left

    assert (server.state.clients.open, newcomer.peer is not None) == (1, True)
    server.state.clients.leave(newcomer)
    await until(lambda: not server.connections)
