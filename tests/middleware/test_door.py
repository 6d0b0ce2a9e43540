"""Admission before memory: what is taken at the door, what the body costs beside it, and what a refusal costs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from gateway.limits.memory_buckets import MemoryBuckets
from gateway.limits.store import Step
from gateway.limits.terms import Dimension
from gateway.proxy import bites, body, incoming_body
from tests.conftest import StartGateway
from tests.kit.asking import error_of, form, verdict
from tests.kit.client import CHAT, FORM, JSON, MIB, RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import comes_to
from tests.middleware.limited import TRANSCRIBE, answers, chat, post, remaining, reporting, tenant

CONTINUE = "Expect: 100-continue\r\n"
FILES = "/v1/files"
LARGE = 100 * 1024
"""Too large to be waited for before the door."""


async def begin(gateway: Gateway, target: str, headers: str, some: bytes = b"") -> RawClient:
    """A client that has sent a head, and some of the body."""
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", target, headers=headers) + some)
    return client


def stated(count: int, kind: str = JSON) -> str:
    return f"{kind}Content-Length: {count}\r\n"


# At the door


@pytest.mark.parametrize(("target", "kind"), [(CHAT, JSON), (FILES, FORM)])
@pytest.mark.parametrize("length", ["Content-Length: 20971520\r\n", "Transfer-Encoding: chunked\r\n"])
@pytest.mark.parametrize("limit", ["max_requests_per_1_day", "max_concurrent_requests"])
async def test_who_has_no_permit_left_is_refused_before_a_byte_of_the_body(
    start_gateway: StartGateway, upstream: ScriptedUpstream, target: str, kind: str, length: str, limit: str
) -> None:
    gateway = await start_gateway(**tenant(**{limit: 1}))

    async def waits(turn: Turn) -> None:
        await turn.read_body()
        upstream.gate("first is up").set()
        await turn.wait_for("done")
        await turn.send(reporting(1))

    upstream.plays(waits)
    first = asyncio.create_task(post(gateway, CHAT, chat()))
    await upstream.passed("first is up")
    client = await begin(gateway, target, kind + length)
    refused = await client.read_answer()
    upstream.gate("done").set()

    assert verdict(refused) == (429, "rate_limit_exceeded")
    assert refused.get("connection") == "close", "nobody waits for 20 MiB that nobody wants"
    assert (await first).status == 200
    assert len(upstream.requests) == 1


async def test_client_that_goes_on_sending_what_was_refused_reads_why(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=1))
    await post(gateway, CHAT, chat())
    client = await begin(gateway, CHAT, stated(20 * MIB))
    try:
        for _ in range(20):
            await client.send(bytes(MIB))
            await asyncio.sleep(0.005)
    except ConnectionError:
        pass
    assert verdict(await client.read_answer()) == (429, "rate_limit_exceeded")
    assert await client.closed()
    lines = await gateway.lines.wait(2)
    assert (lines[1]["status"], lines[1]["bytes_in"]) == (429, 0)


async def test_connection_outlives_a_refusal_that_leaves_little_behind(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(max_concurrent_requests=1))
    blocker = await begin(gateway, CHAT, stated(LARGE))
    await slots_are(gateway, 0)
    client = await gateway.connect()
    assert (await client.request("POST", CHAT, chat(), headers=JSON)).status == 429
    await blocker.close()
    await slots_are(gateway, 1)
    assert (await client.request("POST", CHAT, chat(), headers=JSON)).status == 200


async def test_slot_is_held_while_the_body_comes(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_concurrent_requests=1))
    question = chat("x" * LARGE)
    slow = await begin(gateway, CHAT, stated(len(question)), question[:1000])
    await slots_are(gateway, 0)
    second = await begin(gateway, CHAT, stated(LARGE))
    refused = await second.read_answer()
    assert verdict(refused) == (429, "rate_limit_exceeded")
    assert error_of(refused)["type"] == "concurrent-requests"
    await slow.send(question[1000:])
    assert (await slow.read_answer()).status == 200
    await slots_are(gateway, 1)
    assert [seen.body for seen in upstream.requests] == [question]


async def test_nobody_is_invited_before_slot_and_permit_have_been_taken(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=1))
    question = chat()
    invited = await begin(gateway, CHAT, stated(len(question)) + CONTINUE)
    assert (await invited.read_head()).status == 100
    second = await begin(gateway, CHAT, stated(len(question)) + CONTINUE)
    assert verdict(await second.read_answer()) == (429, "rate_limit_exceeded")
    await invited.send(question)
    assert (await invited.read_answer()).status == 200, "who was invited is not refused for the same request"


# In how many steps


@pytest.mark.parametrize(
    ("text", "apart", "steps"),
    [
        (b"x", False, 1),
        (b"x", True, 1),
        (b"x" * 60_000, True, 1),
        (b"x" * LARGE, True, 2),
        (b"x" * LARGE, False, 2),
        (b'","input":[' + b"1," * 20_000 + b'1],"x":"', False, 2),
    ],
    ids=["with its head", "behind its head", "nearly 64 KiB", "larger", "larger, with its head", "intricate"],
)
async def test_small_body_is_admitted_in_one_round_trip_and_a_large_one_in_two(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    monkeypatch: pytest.MonkeyPatch,
    text: bytes,
    apart: bool,
    steps: int,
) -> None:
    monkeypatch.setattr(body, "AT_ONCE_SECONDS", 5.0)  # this machine may be busy
    gateway = await start_gateway(**tenant(max_requests_per_1_day=9, max_tokens_per_1_day=10**6))
    answers(upstream, reporting(75_000))
    put, taken = MemoryBuckets.put, []

    def counted(store: MemoryBuckets, step: Step) -> None:
        if step.mode == "take":
            taken.append(step)
        put(store, step)

    monkeypatch.setattr(MemoryBuckets, "put", counted)
    client = await gateway.connect()
    question = chat("TEXT").replace(b"TEXT", text)
    request = client.request_bytes("POST", CHAT, question, headers=JSON)
    head_bytes = len(request) - len(question)
    if apart:
        await client.send(request[:head_bytes])
        await asyncio.sleep(0.005)
        await client.send(request[head_bytes:])
    else:
        await client.send(request)
    assert (await client.read_answer()).status == 200
    assert len(taken) == steps

    async def ten_thousands() -> int:
        return await remaining(gateway, Dimension.TOKENS_PER_DAY) // 10**4  # the bucket fills while we look

    await comes_to(92, ten_thousands)
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY) == 8


async def test_levels_of_both_steps_are_told(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=9, max_tokens_per_1_day=10**6))
    answer = await post(gateway, CHAT, chat("x" * LARGE, max_tokens=10))
    assert answer.get("x-ratelimit-remaining-requests") == "8"
    assert 10**6 - LARGE < int(answer.get("x-ratelimit-remaining-tokens") or 0) < 10**6 - LARGE // 4


# A refused request costs nothing


async def slots_are(gateway: Gateway, count: int) -> None:
    await comes_to(count, lambda: remaining(gateway, Dimension.CONCURRENT_REQUESTS))


BODY = chat("x" * LARGE)


async def leaves(gateway: Gateway, target: str) -> None:
    client = await begin(gateway, target, stated(LARGE, JSON if target == CHAT else FORM), BODY[:1000])
    await slots_are(gateway, 0)
    client.reset()


async def stalls(gateway: Gateway, target: str) -> None:
    client = await begin(gateway, target, stated(LARGE, JSON if target == CHAT else FORM), b"--edge")
    await slots_are(gateway, 0)
    assert verdict(await client.read_answer()) == (408, "request_timeout")


async def outgrows(gateway: Gateway, target: str) -> None:
    kind = JSON if target == CHAT else FORM
    client = await begin(gateway, target, kind + "Transfer-Encoding: chunked\r\n", b"5\r\n--edg\r\n")
    await slots_are(gateway, 0)
    await client.send(b"%x\r\n" % (3 * LARGE) + b"x" * 3 * LARGE)
    assert verdict(await client.read_answer()) == (413, "request_too_large")


async def breaks_its_framing(gateway: Gateway, target: str) -> None:
    kind = JSON if target == CHAT else FORM
    client = await begin(gateway, target, kind + "Transfer-Encoding: chunked\r\n", b"5\r\n--edg\r\n")
    await slots_are(gateway, 0)
    await client.send(b"zz\r\n")
    assert verdict(await client.read_answer()) == (400, "bad_framing")


async def is_no_json(gateway: Gateway, target: str) -> None:
    assert verdict(await post(gateway, target, b"[" * LARGE)) == (400, "invalid_json")


async def names_a_closed_model(gateway: Gateway, target: str) -> None:
    refused = await post(gateway, target, chat("x" * LARGE), models=["other"])
    assert verdict(refused) == (403, "model_not_allowed")


async def costs_more_than_the_limit(gateway: Gateway, target: str) -> None:
    refused = await post(gateway, target, chat("x" * LARGE, max_tokens=10**6))
    assert verdict(refused) == (400, "request_too_large_for_limit")


async def exceeds_the_limit_of_its_model(gateway: Gateway, target: str) -> None:
    refused = await post(gateway, target, chat("x" * LARGE, model="o3"))
    assert verdict(refused) == (400, "request_too_large_for_limit")


Ask = Callable[[Gateway, str], Awaitable[None]]


@pytest.mark.parametrize(
    ("target", "asks"),
    [
        *((CHAT, asks) for asks in (leaves, stalls, outgrows, breaks_its_framing, is_no_json)),
        *((CHAT, asks) for asks in (names_a_closed_model, costs_more_than_the_limit)),
        (CHAT, exceeds_the_limit_of_its_model),
        *((FILES, asks) for asks in (stalls, outgrows, breaks_its_framing)),
    ],
)
async def test_what_is_refused_behind_the_door_costs_nothing(
    start_gateway: StartGateway, target: str, asks: Ask
) -> None:
    gateway = await start_gateway(
        **tenant(
            max_requests_per_1_day=9,
            max_concurrent_requests=1,
            max_tokens_per_1_day=20_000,
            models={"o3": {"max_tokens_per_1_day": 1}},
        ),
        edge={
            "body_idle_timeout_seconds": 0.3,
            "max_json_body_bytes": 2 * LARGE,
            "max_body_bytes": 2 * LARGE,
        },
    )
    await asks(gateway, target)
    await slots_are(gateway, 1)
    await comes_to(9, lambda: remaining(gateway, Dimension.REQUESTS_PER_DAY))
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 20_000
    assert gateway.metric('gateway_body_memory_bytes{state="held"}') == 0
    assert gateway.metric("gateway_limit_held_exchanges") == 0


async def test_form_that_is_refused_on_its_way_costs_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Its beginning went up, and no end."""
    gateway = await start_gateway(
        **tenant(max_requests_per_1_day=9, max_audio_megabytes_per_1_minute=1, max_concurrent_requests=1)
    )
    upload = form(("file", bytes(LARGE)), ("model", b"whisper-1"), file_at=0)
    refused = await post(gateway, TRANSCRIBE, upload, FORM, models=["other"])
    assert verdict(refused) == (403, "model_not_allowed")
    assert not any(seen.complete for seen in upstream.requests)
    await slots_are(gateway, 1)
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY) == 9
    assert await remaining(gateway, Dimension.AUDIO_MEGABYTES_PER_MINUTE) == 1


