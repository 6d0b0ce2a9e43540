"""What an upstream has made is its tenant's before the client knows of it, and nobody else's ever."""

from __future__ import annotations

import asyncio
import gzip
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest

from gateway.objects.store import Made
from tests.kit.asking import error_of, form
from tests.kit.client import FORM, JSON
from tests.kit.gateway import EVERY_SCOPE
from tests.kit.redis import RedisServer
from tests.kit.upstream import SSE_HEAD, Script, Turn
from tests.kit.waiting import comes_to, found, stays
from tests.promises.sharing import FROZEN_SECONDS, Shared, sharing

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
STORED = {"model": "gpt-4o", "input": "x"}


@pytest.fixture
async def shared(redis: RedisServer) -> AsyncIterator[Shared]:
    async with sharing(redis) as shared:
        yield shared


def answers(document: object, *, status: str = "200 OK", more: bytes = b"") -> Script:
    """The script of a JSON answer; its gate `answer` is waited for where the test closes `asked` first."""
    body = document if isinstance(document, bytes) else orjson.dumps(document)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        turn.open("asked")
        await turn.wait_for("answer")
        await turn.send(
            b"HTTP/1.1 %b\r\nContent-Type: application/json\r\n%bContent-Length: %d\r\n\r\n%b"
            % (status.encode(), more, len(body), body)
        )

    return script


