"""What is reserved for prompts, for what is attached to them, and for images that an answer may make."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from gateway.limits.terms import Dimension
from tests.conftest import StartGateway
from tests.kit.asking import error_of
from tests.kit.client import CHAT
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.middleware.limited import answers, chat, left, post, remaining, reporting, tenant

RESPONSES = "/v1/responses"
LONG = "data:" + "x" * 39_995
TOOL = {"type": "image_generation"}


def saying(**members: Any) -> bytes:
    body = orjson.dumps(members)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def response(**members: Any) -> bytes:
    return orjson.dumps({"model": "gpt-5", "input": "A cat", "max_output_tokens": 10, **members})


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (CHAT, chat(LONG, max_tokens=1)),
        (CHAT, chat("Hi", tools=[{"type": "function", "function": {"description": LONG}}], max_tokens=1)),
        (RESPONSES, response(input=LONG)),
        (RESPONSES, response(instructions=LONG)),
        (RESPONSES, response(metadata={"data": LONG})),
        ("/v1/embeddings", orjson.dumps({"model": "e", "input": [LONG]})),
        ("/v1/moderations", orjson.dumps({"input": LONG})),
        ("/v1/completions", orjson.dumps({"model": "c", "prompt": LONG, "max_tokens": 1})),
    ],
    ids=["message", "tool", "input", "instructions", "metadata", "embedding", "moderation", "completion"],
)
async def test_text_that_begins_as_an_attachment_does_is_a_text(
    start_gateway: StartGateway, upstream: ScriptedUpstream, target: str, body: bytes
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=9_999))
    answers(upstream, saying(object="something"))
    refused = await post(gateway, target, body)
    assert (refused.status, error_of(refused)["code"]) == (400, "request_too_large_for_limit")
    assert not upstream.requests


async def test_text_that_begins_as_an_attachment_does_is_charged_where_nobody_reports(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=100_000))
    answers(upstream, saying(choices=[{"message": {"content": "Hello"}}]))
    assert (await post(gateway, CHAT, chat(LONG, max_tokens=10))).status == 200
    assert 89_800 < await remaining(gateway, Dimension.TOKENS_PER_DAY) <= 90_000


async def reserved(gateway: Gateway, upstream: ScriptedUpstream, target: str, body: bytes, unit: str) -> int:
    """What is left beside this request while it is under way."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(reporting(0))

    upstream.plays(script)
    answer = await post(gateway, target, body)
    assert answer.status == 200
    return left(answer, unit)


async def test_what_is_attached_is_reserved_by_its_kind(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=100_000))
    for detail, worth in (("low", 85), ("high", 1500)):
        image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO", "detail": detail}}
        body = chat(messages=[{"role": "user", "content": [image] * 10}], max_tokens=1)
        after = await reserved(gateway, upstream, CHAT, body, "tokens")
        assert 100_000 - 10 * worth - 50 < after < 100_000 - 10 * worth
        await asyncio.sleep(0.05)


async def test_guess_at_what_is_attached_refuses_nobody_for_good(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    scan = {"type": "input_file", "file_data": "JVBERi" * 100_000}
    body = response(input=[{"role": "user", "content": [scan]}])
    assert await reserved(gateway, upstream, RESPONSES, body, "tokens") == 0
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000


# The tool that makes images


async def test_tool_that_makes_images_takes_one_before_it_is_asked_for_more(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_images_per_1_minute=60_000))
    assert await reserved(gateway, upstream, RESPONSES, response(tools=[TOOL]), "images") == 59_999
    answers(upstream, reporting(0))
    plain = await post(gateway, RESPONSES, response(tools=[{"type": "web_search"}]))
    assert plain.get("x-ratelimit-remaining-images") is None


async def test_exhausted_images_refuse_the_tool_as_well(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_images_per_1_minute=1))
    answers(upstream, saying(object="response", status="queued"))  # nobody says what it used
    assert (await post(gateway, RESPONSES, response(tools=[TOOL]))).status == 200
    refused = await post(gateway, RESPONSES, response(tools=[TOOL]))
    assert (refused.status, error_of(refused)["type"]) == (429, "images")
    assert (await post(gateway, RESPONSES, response())).status == 200


@pytest.mark.parametrize("made", [0, 1, 3])
@pytest.mark.parametrize("tools", [[TOOL], []], ids=["tool offered", "tool of a stored prompt"])
async def test_tool_that_makes_images_is_settled_by_the_images_that_came(
    start_gateway: StartGateway, upstream: ScriptedUpstream, tools: list[Any], made: int
) -> None:
    gateway = await start_gateway(**tenant(max_images_per_1_minute=60))
    usage = {"input_tokens": 5, "output_tokens": 5, "total_tokens": 10}
    calls = [{"type": "image_generation_call", "status": "completed", "result": "iVBO"}] * made
    answers(upstream, saying(object="response", status="completed", output=calls, usage=usage))
    assert (await post(gateway, RESPONSES, response(tools=tools))).status == 200
    assert await remaining(gateway, Dimension.IMAGES_PER_MINUTE) == 60 - made
