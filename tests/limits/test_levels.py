"""How much of the limits is shown to be in use: exact, between requests too, of several gateways, and of no more than a
hundred."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from gateway.limits.charges import QuotaSet
from gateway.limits.levels import MOST_SHOWN, Levels
from gateway.limits.terms import TICKS_PER_PERIOD, Dimension, Quota, account_key
from tests.kit.asking import ask
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import until

CHAT = "/v1/chat/completions"
SECOND = 1_000_000


def minute(tenant: str, capacity: int = 60) -> Quota:
    return Quota(Dimension.REQUESTS_PER_MINUTE, capacity, account_key(tenant))


def grains(permits: int) -> int:
    return permits * TICKS_PER_PERIOD


def test_what_is_in_use_falls_as_time_refills_it() -> None:
    levels, quota = Levels(), minute("acme")
    levels.heard[QuotaSet((quota,))] = (grains(30),)

    seen = []
    for second in (0, 10, 29, 30):
        levels.take_up(second * SECOND)
        seen.append(levels.ratios.get(("acme", Dimension.REQUESTS_PER_MINUTE), math.nan))

    assert seen[:3] == [0.5, pytest.approx(20 / 60), pytest.approx(1 / 60)]
    assert math.isnan(seen[3])
    assert list(levels.to_look_at()) == []


def test_of_several_buckets_of_a_tenant_the_fullest_counts_and_debt_is_more_than_all() -> None:
    levels = Levels()
    subjects = [
        Quota(Dimension.TOKENS_PER_DAY, 1000, account_key("acme", subject=name)) for name in ("a", "b")
    ]
    levels.heard[QuotaSet(tuple(subjects))] = (grains(200), grains(1500))
    levels.take_up(0)

    assert levels.ratios == {("acme", Dimension.TOKENS_PER_DAY): 1.5}


def test_no_more_than_a_hundred_are_shown_those_with_least_left() -> None:
    levels = Levels()
    for number in range(1, 301):
        levels.heard[QuotaSet((minute(f"t{number}", 1000),))] = (grains(number),)
    levels.take_up(0)

    assert len(levels.ratios) == MOST_SHOWN
    assert min(levels.ratios.values()) == 0.201


def test_what_is_remembered_is_bounded() -> None:
    levels = Levels()
    for number in range(10_000):
        quota = Quota(Dimension.TOKENS_PER_DAY, 1000, account_key("acme", subject=f"s{number}"))
        levels.heard[QuotaSet((quota,))] = (grains(number % 1000 + 1),)
        if number % 500 == 0:
            levels.take_up(0)
    levels.take_up(0)

    assert len(levels._known) <= 2000
    assert levels.ratios == {("acme", Dimension.TOKENS_PER_DAY): 1.0}


def in_use(gateway: Gateway, dimension: str) -> float | None:
    found = re.findall(
        rf'^gateway_limit_used_ratio{{dimension="{dimension}",tenant="acme"}} (\S+)', gateway.metrics(), re.M
    )
    return float(found[0]) if found else None


@pytest.fixture
async def limited(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    limits = {
        "max_requests_per_1_minute": 600,
        "max_requests_per_1_day": 10,
        "max_tokens_per_1_day": 10_000,
        "max_concurrent_requests": 4,
    }
    async with running_gateway(
        upstream={"base_url": upstream.base_url}, tenants={"acme": {**EVERY_SCOPE, "limits": limits}}
    ) as gateway:
        yield gateway


async def test_limits_in_use_are_shown_while_exchanges_run_and_as_they_have_been_settled(
    limited: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.wait_for("go on")
        body = b'{"usage":{"prompt_tokens":50,"completion_tokens":50,"total_tokens":100}}'
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    upstream.plays(script)
    body = {"model": "m", "messages": [], "max_tokens": 2000}
    assert in_use(limited, "max_requests_per_1_day") is None
    asked = [asyncio.create_task(ask(limited, "POST", CHAT, body)) for _ in range(2)]

    await until(lambda: in_use(limited, "max_concurrent_requests") == 0.5, 5)
    assert in_use(limited, "max_requests_per_1_day") == pytest.approx(0.2, abs=0.001)
    assert 0.4 <= (in_use(limited, "max_tokens_per_1_day") or 0) < 0.41

    upstream.gate("go on").set()
    for one in asked:
        assert (await one).status == 200
    await until(lambda: in_use(limited, "max_concurrent_requests") is None, 8)
    assert in_use(limited, "max_tokens_per_1_day") == pytest.approx(0.02, abs=0.002)
    assert in_use(limited, "max_requests_per_1_day") == pytest.approx(0.2, abs=0.002)
    assert in_use(limited, "max_requests_per_1_minute") is None, "refilled"


async def test_each_gateway_shows_what_all_of_them_have_taken(
    upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    settings: dict[str, Any] = {
        "upstream": {"base_url": upstream.base_url},
        "redis_url": redis.url,
        "tenants": {"acme": {**EVERY_SCOPE, "limits": {"max_requests_per_1_day": 10}}},
    }
    async with running_gateway(**settings) as one, running_gateway(**settings) as other:
        for gateway in (one, one, one, other, other):
            assert (await ask(gateway, "GET", "/v1/models")).status == 200

        for gateway in (one, other):
            await until(partial(half_is_in_use, gateway), 8)


def half_is_in_use(gateway: Gateway) -> bool:
    return in_use(gateway, "max_requests_per_1_day") == pytest.approx(0.5, abs=0.001)


async def test_a_reload_forgets_what_was_in_use_of_limits_that_are_no_more(
    upstream: ScriptedUpstream,
) -> None:
    async with running_gateway(
        upstream={"base_url": upstream.base_url},
        tenants={"acme": {**EVERY_SCOPE, "limits": {"max_requests_per_1_day": 10}}},
        followed=True,
    ) as gateway:
        assert (await ask(gateway, "GET", "/v1/models")).status == 200
        await until(lambda: in_use(gateway, "max_requests_per_1_day") is not None, 5)
        gateway.settings["tenants"] = {"acme": EVERY_SCOPE}
        assert gateway.app.configuration is not None
        assert await gateway.app.configuration.reload()

        await until(lambda: in_use(gateway, "max_requests_per_1_day") is None, 5)