def streams(*events: bytes) -> Script:
    """The script of a stream; each event has a gate of its number."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        turn.open("asked")
        await turn.send(SSE_HEAD)
        for number, event in enumerate(events):
            await turn.wait_for(f"{number}")
            await turn.chunk(event)
        await turn.send(b"0\r\n\r\n")

    return script


async def reset_when_asked(turn: Turn) -> None:
    """The script of an upstream that is lost with what it was asked for."""
    await turn.read_body()
    turn.reset()


def nothing_left(shared: Shared) -> Callable[[], Awaitable[bool]]:
    """Whether no intent is left."""

    async def look() -> bool:
        return not await shared.intents()

    return look


def event(document: dict[str, Any]) -> bytes:
    """An event as the API of responses writes it."""
    kind = document.get("type", "")
    name = f"event: {kind}\n".encode() if kind else b""
    return name + b"data: " + orjson.dumps(document) + b"\n\n"


def response(response_id: str, **more: Any) -> dict[str, Any]:
    return {"id": response_id, "object": "response", "created_at": int(time.time()), "output": [], **more}


CREATED = event({"type": "response.created", "response": response("resp_1")})
DELTA = event({"type": "response.output_text.delta", "item_id": "msg_1", "delta": "hello"})
COMPLETED = event(
    {
        "type": "response.completed",
        "response": response(
            "resp_1",
            output=[
                {"type": "message", "id": "msg_1"},
                {"type": "code_interpreter_call", "id": "ci_1", "container_id": "cntr_1"},
            ],
        ),
    }
)
FILE_FORM = form(("purpose", b"batch"), ("file", b"of A"), file_at=1)

MAKES: dict[str, tuple[str, object, dict[str, Any], tuple[str, str]]] = {
    "file": ("/v1/files", FILE_FORM, {"id": "file-1", "object": "file"}, ("file", "file-1")),
    "upload": (
        "/v1/uploads",
        {"filename": "a", "purpose": "batch", "bytes": 1, "mime_type": "text/plain"},
        {"id": "upload_1", "object": "upload"},
        ("upload", "upload_1"),
    ),
    "vector store": ("/v1/vector_stores", {}, {"id": "vs_1"}, ("vector_store", "vs_1")),
    "response": (RESPONSES, STORED, response("resp_1"), ("response", "resp_1")),
    "its items": (
        RESPONSES,
        STORED,
        response("resp_1", output=[{"type": "message", "id": "msg_1"}]),
        ("item", "msg_1"),
    ),
    "its container": (
        RESPONSES,
        STORED,
        response("resp_1", output=[{"type": "code_interpreter_call", "id": "c", "container_id": "cntr_1"}]),
        ("container", "cntr_1"),
    ),
    "the container that a shell ran in": (
        RESPONSES,
        STORED,
        response(
            "resp_1",
            output=[
                {
                    "type": "shell_call",
                    "environment": {"type": "container_reference", "container_id": "cntr_1"},
                }
            ],
        ),
        ("container", "cntr_1"),
    ),
    "conversation": ("/v1/conversations", {}, {"id": "conv_1"}, ("conversation", "conv_1")),
    "container": ("/v1/containers", {"name": "x"}, {"id": "cntr_1"}, ("container", "cntr_1")),
    "video": ("/v1/videos", {"prompt": "x", "model": "sora-2"}, {"id": "video_1"}, ("video", "video_1")),
    "chat completion": (
        CHAT,
        {"model": "gpt-4o", "messages": [], "store": True},
        {"id": "chatcmpl-1", "created": int(time.time())},
        ("chat_completion", "chatcmpl-1"),
    ),
    "assistant": ("/v1/assistants", {"model": "gpt-4o"}, {"id": "asst_1"}, ("assistant", "asst_1")),
    "thread": ("/v1/threads", {}, {"id": "thread_1"}, ("thread", "thread_1")),
}


@pytest.mark.parametrize("kind", MAKES)
async def test_what_is_made_is_recorded_before_the_client_sees_a_byte_of_it(
    shared: Shared, kind: str
) -> None:
    target, body, document, made = MAKES[kind]
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    sent = orjson.dumps(document)
    shared.upstream.plays(answers(sent))
    client = await shared.connect()
    await client.send(client.request_bytes("POST", target, raw, headers=FORM if raw is body else JSON))
    await shared.upstream.passed("asked")
    assert [(one.kind, one.subject) for one in await shared.intents()] == [
        ("response" if target == RESPONSES else made[0], "tester")
    ]
    first = asyncio.create_task(client.reader.read(1))
    await shared.waits_for_redis(first, "answer")
    assert await first == b"H"
    assert await shared.owns("a", *made)
    assert not await shared.owns("b", *made)
    assert await shared.intents() == []
    rest = await client.read_answer()
    assert rest.body == sent
    (line,) = await shared.gateway.lines.wait(1)
    if made[0] != "item":
        assert list(made) in line["created"]


async def test_the_event_that_says_it_waits_for_the_record_and_the_last_for_what_was_made_beside(
    shared: Shared,
) -> None:
    shared.upstream.plays(streams(CREATED, DELTA, COMPLETED))
    client = await shared.connect()
    asks = orjson.dumps({**STORED, "stream": True})
    await client.send(client.request_bytes("POST", RESPONSES, asks, headers=JSON))
    await shared.upstream.passed("asked")
    assert (await client.read_head()).status == 200

    first = asyncio.create_task(client.read_chunk())
    await shared.waits_for_redis(first, "0")
    assert await first == CREATED
    assert await shared.owns("a", "response", "resp_1")

    shared.redis.freeze()  # a delta waits for nobody
    shared.upstream.gate("1").set()
    assert await client.read_chunk() == DELTA
    shared.redis.thaw()

    last = asyncio.create_task(client.read_chunk())
    await shared.waits_for_redis(last, "2")
    assert await last == COMPLETED
    assert await shared.owns("a", "item", "msg_1")
    assert await shared.owns("a", "container", "cntr_1")
    assert await client.read_chunk() == b""


async def test_what_the_upstream_refuses_leaves_no_intent(shared: Shared) -> None:
    shared.upstream.plays(answers({"error": {"message": "no", "type": "x"}}, status="400 Bad Request"))
    shared.upstream.gate("answer").set()
    client = await shared.connect()
    answer = await client.request("POST", "/v1/vector_stores", b"{}", headers=JSON)
    assert answer.status == 400
    await found(nothing_left(shared))


async def test_what_nobody_heard_the_answer_of_leaves_its_intent(shared: Shared) -> None:
    shared.upstream.plays(reset_when_asked)
    client = await shared.connect()
    answer = await client.request("POST", "/v1/vector_stores", b"{}", headers=JSON)
    assert answer.status == 502
    assert [intent.kind for intent in await shared.intents()] == ["vector_store"]


async def test_a_client_that_leaves_while_its_answer_is_held_has_made_it_all_the_same(shared: Shared) -> None:
    shared.upstream.plays(streams(CREATED))
    client = await shared.connect()
    asks = orjson.dumps({**STORED, "stream": True})
    await client.send(client.request_bytes("POST", RESPONSES, asks, headers=JSON))
    await client.read_head()
    shared.redis.freeze()
    shared.upstream.gate("0").set()
    await asyncio.sleep(FROZEN_SECONDS)  # no sign tells that the gateway has read it
    client.reset()
    await asyncio.sleep(FROZEN_SECONDS)
    shared.redis.thaw()

    async def is_owned() -> bool:
        return await shared.owns("a", "response", "resp_1")

    assert await found(is_owned)


async def test_while_redis_is_away_nothing_is_made_that_has_to_be_found_again(shared: Shared) -> None:
    shared.upstream.plays(answers(response("resp_1")))
    shared.upstream.gate("answer").set()
    shared.redis.stop()
    client = await shared.connect()
    refused = await client.request("POST", "/v1/vector_stores", b"{}", headers=JSON)
    assert (refused.status, error_of(refused)["code"]) == (503, "stored_objects_unavailable")
    in_background = orjson.dumps({**STORED, "background": True})
    refused = await client.request("POST", RESPONSES, in_background, headers=JSON)
    assert (refused.status, error_of(refused)["code"]) == (503, "stored_objects_unavailable")
    assert shared.upstream.requests == []


async def test_what_a_request_names_is_not_told_as_made_by_its_answer(shared: Shared) -> None:
    await shared.store.record(shared.scope("a"), [Made("container", "cntr_own", time.time())])
    used = [
        {"type": "code_interpreter_call", "id": f"ci_{name}", "container_id": f"cntr_{name}"}
        for name in ("own", "new")
    ]
    shared.upstream.plays(answers(response("resp_1", output=used)))
    shared.upstream.gate("answer").set()
    client = await shared.connect()
    tools = [{"type": "code_interpreter", "container": "cntr_own"}]
    answer = await client.request("POST", RESPONSES, orjson.dumps({**STORED, "tools": tools}), headers=JSON)
    assert answer.status == 200
    (line,) = await shared.gateway.lines.wait(1)
    assert sorted(line["created"]) == [["container", "cntr_new"], ["response", "resp_1"]]


async def test_what_the_path_names_is_judged_before_a_large_body_is_read(shared: Shared) -> None:
    client = await shared.connect()
    headers = JSON + "Content-Length: 1000000\r\nExpect: 100-continue\r\n"
    await client.send(client.request_bytes("POST", "/v1/threads/thread_of_b/messages", headers=headers))
    assert (await client.read_head()).status == 404
    assert shared.upstream.requests == []


async def test_inference_goes_through_while_redis_is_away_and_is_recorded_when_it_is_back(
    shared: Shared,
) -> None:
    shared.upstream.plays(answers(response("resp_1")))
    shared.upstream.gate("answer").set()
    shared.redis.stop()
    client = await shared.connect()
    answer = await client.request("POST", RESPONSES, orjson.dumps(STORED), headers=JSON)
    assert answer.status == 200
    assert shared.gateway.metric("gateway_objects_unrecorded_inference_total") == 1
    shared.redis.start()

    async def is_owned() -> bool:
        return await shared.owns("a", "response", "resp_1")

    assert await found(is_owned)


@pytest.mark.parametrize("target", ["/v1/files/file-1", "/v1/files/file-1/content", "/v1/files/nobodys"])
async def test_what_is_anothers_is_unknown_and_the_upstream_hears_nothing(
    shared: Shared, target: str
) -> None:
    await shared.store.record(shared.scope("a"), [Made("file", "file-1", time.time())])
    client = await shared.connect("b")
    refused = await client.request("GET", target)
    assert refused.status == 404
    file_id = target.split("/")[3]
    assert error_of(refused) == {
        "message": f"No such File object: {file_id}",
        "type": "invalid_request_error",
        "param": "id",
        "code": None,
    }
    assert shared.upstream.requests == []
    owner = await shared.connect("a")
    assert (await owner.request("GET", "/v1/files/file-1")).status == 200


@pytest.mark.parametrize(
    ("method", "status", "body", "age_seconds", "is_freed"),
    [
        ("DELETE", "200 OK", {"id": "file-1", "deleted": True}, 0, True),
        ("DELETE", "500 Internal Server Error", {"error": {"message": "x", "type": "y"}}, 3600, False),
        ("GET", "404 Not Found", {"error": {"message": "x", "type": "y"}}, 3600, True),
        ("GET", "404 Not Found", {"error": {"message": "x", "type": "y"}}, 0, False),
        ("DELETE", "404 Not Found", {"error": {"message": "x", "type": "y"}}, 0, False),
        ("GET", "404 Not Found", {"error": {"message": "x", "code": "404"}}, 3600, True),
        ("GET", "404 Not Found", {"message": "no route matched"}, 3600, False),
        ("GET", "404 Not Found", {"error": "no such page"}, 3600, False),
        ("GET", "404 Not Found", b"<html>nothing here</html>", 3600, False),
        ("GET", "200 OK", {"id": "file-1"}, 3600, False),
    ],
)
async def test_what_the_upstream_has_no_longer_is_freed(
    shared: Shared, method: str, status: str, body: object, age_seconds: float, is_freed: bool
) -> None:
    """But for what is new, which the upstream may not see yet: its owner would never reach it again."""
    await shared.store.record(shared.scope("a"), [Made("file", "file-1", time.time() - age_seconds)])
    shared.upstream.plays(answers(body, status=status))
    shared.upstream.gate("answer").set()
    client = await shared.connect()
    answer = await client.request(method, "/v1/files/file-1")
    assert answer.status == int(status[:3])

    async def is_owned() -> bool:
        return await shared.owns("a", "file", "file-1")

    if is_freed:
        await comes_to(False, is_owned)
    else:
        await stays(True, is_owned, for_seconds=0.2)


@pytest.mark.parametrize("streamed", [False, True])
async def test_who_has_an_account_alone_is_recorded_behind_what_passes(
    redis: RedisServer, streamed: bool
) -> None:
    async with sharing(redis, tenants={"a": EVERY_SCOPE}) as alone:
        body = orjson.dumps({**STORED, "stream": streamed})
        if streamed:
            alone.upstream.plays(streams(CREATED, DELTA, COMPLETED))
            for number in "012":
                alone.upstream.gate(number).set()
        else:
            alone.upstream.plays(answers(response("resp_1", output=[{"type": "message", "id": "msg_1"}])))
            alone.upstream.gate("answer").set()
        alone.redis.freeze()
        client = await alone.connect()
        answer = await client.request("POST", RESPONSES, body, headers=JSON)
        assert answer.status == 200
        alone.redis.thaw()

        async def both() -> bool:
            owned = [("response", "resp_1"), ("item", "msg_1")]
            return all([await alone.owns("a", *one) for one in owned])

        assert await found(both)
        (line,) = await alone.gateway.lines.wait(1)
        assert ["response", "resp_1"] in line["created"]


async def test_what_a_long_body_names_is_looked_up_as_well(shared: Shared) -> None:
    await shared.store.record(shared.scope("a"), [Made("file", "file-1", time.time())])
    shared.upstream.plays(answers(response("resp_1")))
    shared.upstream.gate("answer").set()
    part = {"type": "input_file", "file_id": "file-1"}
    body = orjson.dumps({**STORED, "input": [{"role": "user", "content": ["x" * 100_000, part]}]})
    for tenant, status in (("b", 404), ("a", 200)):
        client = await shared.connect(tenant)
        assert (await client.request("POST", RESPONSES, body, headers=JSON)).status == status
    assert len(shared.upstream.requests) == 1


def in_pieces(stream: bytes, size: int) -> Script:
    """The script of a stream that is cut anywhere, with nothing to wait for."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        for at in range(0, len(stream), size):
            await turn.chunk(stream[at : at + size])
            await asyncio.sleep(0)
        await turn.send(b"0\r\n\r\n")

    return script


