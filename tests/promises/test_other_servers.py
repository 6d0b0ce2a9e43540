"""What vLLM, llama.cpp, text-embeddings-inference and their like serve beside the API's own operations is metered,
limited and judged like these.
"""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.limits.terms import Dimension
from gateway.operations.scopes import GROUPS
from tests.conftest import StartGateway
from tests.kit.asking import TABLE, ask, error_of, verdict
from tests.kit.client import JSON
from tests.kit.gateway import EVERY_SCOPE
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.usage_answers import counted
from tests.middleware.limited import post, remaining, tenant

QUERY = {"model": "org/m", "query": "q" * 40, "documents": ["d" * 80, "e" * 80]}
ASKED = {"model": "org/m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 50}

# What each is asked, what its server answers, and what that says to have been used: input and output.
ANSWERS: dict[str, tuple[str, dict[str, Any], object, tuple[int, int]]] = {
    "rerank": (
        "/v1/rerank",
        QUERY,
        {
            "results": [{"index": 0, "relevance_score": 0.5}],
            "usage": {"prompt_tokens": 33, "total_tokens": 33},
        },
        (33, 0),
    ),
    "rerank without a part": (
        *("/v1/reranking", QUERY, {"results": [], "usage": {"total_tokens": 21}}),
        (21, 0),
    ),
    "score": (
        "/v1/score",
        {"model": "org/m", "text_1": "a", "text_2": ["b", "c"]},
        {
            "object": "list",
            "data": [{"index": 0, "score": 1}],
            "usage": {"prompt_tokens": 12, "total_tokens": 12},
        },
        (12, 0),
    ),
    "classify": (
        "/v1/classify",
        {"model": "org/m", "input": "x"},
        {"data": [{"label": "a", "probs": [1]}], "usage": {"prompt_tokens": 9, "total_tokens": 9}},
        (9, 0),
    ),
    "pooling": (
        "/v1/pooling",
        {"model": "org/m", "input": "x"},
        {"object": "list", "data": [{"data": [0.5]}], "usage": {"prompt_tokens": 8, "total_tokens": 8}},
        (8, 0),
    ),
    "infill": (
        "/v1/infill",
        {"input_prefix": "def f(", "input_suffix": "pass", "n_predict": 9},
        {"content": "x):", "stop": True, "tokens_predicted": 4, "tokens_evaluated": 11, "timings": {}},
        (11, 4),
    ),
    "message": (
        "/v1/messages",
        ASKED,
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "content": [{"type": "text", "text": "Hi"}],
            "model": "org/m",
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 14, "output_tokens": 3},
        },
        (14, 3),
    ),
    "message from a cache": (
        "/v1/messages",
        ASKED,
        {
            "type": "message",
            "usage": {
                "input_tokens": 4,
                "cache_read_input_tokens": 100,
                "cache_creation_input_tokens": 20,
                "output_tokens": 3,
            },
        },
        (124, 3),
    ),
    "decision": (
        "/v1/decisions",
        {"model": "org/m", "input": "x", "questions": [{"type": "predicate", "instructions": "y"}]},
        {
            "answers": [],
            "model": "org/m",
            "usage": {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9},
        },
        (7, 2),
    ),
    "several chats": (
        "/v1/chat/completions/batch",
        {"model": "org/m", "messages": [[{"role": "user", "content": "x"}]] * 2},
        {"choices": [], "usage": {"prompt_tokens": 16, "completion_tokens": 5, "total_tokens": 21}},
        (16, 5),
    ),
}


def plays(upstream: ScriptedUpstream, body: bytes, kind: bytes = b"application/json") -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % (kind, len(body)) + body)

    upstream.plays(script)


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_was_used_is_read_and_charged(
    start_gateway: StartGateway, upstream: ScriptedUpstream, name: str
) -> None:
    target, body, answer, (sent, said) = ANSWERS[name]
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    plays(upstream, orjson.dumps(answer))

    answered = await post(gateway, target, orjson.dumps(body))

    assert (answered.status, answered.body) == (200, orjson.dumps(answer))
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000 - sent - said
    [used] = (await counted(gateway)).values()
    assert (used["input"], used.get("output", 0)) == (sent, said)


def events(*told: dict[str, Any]) -> bytes:
    return b"".join(b"event: %b\ndata: %b\n\n" % (one["type"].encode(), orjson.dumps(one)) for one in told)


