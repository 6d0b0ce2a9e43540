"""Whatever a session's events look like, what it uses goes on being counted."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.exchange.metrics import Metrics
from gateway.exchange.standing import Standing
from gateway.limits.charges import QuotaSet
from gateway.limits.limiter import Limiter
from gateway.limits.memory_buckets import MemoryBuckets
from gateway.middleware.session_permits import SessionPermits
from gateway.middleware.session_references import SessionReferences
from gateway.middleware.session_responses import SessionResponses
from gateway.middleware.session_under_way import SessionUnderWay
from gateway.operations.table import OperationTable
from gateway.policy.requests import question_of
from gateway.policy.socket_requests import read_socket_request
from gateway.usage.guesses import Guesses
from gateway.usage.realtime import asked_in
from gateway.usage.reported import Usage
from gateway.wire.request_fields import BodyRefused
from tests.kit.records import caller, exchange

KINDS = st.sampled_from(
    [
        *("response.created", "response.done", "session.created", "session.updated", "error"),
        *("transcription_session.updated", "input_audio_buffer.committed", "response.output_text.delta"),
        *("conversation.item.input_audio_transcription.completed", "response.output_audio.delta"),
        *("response.completed", "response.incomplete", "response.failed", "response.steer.failed"),
    ]
)
NAMES = st.sampled_from(
    [
        *("id", "response", "session", "error", "usage", "conversation_id", "event_id", "code", "status"),
        *("audio", "input", "output", "format", "type", "object", "instructions", "tools", "response_id"),
        *("max_output_tokens", "total_tokens", "input_tokens", "output_tokens", "delta", "item", "content"),
        *("input_token_details", "seconds", "conversation", "input_audio_format", "stream_id", "steer"),
        *("previous_response_id", "sequence_number", "model", "background", "generate", "response_id"),
    ]
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
MEMBERS = st.dictionaries(NAMES, VALUES, max_size=6)
EVENTS = st.builds(lambda kind, members: {"type": kind, **members}, KINDS, MEMBERS)


TABLE = OperationTable.load()


def reading(counted: list[Usage]) -> SessionResponses:
    """Reads a session of somebody whom nothing limits, so that no store is asked."""
    tallies = Metrics().of("acme", "connectRealtime")
    standing = Standing(caller(), TABLE.by_id("connectRealtime"), until=2e9, tallies=tallies)
    record = exchange(operation=standing.operation, caller=standing.caller, standing=standing)
    limiter = Limiter(MemoryBuckets())
    permits = SessionPermits(record, limiter, lambda *_: None, QuotaSet.of(()))
    return SessionResponses(
        record,
        permits,
        QuotaSet.of(()),
        guesses=Guesses({}),
        references=SessionReferences(None, record.caller, permits),
        unseen_per_second=50,
        count=counted.append,
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=5))
def test_no_event_of_an_upstream_makes_its_reader_fail(events: list[dict[str, Any]]) -> None:
    counted: list[Usage] = []
    responses = reading(counted)
    for event in events:
        responses.answer_message(orjson.dumps(event))
    responses.finish()
    assert all(used.total >= 0 for used in counted)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["response.create", "conversation.item.create"]), MEMBERS)
def test_no_event_of_a_client_makes_its_reader_fail(kind: str, members: dict[str, Any]) -> None:
    response, prompt = asked_in(orjson.dumps({**members, "type": kind}))
    assert prompt >= 0
    assert response is None or response.prompt >= 0


def requests_of(counted: list[Usage]) -> SessionUnderWay:
    """Reads a session whose events are requests, of the same caller."""
    tallies = Metrics().of("acme", "connectResponses")
    standing = Standing(caller(), TABLE.by_id("connectResponses"), until=2e9, tallies=tallies)
    record = exchange(operation=standing.operation, caller=standing.caller, standing=standing)
    operation = TABLE.by_id("createResponse")
    return SessionUnderWay(
        record,
        SessionPermits(record, Limiter(MemoryBuckets()), lambda *_: None, QuotaSet.of(()), operation),
        operation,
        guesses=Guesses({}),
        unseen_per_second=50,
        count=lambda used, _: counted.append(used),
        named=lambda _: None,
    )


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=6))
def test_no_event_of_an_upstream_makes_who_follows_requests_fail(events: list[dict[str, Any]]) -> None:
    counted: list[Usage] = []
    requests = requests_of(counted)
    for event in events:
        requests.answer_message(orjson.dumps(event))
        requests.answer_message(orjson.dumps(event | {"padding": "x" * 70_000}))
    requests.finish()
    assert all(used.total >= 0 for used in counted)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["response.create", "response.steer", "response.inject", "?"]), MEMBERS)
def test_no_request_over_a_socket_makes_its_reader_fail(kind: str, members: dict[str, Any]) -> None:
    question = question_of(caller(models=["a"]), TABLE.by_id("createResponse"))
    assert question is not None
    try:
        request = read_socket_request(orjson.dumps({**members, "type": kind}), question)
    except BodyRefused:
        return
    assert request.kind == kind
    assert request.body.prompt >= 0