# How long a body may take


@pytest.mark.parametrize(("target", "kind"), [(CHAT, JSON), (FILES, FORM)])
@pytest.mark.parametrize("length", ["Content-Length: 1000\r\n", "Transfer-Encoding: chunked\r\n"])
async def test_body_that_drips_is_given_up(
    start_gateway: StartGateway, upstream: ScriptedUpstream, target: str, kind: str, length: str
) -> None:
    gateway = await start_gateway(
        edge={"body_timeout_seconds": 0.5, "body_idle_timeout_seconds": 30.0},
        **tenant(max_concurrent_requests=20),
    )

    async def drips() -> tuple[int, str | None]:
        client = await begin(gateway, target, kind + length)
        answer = asyncio.create_task(client.read_answer())
        while not answer.done():
            try:
                await client.send(b"1\r\nx\r\n" if "chunked" in length else b"x")
            except ConnectionError:
                break
            await asyncio.sleep(0.05)
        assert "too slowly" in error_of(await answer)["message"]
        return verdict(await answer)

    assert await asyncio.gather(*(drips() for _ in range(20))) == [(408, "request_timeout")] * 20
    await slots_are(gateway, 20)
    assert not any(seen.complete for seen in upstream.requests)


async def test_drip_is_given_up_however_much_it_says_will_come(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming_body, "LEAST_SECONDS", 0.5)
    gateway = await start_gateway(**tenant(max_concurrent_requests=1))
    client = await begin(gateway, FILES, stated(2**30, FORM))
    answer = asyncio.create_task(client.read_answer())
    while not answer.done():
        try:
            await client.send(b"x")
        except ConnectionError:
            break
        await asyncio.sleep(0.05)
    assert verdict(await answer) == (408, "request_timeout")
    await slots_are(gateway, 1)


