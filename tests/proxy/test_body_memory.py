"""The room that bodies have in memory: bounded in all and for each tenant, waited for in turn, always given back."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from gateway.errors import BodyTooLarge, Overloaded
from gateway.proxy.body_memory import GROWTH_BYTES, MOST_WAITING, STREAMED_BYTES, BodyMemory
from tests.conftest import StartGateway
from tests.kit.asking import error_of, verdict
from tests.kit.client import CHAT, FORM, JSON, MIB, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import OK, SSE_HEAD, ScriptedUpstream, Turn
from tests.kit.waiting import until
from tests.middleware.limited import TRANSCRIBE, chat, post

CONTINUE = "Expect: 100-continue\r\n"


KIB = 1024


class Book:
    """A memory of 1000 KiB of which a tenant may have half, and what it told."""

    def __init__(self, *, share: float = 0.5, patience_seconds: float = 0.2) -> None:
        self.seen: list[str] = []
        self.refused: Counter[tuple[str, str]] = Counter()
        self.memory = BodyMemory(
            most_bytes=1000 * KIB,
            share=share,
            refused=lambda tenant, reason: self.refused.update([(tenant, reason)]),
            first=self.seen.append,
            patience_seconds=patience_seconds,
        )


class TestRoom:
    async def test_is_had_at_once_up_to_the_share_of_a_tenant(self) -> None:
        book = Book()
        first, second, other = (book.memory.room_for(tenant) for tenant in ("a", "a", "b"))
        assert first.take_now(300 * KIB)
        assert not second.take_now(201 * KIB)
        assert second.take_now(200 * KIB)
        assert other.take_now(400 * KIB), "another has its own"
        assert book.memory.held_bytes == 900 * KIB
        for room in (first, second, other):
            room.release()
            room.release()
        assert [book.memory.held_bytes, *map(book.memory.held_by, "ab")] == [0, 0, 0]
        assert book.seen == ["a", "b"]

    async def test_stays_free_for_those_who_hold_little_however_much_others_hold(self) -> None:
        book = Book()
        for tenant, most in (("a", 500 * KIB), ("b", 400 * KIB)):
            room = book.memory.room_for(tenant)
            assert room.take_now(most)
        assert not book.memory.room_for("b").take_now(1 * KIB), "nine tenths are held"
        assert not book.memory.room_for("c").take_now(101 * KIB)
        assert book.memory.room_for("c").take_now(100 * KIB)
        assert not book.memory.room_for("d").take_now(1 * KIB)

    async def test_grows_in_steps_for_a_body_that_states_no_size(self) -> None:
        memory = BodyMemory(most_bytes=10 * MIB, share=0.5, refused=print, first=print)
        room = memory.room_for("a")
        await room.grow(1)
        assert memory.held_bytes == GROWTH_BYTES
        await room.grow(GROWTH_BYTES + 1)
        assert memory.held_bytes == 2 * GROWTH_BYTES
        await room.grow(5 * MIB)
        assert memory.held_bytes == 5 * MIB
        with pytest.raises(BodyTooLarge):
            await room.grow(5 * MIB + 1)
        room.release()
        assert memory.held_bytes == 0

    async def test_that_can_never_be_had_is_refused_at_once(self) -> None:
        book = Book(patience_seconds=60)
        with pytest.raises(BodyTooLarge, match="512000 bytes that one tenant's"):
            await book.memory.room_for("a").take(501 * KIB)
        assert book.refused == {("a", "never_fits"): 1}

    async def test_is_waited_for_and_then_refused(self) -> None:
        book = Book()
        assert book.memory.room_for("a").take_now(500 * KIB)
        assert book.memory.room_for("b").take_now(400 * KIB)
        with pytest.raises(Overloaded, match="Your other requests"):
            await book.memory.room_for("a").take(1 * KIB)
        with pytest.raises(Overloaded, match="as many request bodies"):
            await book.memory.room_for("c").take(200 * KIB)
        assert book.refused == {("a", "share"): 1, ("c", "full"): 1}
        assert (book.memory.waiting, book.memory.held_bytes) == (0, 900 * KIB)

    async def test_is_waited_for_by_so_many_of_a_tenant_and_no_more(self) -> None:
        book = Book(patience_seconds=10)
        assert book.memory.room_for("a").take_now(500 * KIB)
        waiting = [asyncio.create_task(book.memory.room_for("a").take(1 * KIB)) for _ in range(MOST_WAITING)]
        await until(lambda: book.memory.waiting == MOST_WAITING)
        with pytest.raises(Overloaded):
            await book.memory.room_for("a").take(1 * KIB)
        other = asyncio.create_task(book.memory.room_for("b").take(500 * KIB))
        await until(lambda: book.memory.waiting == MOST_WAITING + 1)
        for task in (*waiting, other):
            task.cancel()
        await asyncio.gather(*waiting, other, return_exceptions=True)
        assert (book.memory.waiting, book.memory.held_bytes) == (0, 500 * KIB)

    async def test_that_comes_free_goes_to_the_tenant_that_holds_least(self) -> None:
        book = Book(share=0.9, patience_seconds=10)
        held = book.memory.room_for("a")
        assert held.take_now(800 * KIB)
        served: list[str] = []

        async def waits(name: str, size: int) -> None:
            await book.memory.room_for(name[0]).take(size)
            served.append(name)

        waiting = [
            asyncio.create_task(waits(*ask))
            for ask in (("a1", 300 * KIB), ("a2", 300 * KIB), ("b1", 300 * KIB))
        ]
        await until(lambda: book.memory.waiting == 3)
        held.release()
        await asyncio.gather(*waiting)
        assert served[0] == "a1" or served[0] == "b1"
        assert served.index("b1") < served.index("a2")

    async def test_is_served_in_the_order_of_asking_to_one_tenant(self) -> None:
        book = Book(patience_seconds=10)
        held = book.memory.room_for("a")
        assert held.take_now(400 * KIB)
        large, small = book.memory.room_for("a"), book.memory.room_for("a")
        first = asyncio.create_task(large.take(200 * KIB))
        await until(lambda: book.memory.waiting == 1)
        assert not small.take_now(70 * KIB), "who came later waits, though it would fit"
        second = asyncio.create_task(small.take(70 * KIB))
        assert book.memory.room_for("a").take_now(50 * KIB), "what is little waits behind nothing"
        await asyncio.sleep(0)
        held.release()
        await asyncio.gather(first, second)
        assert book.memory.held_bytes == 320 * KIB

    async def test_that_somebody_gave_up_waiting_for_goes_to_the_next(self) -> None:
        book = Book(patience_seconds=10)
        held = book.memory.room_for("a")
        assert held.take_now(400 * KIB)
        first = asyncio.create_task(book.memory.room_for("a").take(200 * KIB))
        await until(lambda: book.memory.waiting == 1)
        second = asyncio.create_task(book.memory.room_for("a").take(90 * KIB))
        await until(lambda: book.memory.waiting == 2)
        first.cancel()
        await second
        assert (book.memory.held_bytes, book.memory.waiting) == (490 * KIB, 0)

    async def test_that_is_given_to_somebody_who_leaves_in_the_same_moment_is_not_lost(self) -> None:
        book = Book(patience_seconds=10)
        held = book.memory.room_for("a")
        assert held.take_now(400 * KIB)
        for leaves_first in (True, False):
            waiting = asyncio.create_task(book.memory.room_for("a").take(200 * KIB))
            await until(lambda: book.memory.waiting == 1)
            if leaves_first:
                waiting.cancel()
                held.release()
            else:
                held.release()
                waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert (book.memory.held_bytes, book.memory.waiting) == (0, 0)
            assert held.take_now(400 * KIB)


# Over sockets

CAP = 10 * MIB
TENANTS = {name: {**EVERY_SCOPE, "upstream": {"api_key": f"sk-{name}"}} for name in ("acme", "beta", "gamma")}


async def gateway_with_room(start: StartGateway, **edge: object) -> Gateway:
    return await start(tenants=TENANTS, edge={"body_memory_bytes": CAP, **edge})


async def invited(gateway: Gateway, size: int, tenant: str = "acme") -> RawClient:
    """A client whose body of this size has room, and is still to come."""
    client = await RawClient.connect(gateway.host, gateway.port, gateway.credential(tenant=tenant))
    gateway.clients.append(client)
    headers = f"{JSON}Content-Length: {size}\r\n{CONTINUE}"
    await client.send(client.request_bytes("POST", CHAT, headers=headers))
    assert (await client.read_head()).status == 100
    return client


def held(gateway: Gateway) -> float:
    return gateway.metric('gateway_body_memory_bytes{state="held"}')


async def test_tenant_that_fills_its_share_waits_alone_and_is_told_to_come_back(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await gateway_with_room(start_gateway)
    for _ in range(5):
        await invited(gateway, MIB)
    assert held(gateway) == 5 * MIB
    assert gateway.metric('gateway_body_memory_held_bytes{tenant="acme"}') == 5 * MIB
    refused = await post(gateway, CHAT, chat("x" * MIB))
    assert verdict(refused) == (503, "overloaded")
    assert refused.get("retry-after") == "1"
    assert "Your other requests' bodies" in error_of(refused)["message"]
    assert (await post(gateway, CHAT, chat("x" * MIB), tenant="beta")).status == 200
    assert len(upstream.requests) == 1
    series = 'gateway_body_memory_refusals_total{reason="share",tenant="acme"}'
    assert gateway.metric(series) == 1


async def test_small_bodies_of_others_have_room_whoever_fills_the_rest(start_gateway: StartGateway) -> None:
    gateway = await gateway_with_room(start_gateway)
    for _ in range(5):
        await invited(gateway, MIB)
    for _ in range(4):
        await invited(gateway, MIB, "beta")
    assert (await post(gateway, CHAT, chat("x" * 900_000), tenant="gamma")).status == 200
    refused = await post(gateway, CHAT, chat("x" * 2 * MIB), tenant="gamma")
    assert verdict(refused) == (503, "overloaded")
    assert gateway.metric('gateway_body_memory_refusals_total{reason="full",tenant="gamma"}') == 1


async def test_body_that_waits_is_taken_as_soon_as_there_is_room(start_gateway: StartGateway) -> None:
    gateway = await gateway_with_room(start_gateway)
    first = await invited(gateway, 5 * MIB)
    waiting = asyncio.create_task(post(gateway, CHAT, chat("x" * MIB)))
    await until(lambda: gateway.app.services.memory.waiting == 1)
    first.reset()
    assert (await waiting).status == 200
    await until(lambda: held(gateway) == 0)


@pytest.mark.parametrize("framing", [f"Content-Length: {6 * MIB}\r\n", "Transfer-Encoding: chunked\r\n"])
async def test_body_that_can_never_have_room_is_refused(start_gateway: StartGateway, framing: str) -> None:
    gateway = await gateway_with_room(start_gateway)
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", CHAT, headers=JSON + framing))
    try:
        for _ in range(6 if "chunked" in framing else 0):
            await client.send(b"%x\r\n" % MIB + b" " * MIB + b"\r\n")
    except ConnectionError:
        pass
    refused = await client.read_answer()
    assert verdict(refused) == (413, "request_too_large")
    assert f"{5 * MIB} bytes that one tenant's bodies may occupy" in error_of(refused)["message"]
    await until(lambda: held(gateway) == 0)


@asynccontextmanager
async def streaming(gateway: Gateway, upstream: ScriptedUpstream, body: bytes) -> AsyncIterator[None]:
    """An exchange whose body has gone up, and whose answer goes on."""

    async def streams(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(b"data: 1\n\n")
        await turn.wait_for("end")
        await turn.send(b"0\r\n\r\n")

    upstream.plays(streams)
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", CHAT, body, headers=JSON))
    answer = await client.read_head()
    yield
    upstream.gate("end").set()
    await client.read_body(answer)
    assert answer.clean_end


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_room_is_given_back_when_the_body_has_gone_up_however_long_the_answer(
    start_gateway: StartGateway, upstream: ScriptedUpstream, size: int
) -> None:
    gateway = await gateway_with_room(start_gateway)
    async with streaming(gateway, upstream, chat("x" * size, stream=True)):
        await until(lambda: held(gateway) == 0)
    assert upstream.requests[0].body == chat("x" * size, stream=True)


async def test_room_of_a_small_body_is_given_back_while_the_upstream_thinks(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await gateway_with_room(start_gateway)
    read, body = asyncio.Event(), chat("x" * 1000)

    async def thinks(turn: Turn) -> None:
        await turn.read_body()
        read.set()
        await turn.wait_for("answer")
        await turn.send(OK)

    upstream.plays(thinks)
    asking = asyncio.create_task(post(gateway, CHAT, body))
    await read.wait()
    await until(lambda: held(gateway) == 0)
    upstream.gate("answer").set()
    assert (await asking).status == 200
    assert upstream.requests[0].body == body


@pytest.mark.parametrize(
    ("length", "room"), [(10 * MIB, STREAMED_BYTES), (20_000, 20_000), (None, STREAMED_BYTES)]
)
async def test_body_that_streams_has_room_for_what_lies_here_of_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream, length: int | None, room: int
) -> None:
    gateway = await gateway_with_room(start_gateway)
    client = await gateway.connect()
    framing = "Transfer-Encoding: chunked\r\n" if length is None else f"Content-Length: {length}\r\n"
    await client.send(client.request_bytes("POST", TRANSCRIBE, headers=FORM + framing))
    await until(lambda: held(gateway) == room)
    client.reset()
    await until(lambda: held(gateway) == 0)


async def test_body_that_comes_byte_by_byte_arrives_as_it_was(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """What is kept is larger pieces: a byte that is an object of its own occupies forty."""
    gateway = await gateway_with_room(start_gateway)
    client = await gateway.connect()
    body = chat("x" * 3000)
    await client.send(client.request_bytes("POST", CHAT, headers=JSON + "Transfer-Encoding: chunked\r\n"))
    for letter in body:
        client.writer.write(b"1\r\n%c\r\n" % letter)
        await asyncio.sleep(0)
    await client.send(b"0\r\n\r\n")
    assert (await client.read_answer()).status == 200
    assert upstream.requests[0].body == body
