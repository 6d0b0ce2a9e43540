"""Servers and clients of sessions that do what the API does not: what they use is limited and counted all the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import orjson
import pytest

from gateway.limits.terms import Dimension
from gateway.middleware import session_permits, session_responses
from tests.conftest import StartGateway
from tests.kit.gateway import Gateway
from tests.kit.realtime import talk
from tests.kit.upstream import ScriptedUpstream
from tests.kit.websocket import BINARY, MORE, TEXT, frame, read_frame
from tests.middleware.limited import remaining, tenant
from tests.middleware.sessions import CAPACITY, EXPECTED, left


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    return await start_gateway(**tenant(max_tokens_per_1_day=CAPACITY))


def done(response_id: str, total: int) -> dict[str, Any]:
    usage = {"input_tokens": total, "output_tokens": 0, "total_tokens": total}
    return {"id": response_id, "status": "completed", "usage": usage}


# Servers


@pytest.mark.parametrize("fragments", [1, 3])
async def test_events_in_binary_frames_are_counted(
    gateway: Gateway, upstream: ScriptedUpstream, fragments: int
) -> None:
    session = await talk(gateway, upstream)
    event = orjson.dumps({"type": "response.done", "response": done("resp_1", 1234)})
    size = -(-len(event) // fragments)
    pieces = [event[at : at + size] for at in range(0, len(event), size)]
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        await session.session.from_upstream(
            frame(MORE if number else BINARY, piece, masked=False, final=last)
        )
    for _ in pieces:
        await read_frame(session.session.client.reader)
    assert await left(gateway) == CAPACITY - 1234


async def test_server_that_names_no_conversation_begins_what_it_was_asked_for(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.client_tells("response.create", response={"max_output_tokens": 700})
    await session.begins(conversation_id=None)
    assert await left(gateway) == CAPACITY - 700
    await session.done(used=(30, 12))
    assert await left(gateway) == CAPACITY - 42


async def test_server_that_says_of_no_response_that_it_begins_is_charged_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.client_tells("response.create", response={"max_output_tokens": 700})
    await session.done("resp_1", used=(30, 12))
    assert await left(gateway) == CAPACITY - 42
    await session.hang_up()
    await gateway.lines.wait(1)
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == CAPACITY - 42


async def test_server_that_ends_no_response_is_followed_in_few_of_them_and_charged_for_all(
    start_gateway: StartGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_responses, "MOST_FOLLOWED", 8)
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1_000_000))
    session = await talk(gateway, upstream)
    responses = 40
    for number in range(responses):
        response_id = f"resp_{number}"
        await session.upstream_says("response.created", response={"id": response_id})
        for _ in range(5):
            await session.upstream_says("response.output_text.delta", response_id=response_id, delta="x")
    for _ in range(responses * 6):
        while (await session.any_event())["type"] == "error":
            pass
    await session.hang_up()
    [line] = await gateway.lines.wait(1)
    assert line["usage"]["output"] >= responses * 5


async def test_response_that_begins_and_ends_in_one_piece_is_charged_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    begun = orjson.dumps({"type": "response.created", "response": {"id": "resp_1"}})
    ended = orjson.dumps({"type": "response.done", "response": done("resp_1", 40)})
    await session.session.from_upstream(
        b"".join(frame(TEXT, event, masked=False) for event in (begun, ended))
    )
    await session.client_hears("response.created")
    await session.client_hears("response.done")
    assert await left(gateway) == CAPACITY - 40


# Clients


async def test_response_that_may_be_of_any_length_is_not_held_to_what_the_session_says(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.upstream_tells("session.updated", session={"type": "realtime", "max_output_tokens": 1})
    await session.client_tells("response.create", response={"max_output_tokens": "inf"})
    assert await left(gateway) == CAPACITY - EXPECTED


# Debt


async def test_session_is_closed_for_one_debt_that_lasts_and_not_for_two_that_do_not(
    start_gateway: StartGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_permits, "DEBT_SECONDS", 1.6)
    gateway = await start_gateway(**tenant(max_tokens_per_1_minute=60_000))
    session = await talk(gateway, upstream)

    async def is_in_debt_for(seconds: float) -> None:
        nothing_left = await remaining(gateway, Dimension.TOKENS_PER_MINUTE)
        await session.upstream_tells("response.done", response=done("r", nothing_left + int(seconds * 1000)))
        await session.client_hears("error")

    await is_in_debt_for(0.3)
    await asyncio.sleep(1.2)
    await is_in_debt_for(0.9)
    await asyncio.sleep(0.7)
    await session.client_tells("input_audio_buffer.clear")
    await asyncio.sleep(0.6)
    await is_in_debt_for(30)
    assert (await session.close_frame()).code == 1008


async def test_server_that_reads_nothing_is_not_told_more_and_more(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    turn, reader = session.session.turn, session.session.client.reader
    turn.reader._limit = 1024  # type: ignore[attr-defined]
    begun, padding = 8_000, b"x" * 240
    for at in range(0, begun, 200):
        events = (
            b'{"type":"response.created","response":{"id":"r%d%b"}}' % (n, padding)
            for n in range(at, at + 200)
        )
        await turn.send(b"".join(frame(TEXT, event, masked=False) for event in events))
        for _ in range(200):
            while b"response.created" not in (await read_frame(reader)).payload:
                pass
    cancelled = 0
    with suppress(TimeoutError):
        while True:
            cancelled += b"response.cancel" in (await read_frame(turn.reader, 1.0)).payload
    assert cancelled < begun * 0.75