LONG_ITEM = {"type": "message", "id": "msg_1", "content": [{"text": "y" * 100_000}]}
LONG = event({"type": "response.completed", "response": response("resp_1", output=[LONG_ITEM])})


@pytest.mark.parametrize("size", [1, 7, 100, 10_000, 10**7])
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
async def test_a_stream_passes_byte_for_byte_however_it_is_cut(
    shared: Shared, size: int, line_end: bytes
) -> None:
    last = COMPLETED if size == 1 else LONG
    stream = b"".join((b": begins\n\n", CREATED, DELTA * 20, last)).replace(b"\n", line_end)
    shared.upstream.plays(in_pieces(stream, size))
    client = await shared.connect()
    asks = orjson.dumps({**STORED, "stream": True})
    answer = await client.request("POST", RESPONSES, asks, headers=JSON)
    assert answer.clean_end
    assert answer.body == stream
    assert await shared.owns("a", "response", "resp_1")
    assert await shared.owns("a", "item", "msg_1")


async def test_a_stream_that_breaks_off_breaks_off_behind_what_it_has_made(shared: Shared) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(CREATED)
        turn.close()

    shared.upstream.plays(script)
    client = await shared.connect()
    answer = await client.request("POST", RESPONSES, orjson.dumps({**STORED, "stream": True}), headers=JSON)
    assert (answer.body, answer.clean_end) == (CREATED, False)
    assert await shared.owns("a", "response", "resp_1")


