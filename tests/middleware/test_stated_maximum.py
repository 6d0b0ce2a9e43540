"""A stated maximum that the whole limit does not hold is refused for good, and the caller told what would fit."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.limits.terms import Dimension
from tests.conftest import StartGateway
from tests.kit.asking import error_of
from tests.kit.client import CHAT
from tests.kit.upstream import ScriptedUpstream
from tests.middleware.limited import answers, chat, post, remaining, reporting, tenant

LIMIT = "max_tokens_per_1_day"

QUESTION = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x" * 400}]}


@pytest.mark.parametrize(
    ("target", "name", "body", "count"),
    [
        (CHAT, "max_tokens", QUESTION, 1),
        (CHAT, "max_completion_tokens", {**QUESTION, "n": 4, "max_tokens": 1}, 4),
        ("/v1/responses", "max_output_tokens", {"model": "gpt-5", "input": "x" * 400}, 1),
        ("/v1/completions", "max_tokens", {"model": "m", "prompt": ["x" * 200] * 2, "best_of": 3}, 6),
    ],
    ids=["chat", "several answers", "response", "several prompts"],
)
async def test_number_that_is_told_fits_and_one_more_does_not(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    target: str,
    name: str,
    body: dict[str, Any],
    count: int,
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    answers(upstream, reporting(0))

    async def asked(maximum: int) -> Any:
        return await post(gateway, target, orjson.dumps({**body, name: maximum}))

    refused = await asked(32_768)
    error = error_of(refused)
    assert (refused.status, error["code"]) == (400, "request_too_large_for_limit")
    assert (error["type"], error["param"]) == ("invalid_request_error", name)
    assert f"{LIMIT} = 1000" in error["message"]
    assert "32768" in error["message"]
    fitting = int(error["message"].partition(f"The largest {name} that fits is ")[2].partition(";")[0])
    assert 1000 - 120 <= count * fitting <= 1000
    assert refused.get("retry-after") is None
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000
    assert not upstream.requests
    assert (await asked(fitting + 1)).status == 400
    assert (await asked(fitting)).status == 200
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("limits", "credential", "whose"),
    [
        ({LIMIT: 500}, {}, "."),
        ({"models": {"gpt-4o*": {LIMIT: 500}}}, {}, " for model 'gpt-4o*'."),
        ({"subjects": {"*": {LIMIT: 500}}}, {}, " for subject 'tester'."),
        ({}, {"limits": {LIMIT: 500}}, " for credential '"),
    ],
    ids=["tenant", "model", "subject", "credential"],
)
async def test_limit_is_named_with_whose_it_is(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    limits: dict[str, Any],
    credential: dict[str, Any],
    whose: str,
) -> None:
    """Of several the one that holds least: what fits it fits all."""
    gateway = await start_gateway(**tenant(**{"max_tokens_per_1_minute": 5000, **limits}))
    refused = await post(gateway, CHAT, chat(max_tokens=9000), **credential)
    assert refused.status == 400
    message = error_of(refused)["message"]
    assert f"{LIMIT} = 500{whose}" in message, message
    assert "that fits is 49" in message
    decided = f'gateway_limiter_decisions_total{{decision="refused",dimension="{LIMIT}",tenant="acme"}}'
    assert gateway.metric(decided) == 1
    assert not upstream.requests


async def test_nothing_is_named_that_fits_where_nothing_does(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=100))
    for text, more in (("x" * 4000, {}), ("Hi", {"n": 500})):
        refused = await post(gateway, CHAT, chat(text, max_tokens=9000, **more))
        error = error_of(refused)
        assert (refused.status, error["code"]) == (400, "request_too_large_for_limit")
        assert "No max_tokens fits: make the request smaller" in error["message"]


async def test_a_large_body_gives_back_what_it_took_at_the_door(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        **tenant(max_tokens_per_1_day=50_000, max_requests_per_1_day=5, max_concurrent_requests=1)
    )
    for _ in range(3):
        assert (await post(gateway, CHAT, chat("x" * 100_000, max_tokens=49_000))).status == 400
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY) == 5
    assert await remaining(gateway, Dimension.CONCURRENT_REQUESTS) == 1
    assert not upstream.requests


@pytest.mark.parametrize("members", [{}, {"max_tokens": None}, {"max_tokens": 0}], ids=["none", "null", "0"])
async def test_what_states_no_maximum_is_guessed_and_cut(
    start_gateway: StartGateway, upstream: ScriptedUpstream, members: dict[str, Any]
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=500))
    answers(upstream, reporting(0))
    answer = await post(gateway, CHAT, chat(**members))
    assert (answer.status, answer.get("x-ratelimit-remaining-tokens")) == (200, "0")
