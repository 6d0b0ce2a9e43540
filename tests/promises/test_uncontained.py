"""What starts or steers sessions past the gateway stays closed, however it is spelled and whatever is granted."""

from __future__ import annotations

import pytest

from gateway.operations.table import AMONG_SESSIONS, Rewrite
from tests.conftest import StartGateway
from tests.kit.asking import TABLE, ask, error_of, verdict
from tests.kit.client import HANDSHAKE, JSON
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream

CLOSED = (403, "operation_closed")
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "LINK"]
TARGETS = [
    "/v1/realtime/calls/c1/monitor",
    "/v1/realtime/calls/c1/accept/again",
    "/v1/realtime/calls/c1/accept?x=1",
    "/v1/realtime/calls/new",
    "/v1/realtime/sip",
    "/v1/realtime/sessions/s1",
    "/v1/realtime/client_secrets/more",
    "/v1/realtime/translations/more",
    "/v1/realtime-next/anything",
    "/v1/Realtime/sip",
    "/v1/%72ealtime/sip",
    "/v1/realtime/%73ip",
    "/v1/chatkit",
    "/v1/chatkit/threads",
    "/v1/chatkit/threads/t1",
    "/v1/chatkit/sessions/s1",
    "/v1/chatkit/workflows/w/run",
    "/v1/ChatKit/workflows",
    "/v1/%63hatkit/workflows",
    "/v1/chat%E2%84%AAit/workflows",
    "/v1/%EF%BD%92ealtime/sip",
    "/v1/live/sessions",
    "/v1/live/sessions/s1/attach",
    "/v1/agents/sessions/s1/events",
    "/v1/agents/automations",
]
"""`%E2%84%AA` is a K that case folding makes one of ours, `%EF%BD%92` a wide r."""


async def closed(
    gateway: Gateway, upstream: ScriptedUpstream, method: str, target: str, headers: str
) -> bool:
    body = None if headers == HANDSHAKE else b"{}"
    answer = await ask(gateway, method, target, body, headers=headers)
    assert not upstream.requests, (method, target)
    if method == "HEAD":
        return answer.status in (400, 403)
    return verdict(answer) in (CLOSED, (400, "ambiguous_target"))


@pytest.mark.parametrize("target", TARGETS)
async def test_is_closed_to_every_method_and_to_sockets(
    gateway: Gateway, upstream: ScriptedUpstream, target: str
) -> None:
    for method in METHODS:
        assert await closed(gateway, upstream, method, target, JSON), method
    assert await closed(gateway, upstream, "GET", target, HANDSHAKE)


async def test_refusal_calls_the_operation_by_its_id(gateway: Gateway) -> None:
    said = error_of(await ask(gateway, "POST", "/v1/chatkit/sessions", {}))["message"]
    assert said.startswith("The operation createChatSessionMethod starts or steers sessions")
    assert " createRealtimeCall " in error_of(await ask(gateway, "POST", "/v1/realtime/calls", {}))["message"]


@pytest.mark.parametrize("method", METHODS)
async def test_the_known_socket_is_a_socket_and_nothing_else(
    gateway: Gateway, upstream: ScriptedUpstream, method: str
) -> None:
    assert await closed(gateway, upstream, method, "/v1/realtime?model=gpt-realtime", JSON)
    assert await closed(gateway, upstream, method, "/v1/realtime/", JSON)


@pytest.mark.parametrize(
    "query",
    ["call_id=rtc_1", "model=m&call_id=rtc_1", "call%5Fid=rtc_1", "CALL_ID=x", "a=b;call_id=x", "call_id",
     "call_id[]=x", "call.id=x&call_id.a=1", "+call_id=x"],
)  # fmt: skip
async def test_the_known_socket_cannot_join_a_call_that_runs_elsewhere(
    gateway: Gateway, upstream: ScriptedUpstream, query: str
) -> None:
    answer = await ask(gateway, "GET", f"/v1/realtime?{query}", headers=HANDSHAKE)

    assert verdict(answer) == CLOSED
    assert not upstream.requests


async def test_what_mints_is_no_socket(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for operation in TABLE:
        if operation.rewrite is Rewrite.REALTIME_SECRET:
            assert await closed(gateway, upstream, "POST", operation.path, HANDSHAKE)


async def test_the_socket_and_what_mints_for_it_are_open(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    assert (await ask(gateway, "GET", "/v1/realtime?model=m", headers=HANDSHAKE)).status == 200
    for target in ("client_secrets", "sessions", "transcription_sessions", "translations/client_secrets"):
        await ask(gateway, "POST", f"/v1/realtime/{target}", b'{"model":"m","session":{"model":"m"}}')
    assert len(upstream.requests) == 5


async def test_everything_is_open_where_the_operator_opens_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(allow_uncontained=True)
    for method, target in (
        ("GET", "/v1/realtime"),
        ("PUT", "/v1/realtime/sip"),
        ("GET", "/v1/chatkit/threads"),
    ):
        assert (await ask(gateway, method, target)).status == 200
    joined = await ask(gateway, "GET", "/v1/realtime?model=m&call_id=rtc_1", headers=HANDSHAKE)

    assert joined.status == 200
    assert len(upstream.requests) == 4


def test_every_row_below_those_prefixes_is_the_socket_or_mints_or_is_closed() -> None:
    below = [operation for operation in TABLE if operation.path.startswith(AMONG_SESSIONS)]
    assert len(below) > 15
    for operation in below:
        known = operation.is_session or operation.rewrite is Rewrite.REALTIME_SECRET
        assert operation.is_contained == known, operation.id


async def test_a_batch_runs_nothing_that_is_closed(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for endpoint in ("/v1/realtime/calls", "/v1/realtime/sip", "/v1/organization/invites"):
        answer = await ask(gateway, "POST", "/v1/batches", {"input_file_id": "f", "endpoint": endpoint})
        assert verdict(answer) == CLOSED
    assert not upstream.requests
