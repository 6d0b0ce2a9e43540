"""The measuring client counts what came and what did not, by kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.bench import canned
from gateway.bench.certificate import make_certificate, served_with
from gateway.bench.measuring import Measuring
from gateway.bench.upstream import RawUpstream
from gateway.bench.works import (
    Idle,
    Outcome,
    Requests,
    Silent,
    Sockets,
    Streams,
    Target,
    Uploads,
    Work,
    work_from,
)

Respond = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    upstream = RawUpstream()
    server = await upstream.listen(0)
    yield Target(port=server.sockets[0].getsockname()[1])
    server.close()
    upstream.schedule.close()


async def done(target: Target, *works: Work) -> list[Outcome]:
    return await Measuring(list(works), target).run()


@pytest.mark.parametrize(
    "work",
    [
        Requests(count=50, connections=4),
        Requests(count=20, per_second=2000, connections=2),
        Requests(path=canned.EMBEDDINGS, body=canned.embeddings(), count=10),
        Requests(
            path=canned.SPEECH, body=canned.speech(2_000_000), count=4, connections=2, answer_bytes=2_000_000
        ),
        Requests(
            path=canned.SPEECH,
            body=canned.speech(2_000_000, chunked=False),
            count=4,
            connections=2,
            answer_bytes=2_000_000,
        ),
    ],
    ids=["closed", "rate", "embeddings", "chunked", "length"],
)
async def test_requests_are_all_answered_and_measured(work: Requests, target: Target) -> None:
    [outcome] = await done(target, work)
    assert (outcome.sent, outcome.finished, outcome.ok, outcome.errors) == (work.count,) * 3 + ({},)
    assert outcome.statuses == {"200": work.count}
    assert outcome.latency_us.count == work.count
    assert outcome.late_us.count == (work.count if work.per_second else 0)
    if work.answer_bytes:
        assert outcome.answer_bytes == work.count * work.answer_bytes


@pytest.mark.parametrize("trusted", [True, False])
async def test_tls_is_spoken_to_whom_is_trusted(trusted: bool, tmp_path: Path) -> None:
    authority = make_certificate(tmp_path)
    server = await RawUpstream().listen(0, served_with(tmp_path))
    port = server.sockets[0].getsockname()[1]
    if not trusted:
        authority = make_certificate(tmp_path)
    [outcome] = await done(Target(port=port, ca_file=str(authority)), Requests(count=3, connections=1))
    server.close()
    assert outcome.ok == (3 if trusted else 0)
    assert outcome.errors == ({} if trusted else {"not connected: SSLCertVerificationError": 1})


async def test_streams_are_measured_event_by_event(target: Target) -> None:
    [outcome] = await done(target, Streams(streams=5, events=4, every_seconds=0.002, ramp_seconds=0.01))
    assert (outcome.ok, outcome.events, outcome.errors) == (5, 20, {})
    assert (outcome.delay_us.count, outcome.first_us.count, outcome.slip_us.count) == (20, 5, 5)
    assert 0 < outcome.delay_us.p50 <= outcome.delay_us.p99 <= outcome.delay_us.most


async def test_an_upload_arrives_whole_and_is_made_while_it_is_sent(target: Target) -> None:
    [outcome] = await done(target, Uploads(file_bytes=3_000_001, connections=2, count=4))
    assert (outcome.ok, outcome.sent_bytes, outcome.errors) == (4, 12_000_004, {})


async def test_messages_of_sockets_come_back(target: Target) -> None:
    [outcome] = await done(target, Sockets(sockets=3, per_second=200, seconds=0.1, ramp_seconds=0.0))
    assert (outcome.ok, outcome.statuses, outcome.errors) == (3, {"101": 3}, {})
    assert outcome.events == outcome.delay_us.count > 0


async def test_what_is_held_stays_until_the_client_is_told_to_stop(target: Target) -> None:
    measuring = Measuring(
        [Silent(streams=4, ramp_seconds=0.0), Idle(connections=3, ramp_seconds=0.0)], target
    )
    steady = asyncio.Event()
    running = asyncio.create_task(measuring.run(steady.set))
    await steady.wait()
    assert not running.done()
    measuring.stop()
    silent, idle = await running
    assert (silent.events, silent.finished, silent.errors) == (4, 0, {})
    assert (idle.ok, idle.errors) == (3, {})


@pytest.mark.parametrize("work", [Silent(streams=3, ramp_seconds=0.0), Idle(connections=3, ramp_seconds=0.0)])
async def test_what_fails_is_not_waited_for(work: Work) -> None:
    turns = iter((True, False, False))

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_served = next(turns)
        await request(reader)
        if not is_served:
            return
        event = canned.EVENT_FORM % 1 if isinstance(work, Silent) else b"0\r\n\r\n"
        writer.write(canned.EVENTS_HEAD + event)
        await reader.read()

    async with scripted(respond) as target:
        measuring = Measuring([work], target)
        steady = asyncio.Event()
        running = asyncio.create_task(measuring.run(steady.set))
        await steady.wait()
        measuring.stop()
        [outcome] = await running
    assert outcome.errors["closed unanswered"] == 2
    assert outcome.events + outcome.ok == 1


async def test_works_run_side_by_side_and_one_may_begin_later(target: Target) -> None:
    first, second = await done(
        target,
        Streams(streams=2, events=30, every_seconds=0.005, ramp_seconds=0.0),
        Requests(after_seconds=0.02, count=5, connections=1),
    )
    assert (first.ok, second.ok) == (2, 5)


async def test_a_closed_loop_ends_when_its_time_is_over(target: Target) -> None:
    [outcome] = await done(target, Requests(seconds=0.05, connections=2))
    assert outcome.ok == outcome.sent == outcome.finished > 0


@asynccontextmanager
async def scripted(respond: Respond) -> AsyncIterator[Target]:
    """A server that does what it is told with each connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await respond(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Target(port=server.sockets[0].getsockname()[1], credentials=("one", "two", "three"))
    finally:
        server.close()


async def request(reader: asyncio.StreamReader) -> bytes:
    """The head of a request whose body has been read."""
    head = await reader.readuntil(b"\r\n\r\n")
    stated = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(stated or b"0"))
    return head


