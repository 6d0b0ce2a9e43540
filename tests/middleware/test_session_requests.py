"""Each request over the Responses API's WebSocket is judged, admitted and charged as if it had been posted."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.credentials.realtime_secrets import MintedSecret, seal
from gateway.limits.terms import Dimension
from gateway.middleware import session_responses, session_under_way
from tests.conftest import StartGateway
from tests.kit.client import RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.realtime import Event, Talk, talk
from tests.kit.upstream import ScriptedUpstream, says
from tests.kit.usage_answers import counted
from tests.kit.waiting import comes_to
from tests.kit.websocket import BINARY, MORE, TEXT, frame, handshake, read_frame
from tests.middleware.limited import remaining, tenant
from tests.middleware.sessions import CAPACITY, left

TARGET = "/v1/responses"
REQUEST: dict[str, Any] = {"model": "gpt-4o", "input": "Hi", "max_output_tokens": 700}


async def open_socket(gateway: Gateway, upstream: ScriptedUpstream) -> Talk:
    return await talk(gateway, upstream, target=TARGET, protocols="")


async def asks(session: Talk, **members: Any) -> Event:
    """A request that goes up, as the upstream hears it."""
    return await session.client_tells("response.create", **REQUEST | members)


async def is_told(session: Talk, kind: str = "response.create", **members: Any) -> Event:
    """What the client is told in place of an answer."""
    await session.client_says(kind, **members)
    return await session.client_hears("error")


async def begins(session: Talk, response_id: str = "resp_1", lane: str | None = None, **members: Any) -> None:
    of = {} if lane is None else {"stream_id": lane}
    await session.upstream_tells("response.created", response={"id": response_id, **members}, **of)


async def ends(
    session: Talk,
    used: tuple[int, int] | None,
    response_id: str = "resp_1",
    status: str = "completed",
    **more: Any,
) -> None:
    usage = None
    if used is not None:
        usage = {"input_tokens": used[0], "output_tokens": used[1], "total_tokens": sum(used)}
    response: Event = {"id": response_id, "status": status, "usage": usage, "output": []}
    await session.upstream_tells(f"response.{status}", response=response, **more)


@pytest.fixture
async def gateway(start_gateway: StartGateway) -> Gateway:
    return await start_gateway(**tenant(max_tokens_per_1_day=CAPACITY))


# Limits


async def test_a_request_is_reserved_when_it_is_made_and_settled_when_its_response_ends(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    sent = await asks(session)
    assert sent == {"type": "response.create", **REQUEST}
    held = CAPACITY - await left(gateway)
    assert 700 < held < 720
    await begins(session)
    assert CAPACITY - await left(gateway) == held, "it is the one that was asked for"
    await ends(session, (30, 12))
    assert await left(gateway) == CAPACITY - 42


@pytest.mark.parametrize("status", ["incomplete", "failed"])
async def test_a_response_that_ends_otherwise_is_charged_by_what_it_reports(
    gateway: Gateway, upstream: ScriptedUpstream, status: str
) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session)
    await begins(session)
    await ends(session, (30, 12), status=status)
    assert await left(gateway) == CAPACITY - 42


async def test_a_request_that_does_not_fit_is_told_so_and_the_session_goes_on(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session, max_output_tokens=CAPACITY - 500)
    told = await is_told(session, **REQUEST, stream_id="b")
    assert (told["status"], told["stream_id"]) == (429, "b")
    assert told["error"]["type"] == "tokens"
    assert told["error"]["code"] == "rate_limit_exceeded"
    assert "max_output_tokens" in told["error"]["message"]
    assert int(told["error"]["headers"]["retry-after"]) > 0
    assert told["headers"] == told["error"]["headers"]
    await begins(session)
    await ends(session, (30, 12))
    await asks(session)


async def test_a_stated_maximum_that_never_fits_is_told_as_over_http(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    told = await is_told(session, **REQUEST | {"max_output_tokens": 2 * CAPACITY})
    assert (told["status"], told["error"]["code"]) == (400, "request_too_large_for_limit")
    assert told["error"]["param"] == "max_output_tokens"
    assert "stream_id" not in told


async def test_each_request_takes_one_from_a_limit_on_requests_and_so_does_the_handshake(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=3))
    session = await open_socket(gateway, upstream)
    await asks(session)
    await asks(session)
    told = await is_told(session, **REQUEST)
    assert (told["status"], told["error"]["type"]) == (429, "requests")


async def test_limits_of_a_model_are_those_of_the_requests_that_name_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    limits = {"models": {"gpt-4o": {"max_tokens_per_1_day": 1000}}}
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "limits": limits}})
    session = await open_socket(gateway, upstream)
    await asks(session, model="gpt-4o-mini", max_output_tokens=5000)
    told = await is_told(session, **REQUEST | {"max_output_tokens": 5000})
    assert told["error"]["code"] == "request_too_large_for_limit"
    await asks(session)
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY, model="gpt-4o") < 300


async def test_what_a_request_continues_is_read_again(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session)
    await begins(session)
    await ends(session, (1000, 50))
    before = await left(gateway)
    await asks(session, previous_response_id="resp_1", max_output_tokens=100)
    assert 1150 <= before - await left(gateway) <= 1170
    await session.upstream_tells(
        "error", status=400, error={"code": "previous_response_not_found", "message": "", "type": "x"}
    )
    assert await left(gateway) == before, "it came to nothing"


async def test_nothing_is_reserved_for_the_answer_of_a_warm_up(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session, input="x" * 4000, generate=False)
    assert 1000 <= CAPACITY - await left(gateway) < 1020
    await begins(session)
    await ends(session, (0, 0))
    assert await left(gateway) == CAPACITY
    await asks(session, previous_response_id="resp_1", max_output_tokens=100)
    assert 1100 <= CAPACITY - await left(gateway) < 1140, "what it has taken in is read by who continues it"


async def test_lanes_are_told_apart_and_each_is_answered_in_its_order(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    for lane, most in (("a", 100), ("b", 200), ("a", 300)):
        await asks(session, stream_id=lane, max_output_tokens=most)
    full = CAPACITY - await left(gateway)
    assert 600 < full < 660
    await begins(session, "resp_b", "b")
    await begins(session, "resp_a", "a")
    await session.upstream_tells("response.output_text.delta", delta="x" * 400, stream_id="a")
    await ends(session, None, "resp_a", "failed", stream_id="a")
    assert full - 110 < CAPACITY - await left(gateway) < full + 20, "by what went by of that one"
    await ends(session, (1, 1), "resp_b", stream_id="b")
    await begins(session, "resp_a2", "a")
    await ends(session, (1, 1), "resp_a2", stream_id="a")
    assert 4 + 100 <= CAPACITY - await left(gateway) <= 4 + 130


async def test_more_than_so_many_are_not_under_way_at_once(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    for _ in range(session_responses.MOST_OPEN):
        await asks(session, max_output_tokens=16)
    told = await is_told(session, **REQUEST)
    assert told["status"] == 429
    assert told["error"]["type"] == "requests"


async def test_what_the_upstream_does_not_begin_is_given_back(
    gateway: Gateway, upstream: ScriptedUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_under_way, "ASKED_SECONDS", 0.1)
    session = await open_socket(gateway, upstream)
    await asks(session)
    await comes_to(CAPACITY, lambda: left(gateway))


async def test_a_steer_is_reserved_as_the_response_that_it_may_begin(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session, max_output_tokens=500)
    await begins(session)
    before = await left(gateway)
    await session.client_tells("response.steer", previous_response_id="resp_1", input="Shorter")
    assert 500 <= before - await left(gateway) <= 520
    await ends(session, (30, 12), status="incomplete")
    await begins(session, "resp_2", previous_response_id="resp_1")
    await ends(session, (40, 10), "resp_2")
    assert await left(gateway) == CAPACITY - 92

    await session.client_tells("response.steer", previous_response_id="resp_2", input="Shorter")
    steer = {"previous_response_id": "resp_2", "input": "Shorter"}
    await session.upstream_tells("response.steer.failed", error={"code": "response_not_active"}, steer=steer)
    assert await left(gateway) == CAPACITY - 92


async def test_a_response_that_nobody_asked_for_is_charged_when_it_ends(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await begins(session)
    await ends(session, (30, 12))
    assert await left(gateway) == CAPACITY - 42


async def test_a_session_that_ends_is_charged_for_what_went_by(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await asks(session)
    await begins(session)
    await session.upstream_tells("response.output_text.delta", delta="x" * 400)
    await session.hang_up()
    [line] = await gateway.lines.wait(1)
    assert (line["operation"], line["model"], line["status"]) == ("connectResponses", "gpt-4o", 101)
    assert line["usage_known"] == "estimated"
    assert 90 <= CAPACITY - await remaining(gateway, Dimension.TOKENS_PER_DAY) <= 130


async def test_images_that_a_tool_made_are_charged(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_images_per_1_minute=10))
    session = await open_socket(gateway, upstream)
    await asks(session)
    await begins(session)
    made = {"type": "image_generation_call", "status": "completed", "result": "A" * 200_000}
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    response = {"id": "resp_1", "output": [made, made], "usage": usage}
    await session.upstream_tells("response.completed", response=response)
    assert await remaining(gateway, Dimension.IMAGES_PER_MINUTE) == 8


async def test_usage_is_counted_by_the_model_of_each_request(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": EVERY_SCOPE})
    session = await open_socket(gateway, upstream)
    for at, model in enumerate(("gpt-4o", "gpt-4.1")):
        await asks(session, model=model)
        await begins(session, f"resp_{at}")
        await ends(session, (30 + at, 12), f"resp_{at}")
    await session.hang_up()
    [line] = await gateway.lines.wait(1)
    assert (line["model"], line["usage_known"]) == ("gpt-4o", "reported")
    found = await counted(gateway)
    assert {entry[1]: counts["input"] for entry, counts in found.items() if "input" in counts} == {
        "gpt-4o": 30,
        "gpt-4.1": 31,
    }


# Rights


@pytest.fixture
async def restricted(start_gateway: StartGateway) -> Gateway:
    """Two tenants that share an account, who may use some models only."""
    one = {**EVERY_SCOPE, "models": ["gpt-4o*"]}
    return await start_gateway(tenants={"acme": one, "globex": EVERY_SCOPE})


REFUSED: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "another model": ({"model": "o3", "input": "x"}, 403, "model_not_allowed", "model"),
    "no model": ({"input": "x"}, 403, "model_not_allowed", "model"),
    "a conversation": ({**REQUEST, "conversation": "conv_1"}, 403, "shared_upstream", "conversation"),
    "a prompt": ({**REQUEST, "prompt": {"id": "pmpt_1"}}, 403, "shared_upstream", "prompt"),
    "storing": ({**REQUEST, "store": True}, 403, "shared_upstream", "store"),
    "another's response": (
        {**REQUEST, "previous_response_id": "resp_9"}, 403, "shared_upstream", "previous_response_id"
    ),
    "a file": (
        {**REQUEST, "input": [{"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}]},
        403, "shared_upstream", "file_id",
    ),
    "an item": (
        {**REQUEST, "input": [{"type": "item_reference", "id": "msg_1"}]}, 403, "shared_upstream", "id"
    ),
    "a vector store": (
        {**REQUEST, "tools": [{"type": "file_search", "vector_store_ids": ["vs_1"]}]},
        403, "shared_upstream", "vector_store_ids",
    ),
    "a container": (
        {**REQUEST, "tools": [{"type": "code_interpreter", "container": "cntr_1"}]},
        403, "shared_upstream", "container",
    ),
    "the background": ({**REQUEST, "background": True}, 400, "invalid_value", "background"),
    "a number for a model": ({**REQUEST, "model": 1}, 400, "invalid_type", "model"),
    "a number for a lane": ({**REQUEST, "stream_id": 1}, 400, "invalid_type", "stream_id"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
async def test_what_would_be_refused_over_http_is_told_and_the_session_goes_on(
    restricted: Gateway, upstream: ScriptedUpstream, what: str
) -> None:
    members, status, code, param = REFUSED[what]
    session = await open_socket(restricted, upstream)
    told = await is_told(session, **members)
    assert (told["status"], told["error"]["code"], told["error"]["param"]) == (status, code, param), told
    assert (await asks(session))["model"] == "gpt-4o", "it has seen nothing of the other"


@pytest.mark.parametrize(
    "text",
    [
        b"", b"no JSON", b"[1]", b'"x"', b"{}", b'{"type":1}', b"\xef\xbb\xbf{}",
        b'{"type":"response.create","type":"x","model":"gpt-4o","input":"x"}',
        b'{"type":"response.create","model":"gpt-4o","model":"o3","input":"x"}',
        b'{"type":"response.create","model":"gpt-4o","previous_response_id":"a","previous_response_id":"b"}',
        b'{"type":"response.create","model":"gpt-4o","stream_id":"a","stream_\\u0069d":"b"}',
    ],
)  # fmt: skip
async def test_what_cannot_be_judged_does_not_go_up(
    restricted: Gateway, upstream: ScriptedUpstream, text: bytes
) -> None:
    session = await open_socket(restricted, upstream)
    for kind in (TEXT, BINARY):
        await session.session.from_client(frame(kind, text))
        assert (await session.client_hears("error"))["status"] == 400
    await asks(session)


async def test_a_response_of_this_connection_may_be_continued_on_a_shared_account_and_no_other(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(restricted, upstream)
    await asks(session, store=False)
    await begins(session)
    await ends(session, (30, 12))
    await asks(session, previous_response_id="resp_1", store=False)
    told = await is_told(session, **REQUEST, previous_response_id="resp_1", conversation="conv_1")
    assert told["error"]["param"] == "conversation"
    another = await open_socket(restricted, upstream)
    told = await is_told(another, **REQUEST, previous_response_id="resp_1")
    assert told["error"]["code"] == "shared_upstream"
    told = await is_told(another, "response.steer", previous_response_id="resp_1", input="x")
    assert told["error"]["code"] == "shared_upstream"


async def test_what_is_not_known_has_to_name_a_model_where_some_may_be_used_only(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(restricted, upstream)
    told = await is_told(session, "response.imagine", input="x")
    assert told["error"]["code"] == "model_not_allowed"
    await session.client_tells("response.imagine", model="gpt-4o")


async def test_the_tenants_default_model_is_put_in(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "default_model": "gpt-4o-mini"}})
    session = await open_socket(gateway, upstream)
    await session.client_says("response.create", input="Hi")
    heard = await session.upstream_hears("response.create")
    assert heard == {"type": "response.create", "input": "Hi", "model": "gpt-4o-mini"}
    await asks(session)


async def test_the_scope_is_that_of_posting(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    credential = gateway.credential(["responses:read", "realtime:write"])
    async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
        await client.send(handshake(client, target=TARGET, protocols=""))
        answer = await client.read_answer()
    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (403, "missing_scope")


async def test_a_realtime_secret_opens_no_socket_but_the_realtime_ones(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    principal = gateway.app.services.trust.verifier.verify(gateway.credential())
    secret = seal(MintedSecret("ek_upstream", principal, principal.expires_at), gateway.ring)
    for target, status in ((TARGET, 401), ("/v1/realtime?model=gpt-realtime", 200)):
        async with await RawClient.connect(gateway.host, gateway.port, secret) as client:
            await client.send(handshake(client, target=target, protocols=""))
            assert (await client.read_answer()).status == status
    assert len(upstream.requests) == 1


async def test_what_no_limit_counts_is_refused_by_the_model_where_nothing_else_may_be_done(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    limits = {"models": {"gpt-4o": {"max_tokens_per_1_day": 1000}}}
    table = {**EVERY_SCOPE, "limits": limits, "unmetered": "refuse"}
    gateway = await start_gateway(tenants={"acme": table})
    session = await open_socket(gateway, upstream)
    told = await is_told(session, **REQUEST | {"model": "gpt-4.1"})
    assert told["error"]["code"] == "unmetered_operation"
    told = await is_told(session, **REQUEST, tools=[{"type": "image_generation"}])
    assert told["error"]["code"] == "unmetered_operation"
    await asks(session)


async def test_what_is_not_known_is_reserved_as_a_request(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(gateway, upstream)
    await session.client_tells("response.imagine", **REQUEST)
    assert 700 < CAPACITY - await left(gateway) < 720
    await session.client_tells("response.inject", response_id="resp_1", input=[])
    assert 700 < CAPACITY - await left(gateway) < 720


# Frames


async def test_a_request_in_fragments_is_judged_whole_and_passes_as_it_came(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(restricted, upstream)
    text = orjson.dumps({"type": "response.create", **REQUEST, "input": "é" * 50_000})
    parts = [text[at : at + 999] for at in range(0, len(text), 999)]
    for at, part in enumerate(parts):
        await session.session.from_client(frame(MORE if at else TEXT, part, final=at == len(parts) - 1))
    heard = b"".join([(await read_frame(session.session.turn.reader)).payload for _ in parts])
    assert heard == text


async def test_a_request_too_large_to_be_seen_whole_ends_the_session_before_any_of_it_goes_up(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"max_websocket_message_bytes": 100_000})
    session = await open_socket(gateway, upstream)
    await session.session.from_client(
        frame(TEXT, b'{"type":"response.create"' + b" " * 99_000, final=False) + frame(MORE, b" " * 2000)
    )
    assert (await session.close_frame()).code == 1009


async def test_a_large_request_is_read_beside_the_loop_and_goes_up(
    restricted: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await open_socket(restricted, upstream)
    heard = await asks(session, input="x" * 3_000_000)
    assert len(heard["input"]) == 3_000_000
    told = await is_told(session, **REQUEST | {"model": "o3", "input": "x" * 300_000})
    assert told["error"]["code"] == "model_not_allowed"


# Where there is none


@pytest.mark.parametrize("status", [200, 404, 405, 501])
async def test_an_upstream_that_has_none_makes_clients_fall_back(
    gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    upstream.plays(says(b"", head=b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status))
    client = await gateway.connect()
    await client.send(handshake(client, target=TARGET, protocols=""))
    answer = await client.read_answer()
    assert answer.status == 426
    assert orjson.loads(answer.body)["error"]["code"] == "websocket_unsupported"
    [line] = await gateway.lines.wait(1)
    assert line["operation"] == "connectResponses"
    assert line["error"] == "websocket_unsupported"


@pytest.mark.parametrize("status", [400, 403, 429, 503])
async def test_any_other_answer_of_an_upstream_passes(
    gateway: Gateway, upstream: ScriptedUpstream, status: int
) -> None:
    upstream.plays(says(b"", head=b"HTTP/1.1 %d X\r\nContent-Length: 2\r\n\r\n{}" % status))
    client = await gateway.connect()
    await client.send(handshake(client, target=TARGET, protocols=""))
    assert (await client.read_answer()).status == status