def message(message_id: str | None = None) -> dict[str, Any]:
    """An item as it is given, or as it is answered."""
    named = {} if message_id is None else {"id": message_id}
    return {"type": "message", "role": "user", "content": "x", **named}


async def test_items_of_a_conversation_are_known_but_for_those_that_came_with_an_id(shared: Shared) -> None:
    items = "/v1/conversations/conv_1/items"
    await shared.store.record(shared.scope("a"), [Made("conversation", "conv_1", time.time())])
    await shared.store.record(shared.scope("b"), [Made("item", "msg_of_b", time.time())])
    client = await shared.connect()

    async def adds(given: list[dict[str, Any]], *answered: str) -> None:
        shared.upstream.plays(answers({"object": "list", "data": [message(one) for one in answered]}))
        shared.upstream.gate("answer").set()
        answer = await client.request("POST", items, orjson.dumps({"items": given}), headers=JSON)
        assert answer.status == 200, answer

    await adds([message(), message("msg_of_b"), message("fco_1")], "msg_1", "msg_of_b", "fco_1")
    await adds([message(), message(" msg_of_b")], "msg_2", "msg_of_b")
    await adds([message("msg_1")], "msg_1")

    assert await shared.owns("a", "item", "msg_1"), "the upstream named it"
    for echo in ("msg_of_b", "fco_1", "msg_2"):
        assert not await shared.owns("a", "item", echo)
    # An SDK sends a message of a session again without its type, as a reference would come.
    shared.upstream.plays(answers(response("resp_1")))
    for named, status in (("msg_1", 200), ("msg_of_b", 404)):
        again = {"id": named, "role": "user", "content": "x"}
        body = orjson.dumps({"model": "gpt-4o", "input": [again]})
        assert (await client.request("POST", RESPONSES, body, headers=JSON)).status == status


