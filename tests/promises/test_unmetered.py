"""Who may do only what a limit counts can do nothing else, whatever it is, and everything that costs nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from gateway.limits.terms import Dimension
from gateway.operations.table import Operation, OperationTable, Rewrite
from gateway.policy.coverage import COUNTS
from tests.conftest import StartGateway
from tests.kit.asking import assert_refused, error_of, form
from tests.kit.client import CHAT, FORM, HANDSHAKE, JSON
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import ScriptedUpstream, Turn, cut_off
from tests.kit.websocket import CLOSE, accepted, read_to_the_end
from tests.middleware.limited import answers, chat, post, reporting

CODE = "unmetered_operation"
VIDEO = orjson.dumps({"model": "sora-2", "prompt": "A cat"})
EDIT = form(("model", b"gpt-image-1"), ("image", bytes(100_000)), file_at=1)
ANSWER = orjson.dumps({"model": "gpt-5", "input": "A cat", "max_output_tokens": 10})
DRAWN = orjson.dumps(
    {"model": "gpt-5", "input": "x", "max_output_tokens": 10, "tools": [{"type": "image_generation"}]}
)


def closed(unmetered: str | None = "refuse", **limits: Any) -> dict[str, Any]:
    word = {} if unmetered is None else {"unmetered": unmetered}
    return {"tenants": {"acme": {**EVERY_SCOPE, **word, "stored_objects": "own", "limits": limits}}}


async def ask(gateway: Gateway, method: str, target: str, body: bytes | None, headers: str = JSON) -> Any:
    async with await gateway.connect() as client:
        return await client.request(method, target, body, headers=headers if body is not None else "")


UNCOVERED = [
    ("POST", "/v1/videos", VIDEO, JSON),
    ("POST", "/v1/videos", form(("model", b"sora-2"), ("prompt", b"A cat")), FORM),
    ("POST", "/v1/videos/video_1/remix", VIDEO, JSON),
    ("POST", "/v1/images/generations", VIDEO, JSON),
    ("POST", "/v1/images/edits", EDIT, FORM),
    ("POST", "/v1/images/variations", EDIT, FORM),
    ("POST", "/v1/audio/speech", VIDEO, JSON),
    ("POST", "/v1/audio/transcriptions", EDIT, FORM),
    ("POST", "/v1/batches", orjson.dumps({"input_file_id": "f", "endpoint": CHAT}), JSON),
    ("POST", "/v1/fine_tuning/jobs", VIDEO, JSON),
    ("POST", "/v1/fine_tuning/jobs/ft-1/resume", None, ""),
    ("POST", "/v1/files", EDIT, FORM),
    ("POST", "/v1/uploads", VIDEO, JSON),
    ("POST", "/v1/uploads/upload_1/parts", EDIT, FORM),
    ("POST", "/v1/vector_stores", VIDEO, JSON),
    ("POST", "/v1/vector_stores/vs_1/search", VIDEO, JSON),
    ("POST", "/v1/containers", VIDEO, JSON),
    ("POST", "/v1/brand/new", VIDEO, JSON),
    ("PUT", "/v1/brand/new", VIDEO, JSON),
    ("GET", "/v1/brand/new", None, ""),
    ("DELETE", "/v1/brand/new", None, ""),
    ("POST", "/v1/responses", DRAWN, JSON),
]


@pytest.mark.parametrize(
    ("method", "target", "body", "headers"), UNCOVERED, ids=lambda value: str(value)[:40]
)
async def test_what_no_limit_counts_is_refused_and_named(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    method: str,
    target: str,
    body: bytes | None,
    headers: str,
) -> None:
    gateway = await start_gateway(**closed(max_tokens_per_1_day=10**6, max_requests_per_1_day=100))
    refused = await ask(gateway, method, target, body, headers)
    assert_refused(refused, 403, CODE)
    assert "acme" in error_of(refused)["message"]
    assert 'unmetered = "allow"' in error_of(refused)["message"]
    assert upstream.requests == []


async def test_refusal_names_the_operation_what_it_uses_and_the_limit_that_would_count_it(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**closed(max_tokens_per_1_day=10**6))
    message = error_of(await post(gateway, "/v1/images/generations", VIDEO))["message"]
    for word in ("createImage", "(images)", "max_images_per_1_minute"):
        assert word in message
    assert "image_generation" in error_of(await post(gateway, "/v1/responses", DRAWN))["message"]


async def test_body_of_what_no_limit_counts_is_not_invited(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**closed(max_tokens_per_1_day=10**6))
    async with await gateway.connect() as client:
        await client.send(
            client.request_bytes(
                "POST",
                "/v1/images/edits",
                headers=FORM + "Content-Length: 10000\r\nExpect: 100-continue\r\n",
            )
        )
        assert_refused(await client.read_answer("POST"), 403, CODE)


COVERED = [
    ("POST", CHAT, chat(max_tokens=5), JSON),
    ("POST", "/v1/responses", ANSWER, JSON),
    ("POST", "/v1/embeddings", orjson.dumps({"model": "e", "input": "x"}), JSON),
    ("GET", "/v1/models", None, ""),
    ("GET", "/v1/files", None, ""),
    ("GET", "/v1/videos/video_1", None, ""),
    ("DELETE", "/v1/files/file-1", None, ""),
    ("POST", "/v1/responses/resp_1/cancel", None, ""),
    ("POST", "/v1/responses/input_tokens", ANSWER, JSON),
    ("POST", "/v1/batches/batch_1/cancel", None, ""),
    ("POST", "/v1/threads", b"{}", JSON),
    ("POST", "/v1/threads/thread_1/messages", b"{}", JSON),
    ("POST", "/v1/threads/thread_1/runs", orjson.dumps({"assistant_id": "a"}), JSON),
]


@pytest.mark.parametrize(("method", "target", "body", "headers"), COVERED, ids=lambda value: str(value)[:40])
async def test_what_a_limit_counts_or_costs_nothing_stays_open(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    method: str,
    target: str,
    body: bytes | None,
    headers: str,
) -> None:
    gateway = await start_gateway(**closed(max_tokens_per_1_day=10**6))
    answers(upstream, reporting(1))
    assert (await ask(gateway, method, target, body, headers)).status == 200


async def test_sessions_are_open_where_llm_tokens_are_limited_and_no_other_sockets(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.send(accepted(turn))
        await turn.gone()

    upstream.plays(script)
    by_tokens = await start_gateway(**closed(max_tokens_per_1_day=10**6))
    by_requests = await start_gateway(**closed(max_requests_per_1_day=10))
    for gateway, target, status in (
        (by_tokens, "/v1/realtime?model=gpt-realtime", 101),
        (by_tokens, "/v1/responses/resp_1", 403),
        (by_tokens, "/v1/models", 403),
        (by_requests, "/v1/realtime?model=gpt-realtime", 403),
    ):
        async with await gateway.connect() as client:
            await client.send(client.request_bytes("GET", target, headers=HANDSHAKE))
            answer = await client.read_head()
            assert answer.status == status, target


async def test_limits_on_requests_count_no_use(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**closed(max_requests_per_1_day=100, max_concurrent_requests=5))
    answers(upstream, reporting(1))
    assert_refused(await post(gateway, CHAT, chat()), 403, CODE)
    assert (await ask(gateway, "GET", "/v1/models", None)).status == 200


@pytest.mark.parametrize(
    ("limit", "target", "body", "headers"),
    [
        ("max_images_per_1_minute", "/v1/images/edits", EDIT, FORM),
        ("max_audio_megabytes_per_1_minute", "/v1/audio/transcriptions", EDIT, FORM),
        (
            "batch_1_day_max_input_tokens",
            "/v1/batches",
            orjson.dumps({"input_file_id": "f", "endpoint": CHAT}),
            JSON,
        ),
        ("max_tokens_per_1_minute", CHAT, chat(max_tokens=1), JSON),
    ],
)
async def test_each_limit_opens_what_it_counts(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    limit: str,
    target: str,
    body: bytes,
    headers: str,
) -> None:
    limits: dict[str, Any] = {limit: 1000}
    gateway = await start_gateway(**closed(**limits))
    answers(upstream, reporting(1, bytes=4))
    assert (await post(gateway, target, body, headers)).status == 200


@pytest.mark.parametrize(
    ("endpoint", "status"),
    [(CHAT, 200), ("/v1/embeddings", 200), ("/v1/images/generations", 403), ("/v1/brand/new", 403)],
)
async def test_batch_runs_only_what_its_limit_counts(
    start_gateway: StartGateway, upstream: ScriptedUpstream, endpoint: str, status: int
) -> None:
    gateway = await start_gateway(**closed(batch_1_day_max_input_tokens=1000))
    answers(upstream, reporting(1, bytes=4))
    body = orjson.dumps({"input_file_id": "f", "endpoint": endpoint})
    answer = await post(gateway, "/v1/batches", body)
    assert answer.status == status
    if status == 403:
        assert_refused(answer, 403, CODE)
        assert upstream.requests == []


async def test_limits_of_a_model_open_that_model_alone(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        **closed(
            models={"gpt-4o*": {"max_tokens_per_1_day": 1000}, "gpt-image*": {"max_images_per_1_minute": 100}}
        )
    )
    answers(upstream, reporting(1))
    assert (await post(gateway, CHAT, chat(max_tokens=5))).status == 200
    other = await post(gateway, CHAT, chat(max_tokens=5, model="gpt-5"))
    assert_refused(other, 403, CODE)
    assert "'gpt-5'" in error_of(other)["message"]
    assert (await post(gateway, "/v1/images/edits", EDIT, FORM)).status == 200
    seen = len(upstream.requests)

    upstream.plays(cut_off)
    unlimited = form(("model", b"dall-e-2"), ("image", bytes(200_000)), file_at=1)
    assert_refused(await post(gateway, "/v1/images/edits", unlimited, FORM), 403, CODE)
    unnamed = form(("image", bytes(200_000)), file_at=0)
    assert_refused(await post(gateway, "/v1/images/edits", unnamed, FORM), 403, CODE)
    assert not any(request.complete for request in upstream.requests[seen:])


async def test_limits_of_a_subject_and_of_a_credential_count(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**closed(subjects={"ci-*": {"max_tokens_per_1_day": 1000}}))
    answers(upstream, reporting(1))
    assert (await post(gateway, CHAT, chat(max_tokens=5), subject="ci-1")).status == 200
    assert_refused(await post(gateway, CHAT, chat(max_tokens=5), subject="alice"), 403, CODE)
    limited = {"max_tokens_per_1_day": 1000}
    assert (await post(gateway, CHAT, chat(max_tokens=5), subject="alice", limits=limited)).status == 200


async def test_everything_is_open_by_default_and_tenants_say_otherwise(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    answers(upstream, reporting(1))
    for common, own, status in (
        (None, None, 200),
        ("refuse", None, 403),
        ("refuse", "allow", 200),
        ("allow", "refuse", 403),
    ):
        settings = closed(own, max_tokens_per_1_day=10**6) | ({"unmetered": common} if common else {})
        gateway = await start_gateway(**settings)
        assert (await post(gateway, "/v1/videos", VIDEO)).status == status
        async with await gateway.connect() as client:
            me = orjson.loads((await client.request("GET", "/gateway/me")).body)
        assert me["unmetered"] == ("allow" if status == 200 else "refuse")


async def test_what_runs_ends_when_no_limit_counts_it_any_more(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        if turn.seen.get("upgrade"):
            await turn.send(accepted(turn))
        else:
            await turn.read_body()
            await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 9\r\n\r\nhalf")
        await turn.gone()

    upstream.plays(script)
    gateway = await start_gateway(followed=True, **closed("allow", max_requests_per_1_day=100))
    assert gateway.app.configuration is not None
    async with await gateway.connect() as session, await gateway.connect() as speech:
        await session.send(session.request_bytes("GET", "/v1/realtime?model=m", headers=HANDSHAKE))
        assert (await session.read_head()).status == 101
        await speech.send(speech.request_bytes("POST", "/v1/audio/speech", VIDEO, headers=JSON))
        head = await speech.read_head()
        gateway.settings["tenants"] = closed("refuse", max_requests_per_1_day=100)["tenants"]
        assert await gateway.app.configuration.reload()
        async with asyncio.timeout(2):
            await speech.read_body(head)
            closes = [seen for seen in await read_to_the_end(session.reader) if seen.opcode == CLOSE]
    assert not head.clean_end
    assert closes[0].payload[:2] == (1008).to_bytes(2, "big")
    assert_refused(await post(gateway, "/v1/audio/speech", VIDEO), 403, CODE)


# The table


def test_what_a_row_does_not_say_is_taken_to_cost() -> None:
    row = {
        "id": "createDub",
        "method": "POST",
        "path": "/v1/dubs",
        "scope": "dubs:write",
        "object": "dub create",
    }
    assert not Operation.read("audio", row).is_free
    assert Operation.read("audio", row | {"uses": []}).is_free
    assert not Operation.read("audio", row | {"uses": ["tokens"]}).is_free
    assert not Operation.read("audio", row | {"uses": [], "is_contained": False}).is_free
    assert Operation.read("audio", row | {"method": "GET"}).is_free
    assert not Operation.read("audio", row | {"method": "GET", "uses": ["tokens"]}).is_free


def test_every_limit_but_those_on_requests_counts_some_use() -> None:
    assert frozenset().union(*COUNTS.values()) == {
        dimension for dimension in Dimension if not dimension.by_request
    }
    assert COUNTS.keys() <= {use for operation in OperationTable.load() for use in operation.uses}


def test_what_generates_stores_or_trains_is_never_taken_for_free() -> None:
    costs = {operation.id: operation for operation in OperationTable.load() if operation.uses}
    free = {name for name, operation in costs.items() if operation.is_free}

    assert len(costs) > 20
    assert all(costs[name].rewrite is Rewrite.REALTIME_SECRET for name in free), "their sessions pass here"