CHUNK = b"%x\r\n%b\r\n1;x=%b\r\n" % (5000, b" " * 5000, b"a" * 100_000)
"""Behind some of the body much that is next to nothing of it."""


@pytest.mark.parametrize(("target", "kind"), [(CHAT, JSON), (FILES, FORM)])
async def test_what_comes_around_the_body_does_not_stop_its_clock(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, target: str, kind: str
) -> None:
    """What has come and waits to be taken is not the client's time, but it need not be any of the body."""
    monkeypatch.setattr(bites, "_TURN_BYTES", 4096)  # as if others took most of each turn
    gateway = await start_gateway(
        edge={"body_timeout_seconds": 1.0, "body_idle_timeout_seconds": 30.0},
        **tenant(max_concurrent_requests=1),
    )
    client = await begin(gateway, target, kind + "Transfer-Encoding: chunked\r\n", CHUNK)
    answer = asyncio.create_task(client.read_answer())
    for _ in range(20):
        await asyncio.sleep(0.4)
        if answer.done():
            break
        client.writer.write(b" \r\n" + CHUNK)
    else:
        pytest.fail("it is waited for as long as it likes")
    assert verdict(await answer) == (408, "request_timeout")
    await slots_are(gateway, 1)


@pytest.mark.parametrize(("target", "kind"), [(CHAT, JSON), (FILES, FORM)])
@pytest.mark.parametrize(
    "flood", [b"1;x=" + b"a" * MIB, b"1\r\nx\r\n" + b"0" * MIB], ids=["extension", "size"]
)
async def test_body_that_is_next_to_nothing_but_framing_is_refused(
    start_gateway: StartGateway, target: str, kind: str, flood: bytes
) -> None:
    """It has no end, and there is always some of it that waits to be taken."""
    gateway = await start_gateway(**tenant(max_concurrent_requests=1))
    client = await begin(gateway, target, kind + "Transfer-Encoding: chunked\r\n")
    client.writer.write(flood)
    answer = await client.read_answer()
    assert verdict(answer) == (400, "bad_framing")
    assert "chunks" in error_of(answer)["message"]
    await slots_are(gateway, 1)


