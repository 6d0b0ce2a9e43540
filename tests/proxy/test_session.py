"""Open sessions frame by frame: what passes, passes unchanged; what is wrong ends with a code that says so."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

import pytest

from gateway.proxy import session as sessions
from tests.conftest import StartGateway
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import until
from tests.kit.websocket import (
    BINARY,
    CLOSE,
    MORE,
    PING,
    PONG,
    TEXT,
    Frame,
    Open,
    accepted,
    close_frame,
    frame,
    handshake,
    open_session,
    read_frame,
    read_to_the_end,
)

pytestmark = pytest.mark.both_loops


# Frames that pass.

PASSING = [
    frame(TEXT, b"{}"),
    frame(TEXT, b""),
    frame(BINARY, bytes(range(256))),
    frame(TEXT, b"a" * 125),
    frame(TEXT, b"a" * 126),
    frame(TEXT, b"a" * 65535),
    frame(BINARY, os.urandom(65536)),
    frame(TEXT, b"par", final=False) + frame(MORE, b"t", final=False) + frame(MORE, b"s"),
    frame(TEXT, b"be", final=False) + frame(PING, b"amid") + frame(MORE, b"tween"),
    frame(PING, b"are you there"),
    frame(PONG, b"unasked"),
    frame(PING, b"p" * 125),
    frame(BINARY, os.urandom(2**20)),
]


async def test_the_clients_frames_arrive_upstream_byte_for_byte(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    stream = b"".join(PASSING)

    sending = asyncio.create_task(session.from_client(stream))

    assert await asyncio.wait_for(session.turn.reader.readexactly(len(stream)), 10) == stream
    await sending


async def test_the_upstreams_frames_arrive_at_the_client_byte_for_byte(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    stream = b"".join(
        frame(opcode, payload, masked=False, final=final)
        for opcode, payload, final in [
            (TEXT, b'{"type":"session.created"}', True),
            (TEXT, b"split ", False),
            (PING, b"amid", True),
            (MORE, b"event", True),
            (BINARY, os.urandom(2**20), True),
            (PONG, b"", True),
        ]
    )

    sending = asyncio.create_task(session.from_upstream(stream))

    assert await asyncio.wait_for(session.client.reader.readexactly(len(stream)), 10) == stream
    await sending


async def test_frames_arrive_the_same_one_byte_at_a_time(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    stream = frame(TEXT, b"slow") + frame(PING, b"er") + frame(BINARY, b"x" * 130)

    for byte in stream:
        await session.from_client(bytes((byte,)))
        await asyncio.sleep(0)

    assert await asyncio.wait_for(session.turn.reader.readexactly(len(stream)), 5) == stream


@pytest.mark.parametrize(
    ("code", "reason"),
    [(None, ""), (1000, ""), (1000, "bye"), (1001, "away"), (3000, "é"), (4001, "x" * 123)],
)
async def test_close_codes_and_reasons_pass_end_to_end(
    code: int | None, reason: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    payload = b"" if code is None else code.to_bytes(2, "big") + reason.encode()

    await session.from_client(frame(CLOSE, payload))
    upward = await read_frame(session.turn.reader)
    await session.from_upstream(frame(CLOSE, payload, masked=False))
    session.turn.close()
    downward = await read_frame(session.client.reader)

    assert (upward.opcode, upward.payload) == (downward.opcode, downward.payload) == (CLOSE, payload)
    assert await session.client.closed()
    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"]) == (101, "complete")


async def test_the_upstreams_close_passes_and_its_answer_too(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)

    await session.from_upstream(close_frame(4000, "session over", masked=False))
    downward = await read_frame(session.client.reader)
    await session.from_client(frame(CLOSE, downward.payload))
    upward = await read_frame(session.turn.reader)
    await session.client.close()

    assert (downward.code, downward.reason) == (upward.code, upward.reason) == (4000, "session over")
    assert await read_to_the_end(session.turn.reader) == []
    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"]) == (101, "complete")


# Frames that do not.

CLIENT_OFFENCES: dict[str, tuple[bytes, int]] = {
    "unmasked": (frame(TEXT, b"bare", masked=False), 1002),
    "unmasked close": (close_frame(1000, masked=False), 1002),
    "reserved bit 1": (frame(TEXT, b"x", reserved=4), 1002),
    "reserved bit 2": (frame(TEXT, b"x", reserved=2), 1002),
    "reserved bit 3": (frame(TEXT, b"x", reserved=1), 1002),
    "reserved bit on ping": (frame(PING, b"x", reserved=4), 1002),
    "opcode 3": (frame(3, b"x"), 1002),
    "opcode 7": (frame(7, b"x"), 1002),
    "opcode 11": (frame(11, b"x"), 1002),
    "opcode 15": (frame(15, b"x"), 1002),
    "fragmented ping": (frame(PING, b"x", final=False), 1002),
    "fragmented close": (frame(CLOSE, b"", final=False), 1002),
    "ping of 126 bytes": (frame(PING, b"x" * 126), 1002),
    "close of 126 bytes": (close_frame(1000, "x" * 124), 1002),
    "close of one byte": (frame(CLOSE, b"\x03"), 1002),
    "close 0": (close_frame(0), 1002),
    "close 999": (close_frame(999), 1002),
    "close 1004": (close_frame(1004), 1002),
    "close 1005": (close_frame(1005), 1002),
    "close 1006": (close_frame(1006), 1002),
    "close 1015": (close_frame(1015), 1002),
    "close 1016": (close_frame(1016), 1002),
    "close 2999": (close_frame(2999), 1002),
    "close 5000": (close_frame(5000), 1002),
    "close reason not utf-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "text not utf-8": (frame(TEXT, b"caf\xe9"), 1007),
    "text whose last character is not whole": (frame(TEXT, "café".encode()[:-1]), 1007),
    "fragments not utf-8": (frame(TEXT, b"\xc3", final=False) + frame(PING) + frame(MORE, b"e"), 1007),
    "continuation of nothing": (frame(MORE, b"x"), 1002),
    "message within a message": (frame(TEXT, b"x", final=False) + frame(TEXT, b"y"), 1002),
    "length not in its shortest form": (b"\x81\xfe\x00\x05" + bytes(9), 1002),
    "length with its first bit set": (b"\x82\xff\x80" + bytes(11), 1002),
    "message over the cap": (frame(BINARY, bytes(2001)), 1009),
    "fragments over the cap": (frame(BINARY, bytes(1500), final=False) + frame(MORE, bytes(501)), 1009),
    "announced far over the cap": (b"\x82\xff" + (2**40).to_bytes(8, "big") + bytes(4), 1009),
}


async def test_an_offending_client_is_told_why_and_the_upstream_that_it_is_gone(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"max_websocket_message_bytes": 2000})
    before = frame(TEXT, b"fine so far")

    async def offend(kind: str, session: Open) -> None:
        offence, code = CLIENT_OFFENCES[kind]
        await session.from_client(before + offence + frame(TEXT, b"never to be seen"))
        told, passed = await asyncio.gather(
            read_to_the_end(session.client.reader), read_to_the_end(session.turn.reader)
        )

        assert [(answer.opcode, answer.code) for answer in told] == [(CLOSE, code)], kind
        assert told[0].reason, kind
        assert passed[0].raw == before, kind
        assert not [seen for seen in passed if b"never" in seen.payload], kind
        assert (passed[-1].opcode, passed[-1].code, passed[-1].masked) == (CLOSE, 1001, True), kind
        session.turn.close()

    sessions = {kind: await open_session(gateway, upstream) for kind in CLIENT_OFFENCES}
    await asyncio.gather(*(offend(kind, session) for kind, session in sessions.items()))

    lines = await gateway.lines.wait(len(CLIENT_OFFENCES))
    assert {(line["status"], line["ending"]) for line in lines} == {(101, "refused")}


UPSTREAM_OFFENCES: dict[str, bytes] = {
    "masked": frame(TEXT, b"x"),
    "reserved bit": frame(TEXT, b"x", masked=False, reserved=4),
    "opcode 5": frame(5, b"x", masked=False),
    "fragmented ping": frame(PING, b"x", masked=False, final=False),
    "ping of 126 bytes": frame(PING, b"x" * 126, masked=False),
    "close 1006": close_frame(1006, masked=False),
    "continuation of nothing": frame(MORE, b"x", masked=False),
    "message over the cap": frame(BINARY, bytes(2001), masked=False),
    "text not utf-8": frame(TEXT, b"caf\xe9", masked=False),
}


async def test_an_offending_upstream_ends_the_session_with_1011(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"max_websocket_message_bytes": 2000})

    async def offend(kind: str, session: Open) -> None:
        await session.from_upstream(UPSTREAM_OFFENCES[kind])
        [told], blamed = await asyncio.gather(
            read_to_the_end(session.client.reader), read_to_the_end(session.turn.reader)
        )

        code = 1009 if "cap" in kind else 1007 if "utf" in kind else 1002
        assert (told.opcode, told.code) == (CLOSE, 1011), kind
        assert [(answer.opcode, answer.code) for answer in blamed] == [(CLOSE, code)], kind
        session.turn.close()

    sessions = {kind: await open_session(gateway, upstream) for kind in UPSTREAM_OFFENCES}
    await asyncio.gather(*(offend(kind, session) for kind, session in sessions.items()))

    lines = await gateway.lines.wait(len(UPSTREAM_OFFENCES))
    assert {(line["status"], line["ending"]) for line in lines} == {(101, "upstream_lost")}


# Signs of life.


async def test_the_gateways_own_pings_never_show_on_the_other_side(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"websocket_heartbeat_seconds": 0.15})
    session = await open_session(gateway, upstream)
    heard: dict[str, list[Frame]] = {"client": [], "upstream": []}

    async def answer_pings(
        name: str, reader: asyncio.StreamReader, send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        while True:
            seen = await read_frame(reader)
            heard[name].append(seen)
            if seen.opcode == PING:
                await send(frame(PONG, seen.payload, masked=name == "client"))

    ends = (
        ("client", session.client.reader, session.from_client),
        ("upstream", session.turn.reader, session.from_upstream),
    )
    tasks = [asyncio.create_task(answer_pings(*end)) for end in ends]
    await asyncio.sleep(1.0)
    await session.from_client(frame(PING, b"clients own"))
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()

    pings = {
        name: [seen.payload for seen in seen_there if seen.opcode == PING]
        for name, seen_there in heard.items()
    }
    pongs = {
        name: [seen.payload for seen in seen_there if seen.opcode == PONG]
        for name, seen_there in heard.items()
    }
    assert len(pings["client"]) >= 2
    assert len(pings["upstream"]) >= 3
    assert pings["upstream"].count(b"clients own") == 1
    assert pongs == {"client": [b"clients own"], "upstream": []}
    assert len(gateway.lines.raw) == 0


@pytest.mark.parametrize("silent", ["client", "upstream"])
async def test_a_peer_that_gives_no_sign_of_life_ends_the_session(
    silent: str, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"websocket_heartbeat_seconds": 0.2})
    session = await open_session(gateway, upstream)

    async def answer_pings() -> list[Frame]:
        frames = []
        reader, send = session.client.reader, session.from_client
        if silent == "client":
            reader, send = session.turn.reader, session.from_upstream
        try:
            while True:
                frames.append(await read_frame(reader))
                if frames[-1].opcode == PING:
                    await send(frame(PONG, frames[-1].payload, masked=silent == "upstream"))
        except (asyncio.IncompleteReadError, ConnectionError):
            return frames

    async with asyncio.timeout(2.0):
        seen = await answer_pings()

    [line] = await gateway.lines.wait(1)
    assert line["ending"] == {"client": "client_left", "upstream": "upstream_lost"}[silent]
    if silent == "upstream":
        assert (seen[-1].opcode, seen[-1].code) == (CLOSE, 1011)


async def test_a_goodbye_to_silent_peers_keeps_its_reason(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """A heartbeat falls due while both are told that time is up; neither gives a sign of life."""
    gateway = await start_gateway(
        edge={"websocket_heartbeat_seconds": 0.15},
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "websocket_timeout_seconds": 0.2},
    )
    await open_session(gateway, upstream)

    [line] = await gateway.lines.wait(1)

    assert (line["ending"], line["detail"]) == ("timed_out", "session time limit reached")


# Ends.


@pytest.mark.parametrize("by", ["fin", "rst"])
async def test_a_client_that_vanishes_takes_the_upstream_session_with_it(
    by: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    await session.from_client(frame(TEXT, b"last words"))
    assert (await read_frame(session.turn.reader)).payload == b"last words"

    if by == "rst":
        session.client.reset()
    else:
        await session.client.close()
    async with asyncio.timeout(1.0):
        await read_to_the_end(session.turn.reader)

    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"]) == (101, "client_left")


@pytest.mark.parametrize("by", ["fin", "rst"])
async def test_an_upstream_that_vanishes_is_told_to_the_client_with_1011(
    by: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    await session.from_upstream(frame(TEXT, b"last words", masked=False))
    assert (await read_frame(session.client.reader)).payload == b"last words"

    if by == "rst":
        session.turn.reset()
    else:
        session.turn.close()
    [told] = await read_to_the_end(session.client.reader)

    assert (told.opcode, told.code) == (CLOSE, 1011)
    assert told.reason
    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"]) == (101, "upstream_lost")


async def test_an_upstream_that_vanishes_inside_a_frame_leaves_no_close_frame_in_its_payload(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    cut = frame(TEXT, b"x" * 100, masked=False)[:50]

    await session.from_upstream(cut)
    session.turn.close()
    received = await asyncio.wait_for(session.client.reader.read(), 5)

    assert cut.startswith(received)
    assert (await gateway.lines.wait(1))[0]["ending"] == "upstream_lost"


async def test_the_session_ends_when_its_time_is_up_and_says_so(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "websocket_timeout_seconds": 0.4}
    )
    session = await open_session(gateway, upstream)

    told, passed = await asyncio.gather(
        read_to_the_end(session.client.reader), read_to_the_end(session.turn.reader)
    )

    for side in (told, passed):
        closes = [seen for seen in side if seen.opcode == CLOSE]
        assert [seen.code for seen in closes] == [1008]
        assert "time limit" in closes[0].reason
    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"]) == (101, "timed_out")


async def test_the_session_ends_when_its_credential_expires_and_says_so(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    turns: asyncio.Queue[Turn] = asyncio.Queue()

    async def script(turn: Turn) -> None:
        await turn.send(accepted(turn))
        turns.put_nowait(turn)
        await turn.gone()

    upstream.plays(script)
    client = await gateway.connect()
    client.credential = gateway.credential(ttl_seconds=1)
    await client.send(handshake(client))
    assert (await client.read_head()).status == 101

    [told] = [seen for seen in await read_to_the_end(client.reader) if seen.opcode == CLOSE]

    assert told.code == 1008
    assert "expired" in told.reason
    assert await upstream.all_closed()
    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"]) == (101, "timed_out")


async def test_a_close_that_nobody_answers_does_not_hold_the_session_for_long(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "CLOSING_SECONDS", 0.3)
    session = await open_session(gateway, upstream)

    await session.from_client(close_frame(1000))
    assert (await read_frame(session.turn.reader)).code == 1000
    async with asyncio.timeout(2):
        assert await session.client.reader.read() == b""

    [line] = await gateway.lines.wait(1)
    assert line["ending"] == "complete"


async def test_our_own_goodbye_is_over_when_both_sides_have_answered(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    gateway.app.services.lifecycle.cut()
    assert (await read_frame(session.client.reader)).code == 1001
    assert (await read_frame(session.turn.reader)).code == 1001

    await session.from_upstream(close_frame(1001, masked=False))
    session.turn.close()
    with pytest.raises(TimeoutError):  # the client may still be saying something
        await asyncio.wait_for(session.client.reader.read(), 0.2)
    await session.from_client(close_frame(1001))
    async with asyncio.timeout(0.2):
        assert await session.client.reader.read() == b""

    [line] = await gateway.lines.wait(1)
    assert (line["ending"], line["detail"]) == ("drained", "the gateway is restarting")


@pytest.mark.parametrize("answers", ["client", "upstream"])
async def test_our_own_goodbye_does_not_wait_long_for_a_side_that_does_not_answer(
    answers: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    gateway.app.services.lifecycle.cut()
    if answers == "client":
        await session.from_client(close_frame(1001))
    else:
        await session.from_upstream(close_frame(1001, masked=False))

    async with asyncio.timeout(1.5):
        assert [frame.code for frame in await read_to_the_end(session.client.reader)] == [1001]
        await until(lambda: not gateway.upstream_connections())
    [line] = await gateway.lines.wait(1)
    assert line["ending"] == "drained"


# Weight.


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_a_side_that_does_not_read_holds_the_other_back_and_loses_nothing(
    direction: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_session(gateway, upstream)
    one = frame(BINARY, bytes(2**16), masked=direction == "up")
    count = 1600  # 100 MiB
    reader, writer = session.client.reader, session.turn.writer
    if direction == "up":
        reader, writer = session.turn.reader, session.client.writer
    transport = reader._transport  # type: ignore[attr-defined]
    transport.pause_reading()
    sent = 0

    async def push() -> None:
        nonlocal sent
        for _ in range(count):
            writer.write(one)
            await writer.drain()
            sent += 1

    pushing = asyncio.create_task(push())
    before = -1
    while sent != before:
        before = sent
        await asyncio.sleep(0.4)
    stalled = sent * len(one)
    assert stalled < 40 * 2**20, f"{stalled} bytes went somewhere"

    transport.resume_reading()
    received = 0
    while received < count * len(one):
        received += len(await asyncio.wait_for(reader.read(2**20), 10))
    await pushing
    assert received == count * len(one)


async def test_sessions_leave_nothing_behind(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def one(number: int) -> None:
        client = await gateway.connect()
        await client.send(handshake(client))
        await client.read_head()
        await client.send(frame(TEXT, b"hello"))
        match number % 3:
            case 0:
                client.reset()
            case 1:
                await client.close()
            case 2:
                await client.send(close_frame(1000))
                await read_to_the_end(client.reader)
                await client.close()

    async def script(turn: Turn) -> None:
        await turn.send(accepted(turn))
        try:
            while (seen := await read_frame(turn.reader, 20)).opcode != CLOSE:
                pass
            await turn.send(frame(CLOSE, seen.payload, masked=False))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        turn.close()

    upstream.plays(script)
    await one(0)
    assert await upstream.all_closed()
    await asyncio.sleep(0.3)
    before = len(asyncio.all_tasks())

    await asyncio.gather(*map(one, range(60)))

    assert await upstream.all_closed(within_seconds=2)
    await gateway.lines.wait(61)
    await asyncio.sleep(0.3)
    assert len(asyncio.all_tasks()) <= before
    assert gateway.metric('gateway_upstream_connections{state="busy",upstream="default"}') == 0
    assert gateway.app.services.lifecycle.in_flight == 0
    assert not gateway.app.services.lifecycle.sessions


async def test_events_that_are_kept_to_be_examined_have_room_or_end_the_session(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """What a restricted caller sends is held back until it is whole, and it may never be."""
    gateway = await start_gateway(
        tenants={"acme": {**EVERY_SCOPE, "models": ["gpt-realtime"]}}, edge={"body_memory_bytes": 2**20}
    )
    event = frame(TEXT, b"x" * 150_000, final=False)
    first, second = [await open_session(gateway, upstream) for _ in range(2)]
    await first.client.send(event)
    held = 'gateway_body_memory_held_bytes{tenant="acme"}'
    await until(lambda: gateway.metric(held) > 290_000)
    await second.client.send(event)
    closed = (await read_to_the_end(second.client.reader))[-1]
    assert (closed.opcode, closed.code) == (CLOSE, 1013)
    assert closed.reason.startswith("Your other requests' bodies fill your part")
    assert gateway.metric('gateway_body_memory_refusals_total{reason="share",tenant="acme"}') == 1
    await first.client.send(frame(MORE, b"y"))
    await until(lambda: gateway.metric(held) == 0)