async def test_a_thread_that_comes_with_its_run_is_known_by_the_event_of_the_run(shared: Shared) -> None:
    thread = b'event: thread.created\ndata: {"id":"thread_1","object":"thread"}\n\n'
    run = b'event: thread.run.created\ndata: {"id":"run_1","thread_id":"thread_1"}\n\n'
    shared.upstream.plays(streams(thread, run))
    await shared.store.record(shared.scope("a"), [Made("assistant", "asst_1", time.time())])
    client = await shared.connect()
    body = orjson.dumps({"assistant_id": "asst_1", "stream": True})
    await client.send(client.request_bytes("POST", "/v1/threads/runs", body, headers=JSON))
    await client.read_head()
    first = asyncio.create_task(client.read_chunk())
    shared.upstream.gate("0").set()
    await shared.waits_for_redis(first, "1")
    assert await first == thread
    assert await shared.owns("a", "thread", "thread_1")
    assert await client.read_chunk() == run


async def test_a_vector_store_that_is_made_for_the_thread_of_a_run_is_known_by_the_event_of_the_thread(
    shared: Shared,
) -> None:
    search = {"vector_store_ids": ["vs_new"]}
    thread = {"id": "thread_1", "object": "thread", "tool_resources": {"file_search": search}}
    told = b"event: thread.created\ndata: %b\n\n" % orjson.dumps(thread)
    run = b'event: thread.run.created\ndata: {"id":"run_1","thread_id":"thread_1"}\n\n'
    shared.upstream.plays(streams(told, run))
    await shared.store.record(shared.scope("a"), [Made("assistant", "asst_1", time.time())])
    client = await shared.connect()
    for gate in ("0", "1"):
        shared.upstream.gate(gate).set()
    asked: dict[str, Any] = {"assistant_id": "asst_1", "stream": True}
    await client.request("POST", "/v1/threads/runs", orjson.dumps(asked), headers=JSON)
    assert not await shared.owns("a", "vector_store", "vs_new"), "nobody asked for one"
    asked["thread"] = {"tool_resources": {"file_search": {"vector_stores": [{}]}}}
    answer = await client.request("POST", "/v1/threads/runs", orjson.dumps(asked), headers=JSON)
    assert answer.body == told + run
    assert await shared.owns("a", "vector_store", "vs_new")


