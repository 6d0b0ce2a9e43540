"""Who is refused by a limit is told how much was asked, what is left, what would fit, and when."""

from __future__ import annotations

import re
from typing import Any

import orjson
import pytest

from gateway.limits.terms import Dimension
from tests.conftest import StartGateway
from tests.kit.asking import error_of, form
from tests.kit.client import CHAT, FORM, JSON
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream
from tests.middleware.limited import IMAGE, TRANSCRIBE, answers, chat, post, remaining, reporting, tenant

RESPONSE = {"model": "gpt-5", "input": "x" * 400}


async def refused(gateway: Gateway, target: str, body: bytes, headers: str = JSON) -> str:
    """What is said to whoever asks for more than is left."""
    answer = await post(gateway, target, body, headers=headers)
    error = error_of(answer)
    assert (answer.status, error["code"], error["param"]) == (429, "rate_limit_exceeded", None), error
    message = error["message"]
    assert isinstance(message, str)
    return message


@pytest.mark.parametrize(
    ("target", "name", "body", "count"),
    [
        (CHAT, "max_tokens", {"messages": [{"role": "user", "content": "x" * 400}]}, 1),
        (CHAT, "max_completion_tokens", {"messages": [{"role": "user", "content": "x" * 400}], "n": 3}, 3),
        ("/v1/responses", "max_output_tokens", {"input": "x" * 400}, 1),
        ("/v1/completions", "max_tokens", {"prompt": "x" * 400}, 1),
        ("/v1/messages", "max_tokens", {"messages": [{"role": "user", "content": "x" * 400}]}, 1),
    ],
)
async def test_the_maximum_that_is_told_fits_at_once_and_one_more_does_not(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    target: str,
    name: str,
    body: dict[str, Any],
    count: int,
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=10_000))
    answers(upstream, reporting(6000))
    assert (await post(gateway, CHAT, chat(max_tokens=10))).status == 200
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 4000

    async def asked(maximum: int) -> Any:
        return await post(gateway, target, orjson.dumps({"model": "m", **body, name: maximum}))

    message = await refused(gateway, target, orjson.dumps({"model": "m", **body, name: 6000 // count}))
    fitting = int(re.findall(rf", or lower {name} to (\d+) now\.\Z", message)[0])

    assert "max_tokens_per_1_day = 10000" in message
    assert f"of up to {6000 // count})" in message
    assert ", and 4000 of 10000 are left. Try again in " in message
    assert 3800 < fitting * count <= 4000
    assert (await asked(fitting + 50)).status == 429
    answers(upstream, reporting(0))
    assert (await asked(fitting)).status == 200


@pytest.mark.parametrize(
    ("target", "name", "body"),
    [
        (CHAT, "max_completion_tokens", {"messages": [{"role": "user", "content": "Hi"}]}),
        ("/v1/responses", "max_output_tokens", {"input": "Hi"}),
        ("/v1/messages", "max_tokens", {"messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
async def test_who_states_no_maximum_is_told_which_one_would_fit(
    start_gateway: StartGateway, upstream: ScriptedUpstream, target: str, name: str, body: dict[str, Any]
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=5000))
    answers(upstream, reporting(4900))
    assert (await post(gateway, CHAT, chat(max_tokens=10))).status == 200
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 100

    message = await refused(gateway, target, orjson.dumps({"model": "m", **body}))
    fitting = int(re.findall(rf", or state {name} = (\d+) now\.\Z", message)[0])

    assert "an answer taken for" in message
    answers(upstream, reporting(0))
    assert (await post(gateway, target, orjson.dumps({"model": "m", **body, name: fitting}))).status == 200


async def test_nothing_is_offered_where_not_even_the_prompt_fits(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=5000))
    answers(upstream, reporting(4900))
    assert (await post(gateway, CHAT, chat(max_tokens=10))).status == 200

    message = await refused(gateway, CHAT, chat("x" * 4000, max_tokens=5))

    assert ", and 100 of 5000 are left. Try again in " in message
    assert " now" not in message


async def test_what_has_no_answer_is_told_of_its_prompt_alone(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=5000))
    answers(upstream, reporting(4900))
    assert (await post(gateway, CHAT, chat(max_tokens=10))).status == 200

    message = await refused(gateway, "/v1/embeddings", orjson.dumps({"model": "e", "input": "x" * 4000}))

    assert "asks for about 1001 LLM tokens (a prompt of about 1001), and 100 of 5000 are left" in message


OTHERS = [
    (
        "max_requests_per_1_minute",
        1,
        CHAT,
        chat(),
        JSON,
        "Each request takes one, and none of 1 is left.",
        "",
    ),
    ("max_requests_per_1_day", 1, CHAT, chat(), JSON, "Each request takes one, and none of 1 is left.", ""),
    (
        *("max_images_per_1_minute", 3, "/v1/images/generations", IMAGE, JSON),
        "This request asks for 2 images, and 1 of 3 is left.",
        ", or ask for n = 1 now",
    ),
    (
        *("max_audio_megabytes_per_1_minute", 2, TRANSCRIBE),
        *(form(("file", bytes(1_200_000)), ("model", b"whisper-1")), FORM),
        "This request has 1.2 megabytes of audio, and none of 2 is left.",
        "",
    ),
]


@pytest.mark.parametrize(
    ("limit", "capacity", "target", "body", "headers", "said", "less"),
    OTHERS,
    ids=[limit for limit, *_ in OTHERS],
)
async def test_every_limit_says_what_was_asked_and_what_is_left(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    limit: str,
    capacity: int,
    target: str,
    body: bytes,
    headers: str,
    said: str,
    less: str,
) -> None:
    gateway = await start_gateway(**tenant(**{limit: capacity}))
    answers(upstream, reporting(0, data=[{"url": "x"}, {"url": "y"}]))
    assert (await post(gateway, target, body, headers=headers)).status == 200

    message = await refused(gateway, target, body, headers=headers)

    assert message.startswith(f"Rate limit reached: {limit} = {capacity}. {said} Try again in ")
    assert message.endswith(f"{less}.")
    assert (" now" in message) == bool(less)


@pytest.mark.parametrize(
    ("limits", "target", "body", "headers", "param", "said"),
    [
        (
            {"max_images_per_1_minute": 3},
            *("/v1/images/generations", orjson.dumps({"prompt": "A cat", "n": 4}), JSON, "n"),
            "This request has 4 images: more than the whole limit max_images_per_1_minute = 3. "
            "The largest n that fits is 3; waiting cannot help.",
        ),
        (
            {"max_audio_megabytes_per_1_minute": 1},
            *(TRANSCRIBE, form(("file", bytes(1_500_000)), ("model", b"whisper-1")), FORM, "file"),
            "This request has 1.5 megabytes of audio: more than the whole limit "
            "max_audio_megabytes_per_1_minute = 1. Send at most 1 megabyte at once; waiting cannot help.",
        ),
        (
            {"max_tokens_per_1_day": 100},
            *("/v1/embeddings", orjson.dumps({"model": "e", "input": "x" * 4000}), JSON, None),
            "This request has about 1001 LLM tokens in its prompt: more than the whole limit "
            "max_tokens_per_1_day = 100. Shorten it by about 901 LLM tokens or more; waiting cannot help.",
        ),
        (
            {"max_tokens_per_1_day": 1000},
            *(CHAT, chat("x" * 400, n=2000, max_tokens=500), JSON, "n"),
            "No max_tokens fits so many answers, but 1 answer of that length; waiting cannot help.",
        ),
        (
            {"max_tokens_per_1_day": 1000},
            *(CHAT, chat("x" * 400, n=4, max_tokens=400), JSON, "max_tokens"),
            "The largest max_tokens that fits is 224, or 2 answers of that length; waiting cannot help.",
        ),
    ],
    ids=["images", "audio", "prompt", "answers", "length or answers"],
)
async def test_what_never_fits_names_what_to_lower_and_to_what(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    limits: dict[str, int],
    target: str,
    body: bytes,
    headers: str,
    param: str | None,
    said: str,
) -> None:
    gateway = await start_gateway(**tenant(**limits))

    answer = await post(gateway, target, body, headers=headers)

    error = error_of(answer)
    assert (answer.status, error["code"], error["param"]) == (400, "request_too_large_for_limit", param)
    assert said in error["message"]
    assert not upstream.requests