async def test_chunks_may_be_small_and_say_much_of_themselves(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway()
    text = chat("x" * 20_000)
    signed = b"".join(
        b"%08x;signature=%064x\r\n%b\r\n" % (4, at, text[at : at + 4]) for at in range(0, 20_000, 4)
    )
    rest = text[20_000:]
    client = await begin(gateway, CHAT, JSON + "Transfer-Encoding: chunked\r\n", signed)
    await client.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))
    assert (await client.read_answer()).status == 200
    assert upstream.requests[0].body == text


async def test_body_that_comes_steadily_has_a_second_more_for_every_64_kib(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, upstream: ScriptedUpstream
) -> None:
    monkeypatch.setattr(incoming_body, "LEAST_SECONDS", 0.5)
    gateway = await start_gateway()
    piece = bytes(256 * 1024)
    client = await begin(gateway, FILES, stated(10 * len(piece), FORM), piece)
    for _ in range(9):
        await asyncio.sleep(0.1)
        await client.send(piece)
    assert (await client.read_answer()).status == 200
    assert len(upstream.requests[0].body) == 10 * len(piece)


async def test_time_in_which_the_upstream_holds_a_client_back_is_not_the_clients(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"body_timeout_seconds": 1.5})

    async def dawdles(turn: Turn) -> None:
        await asyncio.sleep(3.0)
        await turn.read_body()
        await turn.send(reporting(0))

    upstream.plays(dawdles)
    upload = form(("file", bytes(16 * MIB)), ("purpose", b"batch"), file_at=0)
    assert (await post(gateway, FILES, upload, FORM)).status == 200
    assert upstream.requests[0].body == upload
