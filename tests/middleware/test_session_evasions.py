"""What a client of the Responses API's WebSocket might try to be charged for less, or to use what it must not."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.limits.terms import Dimension
from gateway.middleware import session_under_way
from tests.conftest import StartGateway
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.realtime import Talk
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import comes_to
from tests.kit.websocket import TEXT, frame, read_frame
from tests.middleware.limited import remaining, tenant
from tests.middleware.sessions import CAPACITY, left
from tests.middleware.test_session_requests import REQUEST, asks, begins, ends, is_told, open_socket

NOT_FOUND: dict[str, Any] = {
    "status": 400,
    "error": {"type": "invalid_request_error", "code": "response_not_found", "message": "no such response"},
}


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    return await start_gateway(**tenant(max_tokens_per_1_day=CAPACITY))


@pytest.fixture
async def restricted(start_gateway: StartGateway) -> Gateway:
    return await start_gateway(tenants={"acme": {**EVERY_SCOPE, "models": ["gpt-4o"]}})


async def charged_when_it_leaves(gateway: Gateway, session: Talk) -> int:
    await session.hang_up()
    await gateway.lines.wait(1)
    return CAPACITY - await remaining(gateway, Dimension.TOKENS_PER_DAY)


# What is charged


@pytest.mark.parametrize("kind", ["response.cancel", "response.inject"])
async def test_an_error_about_another_event_ends_no_response(
    gateway: Gateway, upstream: ScriptedUpstream, kind: str
) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session)
    await begins(session)
    held = CAPACITY - await left(gateway)
    await session.client_tells(kind, response_id="resp_9")
    await session.upstream_tells("error", **NOT_FOUND)
    assert CAPACITY - await left(gateway) == held, "the response goes on"
    await session.upstream_tells("response.output_text.delta", delta="x" * 2000)
    assert await charged_when_it_leaves(gateway, session) >= 500


async def test_an_error_about_what_was_said_to_a_response_ends_neither_it_nor_the_next(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session)
    await begins(session)
    await asks(session, input="x" * 4000)
    held = CAPACITY - await left(gateway)
    await session.client_tells("response.inject", response_id="resp_1", input=[])
    await session.upstream_tells("error", **NOT_FOUND)
    assert CAPACITY - await left(gateway) == held
    await ends(session, (1, 1))
    await begins(session, "resp_2")
    assert await charged_when_it_leaves(gateway, session) >= 1002


async def test_what_was_said_to_a_response_that_has_ended_explains_no_later_error(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session)
    await begins(session)
    await session.client_tells("response.cancel", response_id="resp_1")
    await ends(session, (1, 1), status="cancelled")
    await asks(session)
    await session.upstream_tells("error", **NOT_FOUND)
    assert await left(gateway) == CAPACITY - 2, "the second came to nothing"


async def test_what_is_said_to_a_response_is_read_by_it(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session, max_output_tokens=16)
    await begins(session)
    await session.client_tells("response.inject", response_id="resp_1", input="x" * 4000)
    await session.upstream_tells("response.output_text.delta", delta="x")
    assert await charged_when_it_leaves(gateway, session) >= 1000


async def test_an_event_that_comes_to_nothing_is_not_taken_for_the_request_behind_it(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await session.client_tells("response.imagine", model="gpt-4o", max_output_tokens=16)
    await asks(session, input="x" * 4000)
    await begins(session)
    assert await charged_when_it_leaves(gateway, session) >= 1000


async def test_a_request_that_was_refused_unseen_is_not_the_one_that_begins_behind_it(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await session.client_tells("response.cancel")
    await asks(session, max_output_tokens=16)
    await session.upstream_tells("error", **NOT_FOUND)
    await asks(session, input="x" * 4000)
    await begins(session)
    assert await charged_when_it_leaves(gateway, session) >= 1000


async def test_an_upstream_that_knows_no_lanes_answers_what_was_asked_in_one(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session, stream_id="a", input="x" * 4000)
    held = CAPACITY - await left(gateway)
    await begins(session)
    assert CAPACITY - await left(gateway) == held
    await ends(session, (900, 12))
    assert await charged_when_it_leaves(gateway, session) == 912


async def test_a_response_that_begins_late_is_that_of_the_request_that_was_given_back(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_under_way, "ASKED_SECONDS", 0.05)
    session = await open_socket(gateway, upstream)
    await asks(session, input="x" * 4000)
    await comes_to(CAPACITY, lambda: left(gateway))
    await begins(session)
    assert await charged_when_it_leaves(gateway, session) >= 1000
    [line] = await gateway.lines.wait(1)
    assert line["model"] == "gpt-4o"


async def test_a_model_named_in_the_response_is_the_one_whose_limits_count(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    limits = {"models": {"gpt-4o": {"max_tokens_per_1_day": 1000}}}
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "limits": limits}})
    session = await open_socket(gateway, upstream)
    await session.client_tells("response.create", response={"model": "gpt-4o", "input": "x" * 2000})
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY, model="gpt-4o") < 500
    told = await is_told(session, model="gpt-4o-mini", response={"model": "gpt-4o", "input": "x"})
    assert (told["status"], told["error"]["param"]) == (400, "response.model")


async def test_responses_side_by_side_take_slots_as_requests_do(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_concurrent_requests=2))
    session = await open_socket(gateway, upstream)
    for lane in ("a", "b"):
        await asks(session, stream_id=lane)
        await begins(session, f"resp_{lane}", lane)
    told = await is_told(session, **REQUEST, stream_id="c")
    assert (told["status"], told["error"]["code"]) == (429, "rate_limit_exceeded")
    assert "max_concurrent_requests" in told["error"]["message"]
    await session.client_tells("response.steer", previous_response_id="resp_b", input="x")
    await ends(session, (1, 1), "resp_a", stream_id="a")
    await asks(session, stream_id="c")
    await session.hang_up()
    await gateway.lines.wait(1)
    assert await remaining(gateway, Dimension.CONCURRENT_REQUESTS) == 2


async def test_slots_of_a_model_are_taken_by_the_requests_that_name_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    limits = {"models": {"gpt-4o": {"max_concurrent_requests": 1}}}
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "limits": limits}})
    session = await open_socket(gateway, upstream)
    await asks(session)
    another = await open_socket(gateway, upstream)
    assert (await is_told(another, **REQUEST))["status"] == 429
    await asks(another, model="gpt-4o-mini")
    await begins(session)
    await ends(session, (1, 1))
    await asks(another)


# What may be used


@pytest.mark.parametrize("kind", ["response.steer", "response.inject", "response.cancel"])
async def test_a_model_is_judged_wherever_it_is_named(
    restricted: Gateway, upstream: ScriptedUpstream, kind: str
) -> None:
    session = await open_socket(restricted, upstream)
    await asks(session)
    await begins(session)
    told = await is_told(session, kind, previous_response_id="resp_1", response_id="resp_1", model="o3")
    assert told["error"]["code"] == "model_not_allowed"


async def test_only_responses_of_the_connection_are_steered_where_some_models_may_be_used_only(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(restricted, upstream)
    told = await is_told(session, "response.steer", previous_response_id="resp_9", input="x")
    assert told["error"]["code"] == "model_not_allowed"
    await asks(session)
    await begins(session)
    await session.client_tells("response.steer", previous_response_id="resp_1", input="x")


@pytest.mark.parametrize("name", ["Type", "GENERATE", "Stream_Id", "Previous_Response_Id"])
async def test_what_is_read_of_an_event_is_written_in_lower_case(
    gateway: Gateway, upstream: ScriptedUpstream, name: str
) -> None:
    session = await open_socket(gateway, upstream)
    told = await is_told(session, "response.cancel", **{name: "response.create"})
    assert (told["status"], told["error"]["param"]) == (400, name.lower())


async def test_half_a_character_in_a_text_goes_up_and_one_in_what_decides_does_not(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(restricted, upstream)
    text = b'{"type":"response.create","model":"gpt-4o","input":"\\ud83d","stream_id":"a"}'
    for wrong in (b"gpt-4o", b"response.create", b'"a'):
        await session.session.from_client(frame(TEXT, text.replace(wrong, wrong + b"\\ud83d")))
        assert (await session.client_hears("error"))["status"] == 400
    await session.session.from_client(frame(TEXT, text))
    assert (await read_frame(session.session.turn.reader)).payload == text