def answering(answer: bytes, *, reset: bool = False) -> Respond:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await request(reader)
            writer.write(answer)
            await writer.drain()
            if reset:
                writer.transport.abort()

    return respond


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)


async def cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await request(reader)
    writer.write(OK[:-1])


async def leave_waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


ONE = Requests(count=1, connections=1, most_seconds=5)


@pytest.mark.parametrize(
    ("respond", "work", "errors"),
    [
        (hang_up, ONE, {"closed unanswered": 1}),
        (cut, ONE, {"cut": 1}),
        (answering(b"SSH-2.0\r\n\r\n"), ONE, {"not HTTP": 1}),
        (answering(OK + b"!"), ONE, {"more than was asked for": 1}),
        (answering(OK), Requests(count=1, connections=1, answer_bytes=3), {"wrong size": 1}),
        (leave_waiting, Requests(count=1, connections=1, most_seconds=1), {"unfinished": 1}),
        (
            answering(OK),
            Streams(streams=1, events=3, ramp_seconds=0.0),
            {"events missing": 3, "not whole": 1},
        ),
        (cut, Streams(streams=2, events=3, ramp_seconds=0.0), {"events missing": 6, "cut": 2}),
        (answering(OK), Uploads(file_bytes=10), {"not all arrived": 1}),
        (answering(OK), Sockets(sockets=2, seconds=0.0, ramp_seconds=0.0), {"no socket": 2}),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
async def test_what_goes_wrong_is_counted_by_its_kind(
    respond: Respond, work: Work, errors: dict[str, int]
) -> None:
    async with scripted(respond) as target:
        [outcome] = await done(target, work)
    assert outcome.errors == errors
    assert outcome.ok == 0


async def test_a_refusal_is_counted_by_its_status_and_quoted_once() -> None:
    refusal = b'HTTP/1.1 429 Too Many\r\nContent-Length: 15\r\n\r\n{"error": "no"}'
    async with scripted(answering(refusal)) as target:
        [outcome] = await done(target, Requests(count=3, connections=1))
    assert (outcome.finished, outcome.ok, outcome.errors) == (3, 0, {"status 429": 3})
    assert outcome.first_error == '{"error": "no"}'


async def test_nobody_listening_is_an_error_for_each_connection() -> None:
    async with scripted(hang_up) as target:
        pass
    [outcome] = await done(target, Requests(count=3, connections=2))
    assert (outcome.sent, outcome.errors) == (0, {"not connected: ConnectionRefusedError": 2})


async def test_a_connection_that_does_not_last_is_replaced() -> None:
    last = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await request(reader)
        writer.write(last)

    async with scripted(respond) as target:
        [outcome] = await done(target, Requests(count=5, connections=1, answer_bytes=2))
    assert (outcome.ok, outcome.errors) == (5, {})


async def test_credentials_are_taken_in_turn() -> None:
    heads = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await request(reader))
            writer.write(OK)

    async with scripted(respond) as target:
        await done(target, Requests(count=7, connections=1))
    sent = [head.partition(b"Authorization: Bearer ")[2].partition(b"\r\n")[0] for head in heads]
    assert sent == [b"one", b"two", b"three", b"one", b"two", b"three", b"one"]


@pytest.mark.parametrize("data", [{"kind": "none"}, {}, {"kind": "requests", "nothing": 1}])
def test_a_plan_that_cannot_be_read_is_refused(data: dict[str, object]) -> None:
    with pytest.raises((KeyError, TypeError)):
        work_from(data)