async def test_what_has_its_usage_asked_for_is_recorded_as_well(redis: RedisServer) -> None:
    limited = {**EVERY_SCOPE, "limits": {"max_tokens_per_1_minute": 100_000}}
    async with sharing(redis, tenants={"a": limited, "b": EVERY_SCOPE}) as shared:
        first = b'data: {"id":"chatcmpl-1","choices":[{"delta":{"content":"x"}}],"usage":null}\n\n'
        added = (
            b'data: {"id":"chatcmpl-1","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
        )
        done = b"data: [DONE]\n\n"
        shared.upstream.plays(in_pieces(first + added + done, 50))
        client = await shared.connect()
        body = orjson.dumps({"model": "gpt-4o", "messages": [], "stream": True, "store": True})
        answer = await client.request("POST", CHAT, body, headers=JSON)
        assert answer.body == first + done
        assert await shared.owns("a", "chat_completion", "chatcmpl-1")


@pytest.mark.parametrize("size_bytes", [100, 100_000, 9_000_000])
async def test_a_document_of_any_size_passes_byte_for_byte_once_it_is_recorded(
    shared: Shared, size_bytes: int
) -> None:
    body = orjson.dumps(response("resp_1", text="é" * (size_bytes // 2)))
    shared.upstream.plays(answers(body, more=b"X-Of-The-Upstream: 1\r\n"))
    shared.upstream.gate("answer").set()
    client = await shared.connect()
    answer = await client.request("POST", RESPONSES, orjson.dumps(STORED), headers=JSON)
    assert answer.body == body
    assert answer.get("content-length") == str(len(body))
    assert answer.get("x-of-the-upstream") == "1"
    assert await shared.owns("a", "response", "resp_1")
    assert await shared.intents() == []


async def test_an_answer_in_a_coding_that_nobody_asked_for_is_read_and_passes_as_it_came(
    shared: Shared,
) -> None:
    body = gzip.compress(orjson.dumps(response("resp_1")))
    shared.upstream.plays(answers(body, more=b"Content-Encoding: gzip\r\n"))
    shared.upstream.gate("answer").set()
    client = await shared.connect()
    answer = await client.request(
        "POST", RESPONSES, orjson.dumps(STORED), headers=JSON + "Accept-Encoding: gzip\r\n"
    )
    assert (answer.body, answer.get("content-encoding")) == (body, "gzip")
    assert shared.upstream.requests[0].get("accept-encoding") == "identity"
    assert await shared.owns("a", "response", "resp_1")


async def test_nothing_is_recorded_of_an_answer_that_is_not_kept(shared: Shared) -> None:
    shared.upstream.plays(answers(response("resp_1")))
    shared.upstream.gate("answer").set()
    client = await shared.connect()
    body = orjson.dumps({**STORED, "store": False})
    assert (await client.request("POST", RESPONSES, body, headers=JSON)).status == 200
    assert not await shared.owns("a", "response", "resp_1")
    assert await shared.intents() == []


async def test_what_comes_of_a_batch_is_the_tenants_and_in_the_log(shared: Shared) -> None:
    await shared.store.record(shared.scope("a"), [Made("batch", "batch_1", time.time())])
    batch = {"id": "batch_1", "output_file_id": "file-out", "error_file_id": None, "completed_at": 1.0}
    shared.upstream.plays(answers(batch))
    shared.upstream.gate("answer").set()
    client = await shared.connect()
    assert (await client.request("GET", "/v1/batches/batch_1")).status == 200
    assert await shared.owns("a", "file", "file-out")
    (line,) = await shared.gateway.lines.wait(1)
    assert line["created"] == [["file", "file-out"]]
    assert line["storage"] == shared.scope("a").storage


async def test_a_vector_store_of_ones_own_inside_a_thread_is_no_creation(shared: Shared) -> None:
    await shared.store.record(shared.scope("a"), [Made("vector_store", "vs_own", time.time())])
    search = {"vector_store_ids": ["vs_own", "vs_new"]}
    shared.upstream.plays(answers({"id": "thread_1", "tool_resources": {"file_search": search}}))
    shared.upstream.gate("answer").set()
    client = await shared.connect()
    asked: dict[str, Any] = {"tool_resources": {"file_search": {"vector_store_ids": ["vs_own"]}}}
    await client.request("POST", "/v1/threads", orjson.dumps(asked), headers=JSON)
    assert not await shared.owns("a", "vector_store", "vs_new")
    making: dict[str, Any] = {"tool_resources": {"file_search": {"vector_stores": [{}]}}}
    await client.request("POST", "/v1/threads", orjson.dumps(making), headers=JSON)
    assert await shared.owns("a", "vector_store", "vs_new")
