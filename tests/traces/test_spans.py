"""One span per exchange: where it stands in its trace, what it says, and what it never says."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from gateway.usage.reported import Usage
from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.client import JSON
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.realtime import talk
from tests.kit.records import exchange
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn, breaks_off
from tests.traces.spans import CALLER, PASSED_OVER, RECORDED, TRACE, Memory, a_span, ids

CHAT = {"model": "gpt-4o", "messages": [{"role": "user", "content": "a-secret-prompt"}]}
STREAMED = orjson.dumps({**CHAT, "stream": True})
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 7,
    "total_tokens": 27,
    "prompt_tokens_details": {"cached_tokens": 12},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def traced(start_gateway: StartGateway, memory: Memory) -> AsyncIterator[Gateway]:
    yield await start_gateway(export_spans=memory.export)


def said(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def answering(document: object, status: str = "200 OK") -> Any:
    body = orjson.dumps(document)
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    async def play(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(head % (status.encode(), len(body)) + body)

    return play


async def streaming(turn: Turn) -> None:
    await turn.read_body()
    await turn.send(SSE_HEAD)
    await turn.chunk(b'data: {"choices":[{"delta":{"content":"a-secret-answer"}}]}\n\n')
    await turn.wait_for("go on")
    await turn.chunk(b'data: {"choices":[],"service_tier":"flex","usage":%b}\n\n' % orjson.dumps(USAGE))
    await turn.chunk(b"data: [DONE]\n\n")
    await turn.send(b"0\r\n\r\n")


async def test_callers_trace_is_continued_and_goes_up_with_the_gateways_span_as_parent(
    traced: Gateway, upstream: ScriptedUpstream, memory: Memory
) -> None:
    state = "tracestate: congo=t61rcWkgMzE\r\ntracestate: rojo=00f067aa0ba902b7\r\n"
    for _ in range(3):  # a head that comes again goes up another way than the first
        await ask(traced, "POST", "/v1/chat/completions", CHAT, headers=JSON + RECORDED + state)

    spans = await memory.wait(3)
    for span, seen in zip(spans, upstream.requests, strict=True):
        trace, own, parent = ids(span)
        assert (trace, parent) == (TRACE, CALLER)
        assert span.parent is not None
        assert span.parent.is_remote
        assert seen.all("traceparent") == [f"00-{TRACE}-{own}-01"]
        assert seen.all("tracestate") == ["congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"]
        assert span.context is not None
        assert span.context.trace_state.to_header() == "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
    assert len({ids(span)[1] for span in spans}) == 3
    assert [line["trace_id"] for line in await traced.lines.wait(3)] == [TRACE] * 3


@pytest.mark.parametrize(
    "fields",
    [
        "",
        "traceparent: nonsense\r\ntracestate: congo=1\r\n",
        f"traceparent: 00-{'0' * 32}-{CALLER}-01\r\n",
        RECORDED + RECORDED,
        RECORDED.upper(),
    ],
)
async def test_without_a_sound_traceparent_a_trace_begins_here(
    traced: Gateway, upstream: ScriptedUpstream, memory: Memory, fields: str
) -> None:
    for _ in range(3):
        await ask(traced, "POST", "/v1/chat/completions", CHAT, headers=JSON + fields)

    for span, seen in zip(await memory.wait(3), upstream.requests, strict=True):
        trace, own, parent = ids(span)
        assert parent is None
        assert trace != TRACE
        assert trace in {line["trace_id"] for line in await traced.lines.wait(3)}
        assert seen.all("traceparent") == [f"00-{trace}-{own}-01"]
        assert seen.all("tracestate") == []


async def test_caller_that_does_not_record_has_decided_for_the_gateway(
    traced: Gateway, upstream: ScriptedUpstream, memory: Memory
) -> None:
    await ask(
        traced, "POST", "/v1/chat/completions", CHAT, headers=JSON + PASSED_OVER + "tracestate: a=1\r\n"
    )
    await ask(traced, "POST", "/v1/chat/completions", CHAT, headers=JSON + RECORDED)

    (span,) = await memory.wait()
    assert ids(span)[2] == CALLER
    first = upstream.requests[0]
    assert first.all("traceparent") == [PASSED_OVER.partition(": ")[2].strip()], "nobody is missing between"
    assert first.all("tracestate") == ["a=1"]


async def test_ratio_decides_where_the_caller_traces_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream, memory: Memory
) -> None:
    gateway = await start_gateway(export_spans=memory.export, traces={"ratio": 0.0})

    await ask(gateway, "POST", "/v1/chat/completions", CHAT)
    await ask(gateway, "POST", "/v1/chat/completions", CHAT, headers=JSON + RECORDED)

    (span,) = await memory.wait()
    assert ids(span)[0] == TRACE
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", upstream.requests[0].get("traceparent") or "")


async def test_where_traces_are_off_what_is_said_of_them_passes_untouched(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    odd = "TraceParent: Nonsense\r\ntracestate: A=1\r\ntracestate: b\r\n"
    for fields in (odd, odd, RECORDED):
        await ask(gateway, "POST", "/v1/chat/completions", CHAT, headers=JSON + fields)

    for seen in upstream.requests[:2]:
        assert [(name, value) for name, value in seen.fields if name.lower().startswith("trace")] == [
            ("TraceParent", "Nonsense"),
            ("tracestate", "A=1"),
            ("tracestate", "b"),
        ]
    assert upstream.requests[2].get("traceparent") == RECORDED.partition(": ")[2].strip()


async def test_streamed_chat_is_told_by_the_conventions_for_genai(
    traced: Gateway, upstream: ScriptedUpstream, memory: Memory
) -> None:
    upstream.plays(streaming)
    before = time.time_ns()
    async with await traced.connect() as client:
        asking = client.request_bytes("POST", "/v1/chat/completions", STREAMED, headers=JSON)
        await client.send(asking)
        answer = await client.read_head()
        await client.read_chunk()
        between = time.time_ns()
        upstream.gate("go on").set()
        await client.read_body(answer)

    (span,) = await memory.wait()
    attributes = said(span)
    assert span.name == "chat gpt-4o"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert attributes.pop("gen_ai.response.time_to_first_chunk") < 5
    (line,) = await traced.lines.wait()
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": True,
        "gen_ai.usage.input_tokens": 20,
        "gen_ai.usage.cache_read.input_tokens": 12,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.usage.reasoning.output_tokens": 3,
        "openai.api.type": "chat_completions",
        "openai.response.service_tier": "flex",
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/chat/completions",
        "gateway.request_id": line["request_id"],
        "gateway.operation": "createChatCompletion",
        "gateway.tenant": "acme",
        "gateway.upstream": "default",
        "gateway.ending": "complete",
    }
    (first_byte,) = span.events
    assert first_byte.name == "first_byte"
    assert span.start_time is not None
    assert span.end_time is not None
    assert before - 10**7 <= span.start_time <= first_byte.timestamp <= between <= span.end_time


@pytest.mark.parametrize(
    ("target", "body", "name", "api"),
    [
        ("/v1/responses", {"model": "gpt-4o", "input": "x"}, "chat gpt-4o", "responses"),
        ("/v1/completions", {"model": "davinci", "prompt": "x"}, "text_completion davinci", None),
        ("/v1/embeddings", {"model": "ada", "input": "x"}, "embeddings ada", None),
        ("/v1/moderations", {"model": "m", "input": "x"}, "createModeration m", None),
    ],
)
async def test_spans_are_called_as_the_conventions_call_the_operation(
    traced: Gateway, memory: Memory, target: str, body: object, name: str, api: str | None
) -> None:
    await ask(traced, "POST", target, body)

    (span,) = await memory.wait()
    assert span.name == name
    assert said(span).get("openai.api.type") == api


async def test_fetching_a_stored_answer_counts_no_usage(
    traced: Gateway, upstream: ScriptedUpstream, memory: Memory
) -> None:
    document = {"id": "resp_1", "object": "response", "status": "completed"}
    upstream.plays(
        answering({**document, "usage": {"input_tokens": 5, "output_tokens": 6, "total_tokens": 11}})
    )

    await ask(traced, "GET", "/v1/responses/resp_1")

    (span,) = await memory.wait()
    assert span.name == "fetch_response"
    assert said(span)["http.route"] == "/v1/responses/{response_id}"
    assert not [name for name in said(span) if name.startswith("gen_ai.usage")]


async def test_what_runs_no_model_is_served_and_not_asked_for(traced: Gateway, memory: Memory) -> None:
    await ask(traced, "GET", "/v1/files")

    (span,) = await memory.wait()
    assert (span.name, span.kind) == ("listFiles", SpanKind.SERVER)
    assert not [name for name in said(span) if name.startswith(("gen_ai", "server", "openai"))]


async def test_refusals_and_failures_name_their_code(
    traced: Gateway, upstream: ScriptedUpstream, memory: Memory
) -> None:
    await ask(traced, "POST", "/v1/chat/completions", CHAT, credential="nonsense")
    upstream.plays(answering({"error": {"message": "slow down"}}, "429 Too Many Requests"))
    await ask(traced, "POST", "/v1/chat/completions", CHAT)
    async with await traced.connect() as client:
        await client.send(b"nonsense\r\n\r\n")
        await client.closed()

    spans = await memory.wait(3)
    assert [said(span)["error.type"] for span in spans] == ["invalid_api_key", "429", "bad_request_syntax"]
    assert [span.status.status_code for span in spans] == [
        StatusCode.ERROR,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    assert [span.name for span in spans] == ["chat", "chat gpt-4o", "none"]
    assert "gateway.tenant" not in said(spans[0])


async def test_broken_stream_is_an_error_though_it_began_well(
    traced: Gateway, upstream: ScriptedUpstream, memory: Memory
) -> None:
    upstream.plays(breaks_off)
    async with await traced.connect() as client:
        answer = await client.request("POST", "/v1/chat/completions", STREAMED, headers=JSON)
        assert not answer.clean_end

    (span,) = await memory.wait()
    assert span.status.status_code is StatusCode.ERROR
    assert said(span)["gateway.ending"] == "upstream_lost"
    assert len(span.events) == 1


async def test_session_is_one_span_which_its_upstream_continues(
    traced: Gateway, upstream: ScriptedUpstream, memory: Memory
) -> None:
    talking = await talk(traced, upstream, more=RECORDED)
    await talking.asked()
    await talking.done(used=(11, 4))
    assert not memory.spans
    await talking.hang_up()

    (span,) = await memory.wait()
    trace, own, parent = ids(span)
    assert (trace, parent) == (TRACE, CALLER)
    assert upstream.requests[0].all("traceparent") == [f"00-{TRACE}-{own}-01"]
    assert span.name == "connectRealtime gpt-realtime"
    assert said(span)["gen_ai.usage.output_tokens"] == 4
    assert said(span)["http.response.status_code"] == 101


async def test_no_span_has_a_body_a_secret_a_query_or_a_name(
    start_gateway: StartGateway, upstream: ScriptedUpstream, memory: Memory
) -> None:
    tenants = {"acme": EVERY_SCOPE, "quiet": {**EVERY_SCOPE, "logging": "minimal"}}
    gateway = await start_gateway(export_spans=memory.export, tenants=tenants)
    upstream.plays(answering({"choices": [{"message": {"content": "a-secret-answer"}}]}))
    hostile = {**CHAT, "model": "x\x1b[31m\n" + "y" * 5000}
    for body, tenant in ((CHAT, "acme"), (CHAT, "quiet"), (hostile, "acme")):
        credential = gateway.credential(tenant=tenant, subject="a-secret-name")
        await ask(gateway, "POST", "/v1/chat/completions?a-secret=query", body, credential=credential)
        spans = await memory.wait(len(memory.spans) or 1)

    spans = await memory.wait(3)
    told = "".join(span.to_json() for span in spans)
    for secret in ("a-secret", "sk-upstream-key", credential):
        assert secret not in told
    assert (spans[0].name, spans[1].name) == ("chat gpt-4o", "chat"), "a tenant that logs little shows little"
    assert "\x1b" not in spans[2].name
    assert len(spans[2].name) < 300


async def test_who_has_no_credential_that_counts_does_not_decide_what_is_recorded(
    start_gateway: StartGateway, memory: Memory
) -> None:
    gateway = await start_gateway(export_spans=memory.export, traces={"ratio": 0.0})
    for _ in range(5):
        await ask(gateway, "GET", "/v1/models", headers=RECORDED, credential="nonsense")
    await ask(gateway, "GET", "/v1/models", headers=RECORDED)

    (span,) = await memory.wait()
    assert said(span)["http.response.status_code"] == 200


async def test_what_others_keep_with_a_trace_makes_no_span_large(
    start_gateway: StartGateway, memory: Memory, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(export_spans=memory.export)
    state = ",".join(f"k{number}={'v' * 200}" for number in range(30))
    await ask(gateway, "GET", "/v1/models", headers=f"{RECORDED}tracestate: {state}\r\n")

    (span,) = await memory.wait()
    assert span.context is not None
    assert not span.context.trace_state
    assert upstream.requests[0].get("tracestate") == state


def test_no_number_that_an_upstream_reports_is_larger_than_a_span_can_say() -> None:
    record = exchange(usage=Usage(input=2**70, output=2**64, total=2**71))

    assert a_span(record).attributes["gen_ai.usage.input_tokens"] == 2**53
