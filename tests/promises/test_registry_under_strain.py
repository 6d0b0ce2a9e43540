"""A registry that several gateways use at once, or that is slow, changes nothing but when an answer comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.kit.client import JSON, RawAnswer, RawClient
from tests.kit.faults.faulty_link import FaultyLink
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn
from tests.promises.sharing import Shared, sharing

CREATED = (
    b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1","output":[]}}\n\n'
)
COMPLETED = (
    b"event: response.completed\n"
    b'data: {"type":"response.completed","response":{"id":"resp_1","output":[{"id":"msg_1"}]}}\n\n'
)
COMMENT = b":\n"
COMMENT_SECONDS = 0.05
SLOW_SECONDS = 0.12
"""Of each answer of the store's: longer than a silence, shorter than what counts as its absence."""


async def makes_another_each_time(turn: Turn) -> None:
    """The script of an upstream each of whose answers is another stored response."""
    asked = orjson.loads(await turn.read_body())
    made = orjson.dumps({"id": f"resp_{asked['input']}", "object": "response", "output": []})
    await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
    await turn.send(b"Content-Length: %d\r\n\r\n%b" % (len(made), made))


async def asks(client: RawClient, number: int, previous: str | None = None) -> RawAnswer:
    """Have an answer made, which goes on from another."""
    body = {"model": "gpt-4o", "input": str(number)} | (
        {"previous_response_id": previous} if previous else {}
    )
    return await client.request("POST", "/v1/responses", orjson.dumps(body), headers=JSON)


async def client_of(gateway: Gateway, tenant: str) -> RawClient:
    """A connection of a tenant's to one of the gateways."""
    client = await RawClient.connect(gateway.host, gateway.port, gateway.credential(tenant=tenant))
    gateway.clients.append(client)
    return client


async def test_what_one_gateway_has_answered_another_knows_at_once_and_for_its_tenant_alone(
    redis: RedisServer, upstream: ScriptedUpstream
) -> None:
    upstream.plays(makes_another_each_time)
    settings: dict[str, Any] = {
        "upstream": {"base_url": upstream.base_url, "api_key": "sk-shared-by-both"},
        "redis_url": redis.url,
        "tenants": {"a": EVERY_SCOPE, "b": EVERY_SCOPE},
    }
    async with running_gateway(**settings) as one, running_gateway(**settings) as other:
        ways = [(await client_of(one, "a"), await client_of(other, "a"))]
        ways.append((ways[0][1], ways[0][0]))
        stranger = await client_of(other, "b")
        for number in range(40):
            makes, uses = ways[number % 2]
            made = await asks(makes, number)
            assert made.status == 200, made.body
            response_id = orjson.loads(made.body)["id"]
            theirs, used = await asyncio.gather(
                asks(stranger, number, response_id), asks(uses, 1000 + number, response_id)
            )
            assert used.status == 200, used.body
            assert (theirs.status, orjson.loads(theirs.body)["error"]["code"]) == (
                400,
                "previous_response_not_found",
            )


@pytest.fixture
async def slow(redis: RedisServer, link: FaultyLink) -> AsyncIterator[Shared]:
    """A shared account whose registry takes its time, and clients that hear comments in silence."""
    async with sharing(
        redis,
        redis_url=f"redis://127.0.0.1:{link.port}/0",
        edge={"sse_comment_seconds": COMMENT_SECONDS},
    ) as shared:
        link.delay_seconds = SLOW_SECONDS
        yield shared


async def test_a_slow_registry_is_waited_for_and_refuses_nobody(slow: Shared) -> None:
    slow.upstream.plays(makes_another_each_time)
    client, stranger = await slow.connect(), await slow.connect("b")
    for number in range(3):
        made = await asks(client, number, f"resp_{number - 1}" if number else None)
        assert made.status == 200, made.body
        assert await slow.owns("a", "response", f"resp_{number}")
        assert (await asks(stranger, 10, f"resp_{number}")).status == 400
    assert slow.gateway.metric("gateway_objects_unrecorded_inference_total") == 0


@pytest.mark.parametrize("cut_at", [len(CREATED), 20, len(CREATED) + 40])
async def test_comments_in_silence_stand_between_events_while_some_are_held(
    slow: Shared, cut_at: int
) -> None:
    stream = CREATED + COMPLETED

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(stream[:cut_at])
        await asyncio.sleep(3 * COMMENT_SECONDS)  # the silence itself
        await turn.chunk(stream[cut_at:])
        await turn.send(b"0\r\n\r\n")

    slow.upstream.plays(script)
    client = await slow.connect()
    body = orjson.dumps({"model": "gpt-4o", "input": "x", "stream": True})
    answer = await client.request("POST", "/v1/responses", body, headers=JSON)
    assert answer.clean_end
    begins, ends = answer.body.index(CREATED), answer.body.index(COMPLETED)
    between = (
        answer.body[:begins],
        answer.body[begins + len(CREATED) : ends],
        answer.body[ends + len(COMPLETED) :],
    )
    assert all(not text.replace(COMMENT, b"") for text in between), answer.body
    assert COMMENT in b"".join(between), answer.body
    assert await slow.owns("a", "response", "resp_1")
    assert await slow.owns("a", "item", "msg_1")


CHATS = [{"role": "user", "content": "Whose is this?"}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"model": "gpt-4o", "messages": CHATS}),
        ("/v1/chat/completions", {"model": "gpt-4o", "messages": CHATS, "store": False, "stream": True}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "text"}),
        ("/v1/moderations", {"input": "text"}),
        ("/v1/images/generations", {"model": "gpt-image-1", "prompt": "a cat"}),
        ("/v1/responses", {"model": "gpt-4o", "input": "text", "store": False}),
        ("/v1/models", None),
    ],
)
async def test_what_has_nothing_to_do_with_stored_objects_asks_nobody_about_any(
    redis: RedisServer, path: str, body: dict[str, Any] | None
) -> None:
    async with sharing(redis) as shared:
        shared.upstream.plays(answers_anything)
        client = await shared.connect()
        redis.freeze()
        try:
            method, sent = ("GET", None) if body is None else ("POST", orjson.dumps(body))
            answer = await client.request(method, path, sent, headers=JSON)
        finally:
            redis.thaw()
        assert (answer.status, answer.body) == (200, ANYTHING)
        assert "gateway_object_look_ups_total{" not in shared.gateway.metrics()
        assert shared.gateway.metric("gateway_objects_unrecorded_inference_total") == 0
        (line,) = await shared.gateway.lines.wait(1)
        assert "created" not in line

        await client.request("GET", "/v1/files/file-1")
        assert "gateway_object_look_ups_total{" in shared.gateway.metrics(), "what has asks"


ANYTHING = b'{"id":"made-by-nobody","object":"list","data":[]}'


async def answers_anything(turn: Turn) -> None:
    """The script of an upstream whose answers have an id, as all answers may."""
    await turn.read_body()
    await turn.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(ANYTHING), ANYTHING)
    )