def message_events(started: dict[str, int], ended: dict[str, int]) -> bytes:
    delta = {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "Hello there"},
    }
    return events(
        {"type": "message_start", "message": {"id": "msg_1", "role": "assistant", "usage": started}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *[delta] * 20,
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": ended},
        {"type": "message_stop"},
    )


@pytest.mark.parametrize(
    ("started", "ended"),
    [
        ({"input_tokens": 30, "output_tokens": 1}, {"output_tokens": 41}),
        ({"input_tokens": 0, "output_tokens": 0}, {"input_tokens": 30, "output_tokens": 41}),
        ({"input_tokens": 2, "cache_read_input_tokens": 28, "output_tokens": 1}, {"output_tokens": 41}),
    ],
    ids=["as Anthropic", "as vLLM", "from a cache"],
)
@pytest.mark.parametrize("cut", [7, 10_000])
async def test_a_stream_of_messages_says_its_input_first_and_its_output_last(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    started: dict[str, int],
    ended: dict[str, int],
    cut: int,
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    stream = message_events(started, ended)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % len(stream))
        for at in range(0, len(stream), cut):
            await turn.send(stream[at : at + cut])

    upstream.plays(script)
    answered = await post(gateway, "/v1/messages", orjson.dumps({**ASKED, "stream": True}))

    assert answered.body == stream
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000 - 71
    [used] = (await counted(gateway)).values()
    assert (used["input"], used["output"]) == (30, 41)


async def test_a_stream_of_messages_that_breaks_off_is_estimated(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    stream = message_events({"input_tokens": 30, "output_tokens": 1}, {"output_tokens": 41})
    begun = stream[: stream.index(b"event: content_block_stop")]
    plays(upstream, begun, b"text/event-stream")

    await post(gateway, "/v1/messages", orjson.dumps({**ASKED, "stream": True}))

    assert 20 <= 1000 - 30 - await remaining(gateway, Dimension.TOKENS_PER_DAY) <= 60


async def test_a_stream_of_messages_that_goes_on_behind_a_report_is_estimated_when_its_client_leaves(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    stream = message_events({"input_tokens": 30, "output_tokens": 1}, {"output_tokens": 2})
    begun, goes_on = stream, stream[stream.index(b"event: content_block_start") :]
    goes_on = goes_on[: goes_on.index(b"event: content_block_stop")]

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + begun + goes_on)
        await turn.gone()

    upstream.plays(script)
    async with await gateway.connect() as client:
        await client.send(
            client.request_bytes("POST", "/v1/messages", orjson.dumps({**ASKED, "stream": True}))
        )
        await client.read_head()
        await client.reader.readuntil(goes_on[-80:])
    await gateway.lines.wait(1)
    assert 80 <= 1000 - 30 - await remaining(gateway, Dimension.TOKENS_PER_DAY) <= 200


NAMING = [target for target, *_ in ANSWERS.values() if target != "/v1/infill"]
COUNTING = ["/v1/tokenize", "/v1/detokenize", "/v1/messages/count_tokens"]


@pytest.mark.parametrize("target", sorted({*NAMING, *COUNTING, "/v1/infill"}))
async def test_a_model_is_judged_wherever_they_name_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream, target: str
) -> None:
    gateway = await start_gateway(tenants={"acme": EVERY_SCOPE | {"models": ["org/*"]}})

    other = await ask(gateway, "POST", target, {"model": "other/m", "prompt": "x"})
    none = await ask(gateway, "POST", target, {"prompt": "x"})
    allowed = await ask(gateway, "POST", target, {"model": "org/m", "prompt": "x"})

    assert verdict(other) == verdict(none) == (403, "model_not_allowed")
    assert error_of(other)["param"] == "model"
    assert allowed.status == 200
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "target", sorted({*NAMING, *COUNTING, "/v1/infill"} - {"/v1/chat/completions/batch"})
)
async def test_each_has_a_scope_of_its_own_that_earlier_credentials_lack(
    start_gateway: StartGateway, target: str
) -> None:
    gateway = await start_gateway()
    scope = TABLE.match("POST", target).operation.scope

    answer = await ask(gateway, "POST", target, {}, scopes={"embeddings:write", "completions:write"})

    assert scope in GROUPS["inference"][2]
    assert scope not in TABLE.vocabulary.meaning(["inference", "*"], 1)
    assert verdict(answer) == (403, "missing_scope")
    assert scope in error_of(answer)["message"]


async def test_counting_costs_nothing(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    plays(upstream, b'{"count":3,"tokens":[1,2,3],"input_tokens":3}')
    for target in COUNTING:
        assert (await post(gateway, target, orjson.dumps(ASKED), headers=JSON)).status == 200
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000


TOOL_RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "42"}]}
TOOL_USE = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"x": 1}}


async def test_what_a_tool_answered_in_a_message_names_no_stored_object(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": EVERY_SCOPE, "beta": EVERY_SCOPE})
    talk = [{"role": "assistant", "content": [TOOL_USE]}, {"role": "user", "content": [TOOL_RESULT]}]
    with_file = {"type": "document", "source": {"type": "file", "file_id": "file-1"}}

    passed = await ask(gateway, "POST", "/v1/messages", ASKED | {"messages": talk})
    named = await ask(
        gateway, "POST", "/v1/messages", ASKED | {"messages": [{"role": "user", "content": [with_file]}]}
    )

    assert passed.status == 200
    assert verdict(named) == (403, "shared_upstream")
    assert len(upstream.requests) == 1


async def test_the_tools_of_messages_run_no_model_of_their_own(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(tenants={"acme": EVERY_SCOPE | {"models": ["org/*"]}})
    tools = [
        {"name": "f", "input_schema": {"type": "object"}},
        {"type": "bash_20250124", "name": "bash"},
        {"type": "web_search_20250305", "name": "web_search", "max_uses": 5},
    ]
    assert (await ask(gateway, "POST", "/v1/messages", ASKED | {"tools": tools})).status == 200


@pytest.mark.parametrize("inside", [False, True])
async def test_what_is_attached_to_a_message_is_no_text(
    start_gateway: StartGateway, upstream: ScriptedUpstream, inside: bool
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=5000))
    plays(upstream, b'{"type":"message","usage":{"input_tokens":1500,"output_tokens":3}}')
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 400_000}}
    content = [{**TOOL_RESULT, "content": [image]}] if inside else [image]

    answered = await post(
        gateway, "/v1/messages", orjson.dumps(ASKED | {"messages": [{"role": "user", "content": content}]})
    )

    assert answered.status == 200


@pytest.mark.parametrize("answer", [b'[{"index":0,"score":0.9}]', b"[]", b'{"results":[]}'])
async def test_what_reports_nothing_is_estimated(
    start_gateway: StartGateway, upstream: ScriptedUpstream, answer: bytes
) -> None:
    """As text-embeddings-inference does, whose answers are bare lists."""
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    plays(upstream, answer)

    answered = await post(gateway, "/v1/rerank", orjson.dumps({"query": "q" * 80, "texts": ["t" * 200] * 2}))

    assert answered.body == answer
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000 - 120
