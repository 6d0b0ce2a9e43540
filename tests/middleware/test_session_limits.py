"""Each response of a session is reserved when it begins and settled when it is over, however that comes about."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from contextlib import suppress
from typing import Any

import pytest

from gateway.limits.terms import Dimension
from gateway.middleware import session_permits, session_responses
from tests.conftest import StartGateway
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.realtime import HELD, Talk, talk
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream
from tests.kit.usage_answers import counted
from tests.kit.waiting import comes_to, until
from tests.kit.websocket import BINARY, MORE, TEXT, frame, read_frame
from tests.middleware.limited import remaining, tenant
from tests.middleware.sessions import CAPACITY, EXPECTED, left


async def all_left(gateway: Gateway) -> int:
    """What is left when every session has ended."""
    await gateway.lines.wait(1)
    return await remaining(gateway, Dimension.TOKENS_PER_DAY)


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    return await start_gateway(**tenant(max_tokens_per_1_day=CAPACITY))


async def test_response_is_reserved_when_it_is_asked_for_and_settled_when_it_is_done(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.client_tells("response.create", response={"max_output_tokens": 700})
    assert await left(gateway) == CAPACITY - 700
    await session.begins()
    assert await left(gateway) == CAPACITY - 700, "it is the one that was asked for"
    await session.done(used=(30, 12))
    assert await left(gateway) == CAPACITY - 42


async def test_most_that_the_session_allows_is_reserved_where_a_response_says_nothing(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.upstream_tells("session.updated", session={"type": "realtime", "max_output_tokens": 640})
    await session.client_tells("response.create")
    assert await left(gateway) == CAPACITY - 640


async def test_response_that_nobody_asked_for_is_reserved_when_it_begins(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.begins()
    assert await left(gateway) == CAPACITY - EXPECTED
    await session.done(used=(30, 12))
    assert await left(gateway) == CAPACITY - 42


async def test_prompt_is_what_the_last_response_read_and_wrote_and_what_was_added_since(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(max_output_tokens=100)
    await session.done(used=(1000, 50))
    content = [{"type": "input_text", "text": "x" * 4000}]
    await session.client_tells("conversation.item.create", item={"role": "user", "content": content})
    await session.client_tells("response.create", response={"max_output_tokens": 100})
    reserved = CAPACITY - 1050 - await left(gateway)
    assert 1050 + 1000 + 100 <= reserved <= 1050 + 1000 + 100 + 20


async def test_response_apart_from_the_conversation_reads_what_it_brings(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(max_output_tokens=100)
    await session.done(used=(1000, 50))
    own = [{"type": "message", "content": [{"type": "input_text", "text": "y" * 400}]}]
    asked = {"conversation": "none", "input": own, "max_output_tokens": 100}
    await session.client_tells("response.create", response=asked)
    reserved = CAPACITY - 1050 - await left(gateway)
    assert 200 <= reserved <= 230


async def test_sound_is_a_prompt_too(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    session = await talk(gateway, upstream)
    for _ in range(20):  # half a second each
        await session.client_tells("input_audio_buffer.append", audio=b64encode(bytes(24_000)).decode())
    await session.begins()
    assert await left(gateway) == pytest.approx(CAPACITY - EXPECTED - 100, abs=2)


async def test_silence_is_no_prompt_where_the_server_looks_for_speech(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    detects = {"input": {"turn_detection": {"type": "server_vad"}}}
    await session.upstream_tells("session.updated", session={"type": "realtime", "audio": detects})
    await sends_seconds(session, 30)
    await session.upstream_tells("input_audio_buffer.speech_started", item_id="item_1")
    await sends_seconds(session, 4)
    await session.upstream_tells("input_audio_buffer.committed", item_id="item_1")
    await sends_seconds(session, 30)
    await session.begins()
    assert await left(gateway) == pytest.approx(CAPACITY - EXPECTED - 50, abs=2), (
        "a second before it is speech"
    )
    await session.done(used=(60, 10))
    await session.client_tells("response.create", response={"max_output_tokens": 100})
    assert await left(gateway) == CAPACITY - 70 - 70 - 100


async def sends_seconds(session: Talk, seconds: int) -> None:
    for _ in range(seconds):
        await session.client_tells("input_audio_buffer.append", audio=b64encode(bytes(48_000)).decode())


async def test_sound_that_was_read_is_not_read_again(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    session = await talk(gateway, upstream)
    await sends_seconds(session, 10)
    await session.client_tells("response.create", response={"max_output_tokens": 100})
    await session.upstream_tells("input_audio_buffer.committed", item_id="item_1")
    await session.begins()
    assert await left(gateway) == pytest.approx(CAPACITY - 200, abs=2)
    await session.done(used=(110, 10))
    await session.client_tells("response.create", response={"max_output_tokens": 100})
    assert await left(gateway) == CAPACITY - 120 - 120 - 100


# What does not fit


async def test_response_that_does_not_fit_is_not_asked_for_and_the_client_hears_why(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(max_output_tokens=4500)
    await session.client_says("response.create", event_id="mine", response={"conversation": "none"})
    refused = await session.client_hears("error")
    assert refused["event_id"]
    error = refused["error"]
    assert (error["type"], error["code"], error["param"]) == ("tokens", "rate_limit_exceeded", None)
    assert error["event_id"] == "mine"
    assert "max_tokens_per_1_day = 5000" in error["message"]
    assert "Try again in " in error["message"]
    await session.client_tells("input_audio_buffer.clear")  # and nothing before
    assert await left(gateway) == CAPACITY - 4500
    labels = 'decision="refused",dimension="max_tokens_per_1_day",tenant="acme"'
    assert gateway.metric(f"gateway_limiter_decisions_total{{{labels}}}") == 1


async def test_response_that_begins_by_itself_and_does_not_fit_is_cancelled(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(max_output_tokens=4500)
    await session.begins("resp_2")
    cancelled = await session.upstream_hears("response.cancel")
    assert cancelled["response_id"] == "resp_2"
    assert (await session.client_hears("error"))["error"]["code"] == "rate_limit_exceeded"
    await session.done("resp_2", "cancelled", used=(30, 2))
    assert await left(gateway) == CAPACITY - 4500 - 32, "what it used all the same is charged"


async def test_stated_maximum_that_the_limit_never_holds_is_refused_with_one_that_fits(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.client_says("response.create", response={"max_output_tokens": 6000})
    error = (await session.client_hears("error"))["error"]
    assert error["code"] == "request_too_large_for_limit"
    assert "5000" in error["message"]
    assert await left(gateway) == CAPACITY


async def test_events_of_our_own_stand_between_messages_of_others(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(max_output_tokens=4500)
    await session.session.from_upstream(frame(BINARY, b"one ", masked=False, final=False))
    assert (await read_frame(session.session.client.reader)).payload == b"one "
    await session.session.from_client(frame(TEXT, b'{"type":"response.create","response":', final=False))
    await session.session.from_client(frame(MORE, b'{"conversation":"none"}}'))
    labels = 'decision="refused",dimension="max_tokens_per_1_day",tenant="acme"'
    await until(lambda: gateway.metric(f"gateway_limiter_decisions_total{{{labels}}}") == 1)
    await session.session.from_upstream(frame(MORE, b"message", masked=False))
    assert (await read_frame(session.session.client.reader)).payload == b"message"
    await session.client_hears("error")


async def test_order_of_events_is_kept_around_one_that_waits(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    kinds = ["input_audio_buffer.append", "response.create", "input_audio_buffer.commit", "response.cancel"]
    for kind in kinds:
        await session.client_says(kind)
    for kind in kinds:
        await session.upstream_hears(kind)


async def test_no_more_responses_than_there_may_be_are_under_way(
    start_gateway: StartGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_responses, "MOST_OPEN", 3)
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1_000_000))
    session = await talk(gateway, upstream)
    for number in range(3):
        await session.asked(f"resp_{number}", conversation="none", max_output_tokens=10)
    await session.client_says("response.create", response={"conversation": "none"})
    assert "3 responses" in (await session.client_hears("error"))["error"]["message"]
    await session.done("resp_1", used=(1, 1))
    await session.asked("resp_4", conversation="none", max_output_tokens=10)


async def test_client_that_reads_nothing_is_not_told_more_and_more(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(max_output_tokens=4900)
    client = session.session.client
    client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asking = frame(TEXT, b'{"type":"response.create","response":{"conversation":"none"}}')
    asks = asyncio.create_task(client.send(asking * 300_000))
    labels = 'decision="refused",dimension="max_tokens_per_1_day",tenant="acme"'
    refused = -1.0
    while (now := gateway.metric(f"gateway_limiter_decisions_total{{{labels}}}")) > refused:
        refused = now
        await asyncio.sleep(0.5)
    assert not asks.done()
    assert refused < 30_000
    client.reset()
    with suppress(ConnectionError, TimeoutError):
        await asks


# How a response ends


async def test_responses_apart_may_end_in_any_order(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    session = await talk(gateway, upstream)
    for number in (1, 2, 3):
        await session.asked(f"resp_{number}", conversation="none", max_output_tokens=100)
    assert await left(gateway) == CAPACITY - 300
    await session.done("resp_3", used=(10, 1))
    await session.done("resp_1", used=(20, 2))
    assert await left(gateway) == CAPACITY - 100 - 33
    await session.done("resp_2", used=(30, 3))
    assert await left(gateway) == CAPACITY - 66


async def test_what_the_upstream_does_not_begin_is_given_back(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.client_tells("response.create", event_id="mine")
    assert await left(gateway) == CAPACITY - EXPECTED
    await session.upstream_tells(
        "error", event_id="e", error={"type": "invalid_request_error", "event_id": "mine"}
    )
    assert await left(gateway) == CAPACITY


async def test_what_the_upstream_never_begins_is_given_back_after_a_while(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_responses, "ASKED_SECONDS", 0.1)
    session = await talk(gateway, upstream)
    await session.client_tells("response.create")
    await comes_to(CAPACITY, lambda: left(gateway))
    await session.begins()
    assert await left(gateway) == CAPACITY - EXPECTED, "it did begin after all"


def delta(text: str, response_id: str = "resp_1") -> dict[str, Any]:
    return {"event_id": "event_2", "response_id": response_id, "item_id": "item_1", "delta": text}


async def test_completed_response_without_usage_is_charged_for_what_went_by(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(instructions="x" * 400)
    for _ in range(7):
        await session.upstream_tells("response.output_text.delta", **delta("word"))
    second = b64encode(bytes(48_000)).decode()
    await session.upstream_tells("response.output_audio.delta", **delta(second))
    await session.done(used={"total_tokens": 0, "input_tokens": 0, "output_tokens": 0})
    assert await left(gateway) == CAPACITY - 100 - 7 - 20
    await session.hang_up()
    await gateway.lines.wait(1)
    counts = (await counted(gateway))["tester", "gpt-realtime", "connectRealtime"]
    assert (counts["input"], counts["output"]) == (100, 27)


@pytest.mark.parametrize("usage", [None, {}], ids=["null", "empty"])
async def test_failed_response_without_output_costs_nothing(
    gateway: Gateway, upstream: ScriptedUpstream, usage: object
) -> None:
    session = await talk(gateway, upstream)
    await session.asked()
    await session.done(status="failed", used=usage)
    assert await left(gateway) == CAPACITY


async def test_cancelled_response_without_usage_is_charged_for_what_may_have_been_made_unseen(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked()
    await asyncio.sleep(0.5)
    await session.done(status="cancelled", used=None)
    assert 20 <= CAPACITY - await left(gateway) <= 60, "50 a second"


@pytest.mark.parametrize("begun", [True, False], ids=["begun", "asked for"])
async def test_hanging_up_before_the_end_costs_what_may_have_been_made_unseen(
    gateway: Gateway, upstream: ScriptedUpstream, begun: bool
) -> None:
    session = await talk(gateway, upstream)
    await session.client_tells("response.create", response={"instructions": "x" * 400})
    if begun:
        await session.begins()
    await asyncio.sleep(0.5)
    await session.hang_up()
    assert 100 + 20 <= CAPACITY - await all_left(gateway) <= 100 + 60
    [line] = await gateway.lines.wait(1)
    assert line["usage"]["estimated"] is True


async def test_hanging_up_costs_no_more_than_was_reserved_if_no_more_went_by(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(max_output_tokens=8)
    await asyncio.sleep(0.5)
    await session.hang_up()
    assert CAPACITY - await all_left(gateway) == 8


async def test_hanging_up_costs_what_went_by_if_that_is_more(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked()
    for _ in range(90):
        await session.upstream_tells("response.output_text.delta", **delta("word"))
    await session.hang_up()
    assert 90 <= CAPACITY - await all_left(gateway) <= 130


async def test_upstream_that_breaks_off_without_output_costs_the_prompt(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(instructions="x" * 400)
    await asyncio.sleep(0.3)
    session.session.turn.reset()
    assert CAPACITY - await all_left(gateway) == 100


# Debt


async def test_session_in_debt_hears_so_and_is_closed_when_it_stays_so(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_permits, "DEBT_SECONDS", 0.3)
    session = await talk(gateway, upstream)
    await session.asked()
    await session.done(used=(CAPACITY, 10))
    error = (await session.client_hears("error"))["error"]
    assert (error["code"], error["event_id"]) == ("rate_limit_exceeded", None)
    closed = await session.close_frame()
    assert (closed.code, closed.reason) == (1008, "rate_limit_exceeded: max_tokens_per_1_day = 5000")
    [line] = await gateway.lines.wait(1)
    assert (line["ending"], line["detail"]) == ("refused", closed.reason)


async def test_session_goes_on_whose_limit_has_room_again(
    start_gateway: StartGateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_permits, "DEBT_SECONDS", 0.5)
    gateway = await start_gateway(**tenant(max_tokens_per_1_minute=60_000))
    session = await talk(gateway, upstream)
    await session.asked()
    await session.done(used=(60_100, 0))
    await session.client_hears("error")
    await asyncio.sleep(0.8)
    await session.client_tells("response.create", response={"max_output_tokens": 10, "input": []})


# Transcription


async def test_transcription_counts_seconds_of_sound(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "metering": True}})
    session = await talk(gateway, upstream, target="/v1/realtime?intent=transcription")
    await hears_two_seconds(session, "item_1")
    completed = "conversation.item.input_audio_transcription.completed"
    usage = {"type": "duration", "seconds": 2.5}
    await session.upstream_says(completed, item_id="item_1", transcript="Hi", usage=usage)
    await session.client_hears(completed)
    await hears_two_seconds(session, "item_2")
    await session.upstream_says(completed, item_id="item_2", transcript="Hi")  # says nothing of it
    await session.client_hears(completed)
    await hears_two_seconds(session, "item_3")
    await session.hang_up()
    await gateway.lines.wait(1)
    [counts] = (await counted(gateway)).values()
    assert counts["milliseconds"] == pytest.approx(2500 + 2000 + 2000, rel=0.01)


async def hears_two_seconds(session: Talk, item: str) -> None:
    await sends_seconds(session, 2)
    await session.upstream_tells("input_audio_buffer.committed", item_id=item)


# The store


async def test_two_gateways_together_reserve_no_more_than_the_limit(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    settings = {"redis_url": redis.url, **tenant(max_tokens_per_1_day=CAPACITY)}
    one, two = [await start_gateway(**settings) for _ in range(2)]
    sessions = [await talk(gateway, upstream) for gateway in (one, two) * 4]
    for session in sessions:  # as many as fit together, and one more each
        for _ in range(2):
            await session.client_says(
                "response.create", response={"conversation": "none", "max_output_tokens": 600}
            )
        await session.client_says("input_audio_buffer.clear")
    asked = [await heard_until(session, "input_audio_buffer.clear") for session in sessions]
    held = len(sessions) * HELD
    granted = sum(asked)
    assert granted == (CAPACITY - held) // 600
    assert await remaining(one, Dimension.TOKENS_PER_DAY) == CAPACITY - held - granted * 600
    used = 0
    for number, (session, responses) in enumerate(zip(sessions, asked, strict=True)):
        for at in range(responses):
            await session.upstream_says(
                "response.created", response={"id": f"r{at}", "conversation_id": None}
            )
            usage = {"input_tokens": 5, "output_tokens": number, "total_tokens": 5 + number}
            await session.upstream_says("response.done", response={"id": f"r{at}", "usage": usage})
            used += 5 + number
        await session.upstream_says("last")
        while (await session.any_event())["type"] != "last":
            pass
    assert await remaining(two, Dimension.TOKENS_PER_DAY) == CAPACITY - held - used
    for session in sessions:
        await session.hang_up()
    await one.lines.wait(4)
    await two.lines.wait(4)
    assert await remaining(two, Dimension.TOKENS_PER_DAY) == CAPACITY - used
    states = [gateway.app.services.limiter.state() for gateway in (one, two)]
    assert [state.open_exchanges for state in states] == [0, 0]


async def heard_until(session: Talk, kind: str) -> int:
    """How many events the upstream hears before one of this type."""
    count = 0
    while (await session.any_event_upstream())["type"] != kind:
        count += 1
    return count


async def test_store_that_fails_closed_refuses_responses_and_keeps_nothing_of_them(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    limits = {"redis_url": redis.url, "on_store_failure": "closed", **tenant(max_tokens_per_1_day=CAPACITY)}
    gateway = await start_gateway(**limits)
    session = await talk(gateway, upstream)
    redis.freeze()
    await session.client_says("response.create", event_id="mine")
    error = (await session.client_hears("error"))["error"]
    assert (error["type"], error["code"], error["event_id"]) == ("server_error", "limits_unavailable", "mine")
    await session.begins()
    await session.upstream_hears("response.cancel")
    await session.client_hears("error")
    await session.done(status="cancelled", used=(0, 0))
    redis.thaw()
    await comes_to(CAPACITY, lambda: left(gateway), within_seconds=10)
    await session.asked("resp_2", max_output_tokens=10)


async def test_store_that_is_away_lets_responses_begin_from_the_workers_own_share(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    gateway = await start_gateway(redis_url=redis.url, **tenant(max_tokens_per_1_day=CAPACITY))
    session = await talk(gateway, upstream)
    redis.freeze()
    await session.asked(max_output_tokens=700)
    await session.done(used=(30, 12))
    redis.thaw()
    await comes_to(CAPACITY - 42, lambda: left(gateway), within_seconds=10)


async def test_response_that_is_done_before_it_is_admitted_is_charged_once(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    gateway = await start_gateway(redis_url=redis.url, **tenant(max_tokens_per_1_day=CAPACITY))
    session = await talk(gateway, upstream)
    redis.freeze()
    await session.begins()
    await session.done(used=(30, 12))
    await session.begins("resp_2")
    await session.hang_up()
    await gateway.lines.wait(1)
    redis.thaw()
    await comes_to(True, lambda: charged_about(gateway, 42), within_seconds=10)
    assert gateway.app.services.limiter.state().open_exchanges == 0


async def charged_about(gateway: Gateway, used: int) -> bool:
    """Whether that was charged, and what a moment unseen may cost beside a prompt of as much."""
    return 0 <= CAPACITY - await remaining(gateway, Dimension.TOKENS_PER_DAY) - used - 42 <= 60


async def test_session_that_a_stop_ends_settles_what_is_open(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(gateway, upstream)
    await session.asked(max_output_tokens=8)
    await asyncio.sleep(0.3)
    gateway.app.services.lifecycle.cut()
    assert (await session.close_frame()).code == 1001
    assert CAPACITY - await all_left(gateway) == 8
    assert gateway.app.services.limiter.state().open_exchanges == 0


# Whom nothing limits


async def test_whom_nothing_limits_is_not_looked_at(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": EVERY_SCOPE})
    session = await talk(gateway, upstream)
    await session.session.from_client(frame(TEXT, b'{"type":"response.create"', final=False))
    assert (await read_frame(session.session.turn.reader)).payload == b'{"type":"response.create"'
    await session.begins()
    await session.hang_up()
    await gateway.lines.wait(1)
    assert gateway.app.services.limiter.state().open_exchanges == 0
