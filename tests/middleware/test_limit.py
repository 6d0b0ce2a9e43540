"""Admission and settlement end to end: all or nothing, the limit is named, and what was used is what is taken."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from gateway.credentials import realtime_secrets as minting
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.principal import Principal
from gateway.limits.terms import Dimension
from tests.conftest import StartGateway
from tests.kit.asking import error_of, form
from tests.kit.client import CHAT, FORM, JSON, RawClient
from tests.kit.gateway import EVERY_SCOPE
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn, cut_off
from tests.kit.usage_answers import counted
from tests.middleware.limited import (
    IMAGE,
    TRANSCRIBE,
    answers,
    chat,
    left,
    post,
    remaining,
    reporting,
    tenant,
)

DIMENSIONS = [
    ("max_requests_per_1_minute", 1, CHAT, chat(), JSON, "requests"),
    ("max_requests_per_1_day", 1, CHAT, chat(), JSON, "requests"),
    ("max_tokens_per_1_minute", 100, CHAT, chat(max_tokens=60), JSON, "tokens"),
    ("max_tokens_per_1_day", 100, CHAT, chat(max_tokens=60), JSON, "tokens"),
    ("max_images_per_1_minute", 3, "/v1/images/generations", IMAGE, JSON, "images"),
    (
        "max_audio_megabytes_per_1_minute",
        1,
        TRANSCRIBE,
        form(("file", bytes(600_000)), ("model", b"whisper-1")),
        FORM,
        "audio-megabytes",
    ),
    ("max_concurrent_requests", 1, CHAT, chat(), JSON, "concurrent-requests"),
]


REFUSED_ELSEWHERE = {"batch_1_day_max_input_tokens"}
"""What a batch costs stands in a file: test_settlement.py."""


def test_every_limit_is_seen_refusing() -> None:
    assert {limit for limit, *_ in DIMENSIONS} | REFUSED_ELSEWHERE == set(Dimension)


@pytest.mark.parametrize(
    ("limit", "capacity", "target", "body", "headers", "unit"), DIMENSIONS, ids=lambda value: str(value)[:32]
)
async def test_limit_refuses_what_exceeds_it_and_is_named(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    limit: str,
    capacity: int,
    target: str,
    body: bytes,
    headers: str,
    unit: str,
) -> None:
    """The first request is under way, and holds what it may need, while the second comes."""
    gateway = await start_gateway(**tenant(**{limit: capacity}))

    async def script(turn: Turn) -> None:
        await turn.read_body()
        upstream.gate("first is up").set()
        await turn.wait_for("second is refused")
        await turn.send(reporting(70))

    upstream.plays(script)
    first = asyncio.create_task(post(gateway, target, body, headers))
    await upstream.passed("first is up")
    second = await post(gateway, target, body, headers)
    upstream.gate("second is refused").set()
    assert (await first).status == 200
    assert second.status == 429
    error = error_of(second)
    assert (error["type"], error["code"]) == (unit, "rate_limit_exceeded")
    assert f"{limit} = {capacity}" in error["message"]
    assert second.get(f"x-ratelimit-limit-{unit}") == str(capacity)
    assert left(second, unit) < capacity
    assert float(second.get("retry-after-ms") or 0) > 0
    assert int(second.get("retry-after") or 0) > 0
    assert len(upstream.requests) == 1, "what was refused was sent on"


async def test_refused_request_costs_nothing(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    gateway = await start_gateway(
        **tenant(
            max_requests_per_1_day=50,
            max_tokens_per_1_day=1000,
            models={"gpt-4*": {"max_requests_per_1_day": 1}},
        )
    )
    answers(upstream, reporting(100))
    assert (await post(gateway, CHAT, chat(max_tokens=10))).status == 200
    before = [
        await remaining(gateway, Dimension.REQUESTS_PER_DAY),
        await remaining(gateway, Dimension.TOKENS_PER_DAY),
    ]
    for _ in range(5):
        refused = await post(gateway, CHAT, chat(max_tokens=10))
        assert refused.status == 429
        assert "max_requests_per_1_day = 1 for model 'gpt-4*'" in error_of(refused)["message"]
    after = [
        await remaining(gateway, Dimension.REQUESTS_PER_DAY),
        await remaining(gateway, Dimension.TOKENS_PER_DAY),
    ]
    assert after == before == [49, 900]
    assert (await counted(gateway))["tester", "gpt-4o", "createChatCompletion"]["requests"] == 1


async def test_waiting_that_is_pointless_is_not_recommended(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=1))
    await post(gateway, CHAT, chat())
    refused = await post(gateway, CHAT, chat())
    assert refused.get("x-should-retry") == "false"
    assert "Try again in 2" in error_of(refused)["message"], "some 24h0m0s"
    gateway = await start_gateway(**tenant(max_requests_per_1_minute=1))
    await post(gateway, CHAT, chat())
    assert (await post(gateway, CHAT, chat())).get("x-should-retry") is None


async def test_levels_are_the_tenants_own_and_the_upstreams_stand_beside_them(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_minute=10, max_tokens_per_1_minute=10_000))
    answers(
        upstream,
        b"HTTP/1.1 200 OK\r\nx-ratelimit-remaining-requests: 4999\r\nContent-Type: application/json\r\n"
        b"Content-Length: 2\r\n\r\n{}",
    )
    answer = await post(gateway, CHAT, chat(max_tokens=1000))
    assert answer.all("x-ratelimit-remaining-requests") == ["9"]
    assert answer.get("x-ratelimit-limit-tokens") == "10000"
    assert 8990 <= left(answer, "tokens") <= 9000
    assert answer.get("x-upstream-ratelimit-remaining-requests") == "4999"
    assert answer.get("x-ratelimit-limit-images") is None
    client = await gateway.connect()
    listing = await client.request("GET", "/v1/models")
    assert left(listing, "tokens") > 9990, "reading takes no LLM tokens, and says what is left"


# Who is limited


async def test_models_that_match_a_pattern_share_its_limit_and_others_have_none(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(**tenant(models={"gpt-4o*": {"max_requests_per_1_day": 2}}))
    for model in ("gpt-4o", "gpt-4o-mini"):
        assert (await post(gateway, CHAT, chat(model=model))).status == 200
    refused = await post(gateway, CHAT, chat(model="gpt-4o-2024-11-20"))
    assert refused.status == 429
    assert "for model 'gpt-4o*'" in error_of(refused)["message"]
    assert (await post(gateway, CHAT, chat(model="o3"))).status == 200


async def test_every_pattern_that_matches_a_model_counts(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        **tenant(models={"gpt-*": {"max_requests_per_1_day": 2}, "gpt-4o": {"max_requests_per_1_day": 1}})
    )
    assert (await post(gateway, CHAT, chat(model="gpt-4o"))).status == 200
    assert (await post(gateway, CHAT, chat(model="gpt-4o"))).status == 429
    assert (await post(gateway, CHAT, chat(model="gpt-4.1"))).status == 200
    assert (await post(gateway, CHAT, chat(model="gpt-4.1"))).status == 429


async def test_model_in_the_path_is_limited_like_one_in_the_body(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(models={"gpt-4o": {"max_requests_per_1_day": 1}}))
    client = await gateway.connect()
    assert (await client.request("GET", "/v1/models/gpt-4o")).status == 200
    assert (await client.request("GET", "/v1/models/gpt-4o")).status == 429


async def test_each_subject_has_a_bucket_of_its_own_and_the_closest_table_is_its_limit(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(
        **tenant(
            max_requests_per_1_day=100,
            subjects={"*": {"max_requests_per_1_day": 1}, "batch-*": {"max_requests_per_1_day": 2}},
        )
    )
    for subject, granted in (("alice", 1), ("bob", 1), ("batch-night", 2)):
        for _ in range(granted):
            assert (await post(gateway, CHAT, chat(), subject=subject)).status == 200
        refused = await post(gateway, CHAT, chat(), subject=subject)
        assert f"max_requests_per_1_day = {granted} for subject '{subject}'" in error_of(refused)["message"]
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY) == 96


async def test_credential_has_its_own_lower_limit(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=100))
    credential = gateway.credential(limits={"max_requests_per_1_day": 1})
    async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
        assert (await client.request("POST", CHAT, chat(), headers=JSON)).status == 200
        refused = await client.request("POST", CHAT, chat(), headers=JSON)
    assert refused.status == 429
    assert "max_requests_per_1_day = 1 for credential" in error_of(refused)["message"]
    assert (await post(gateway, CHAT, chat())).status == 200, "another credential of the same subject"


def test_realtime_secret_keeps_the_limits_of_the_credential_that_minted_it() -> None:
    ring = KeyRing.ephemeral()
    principal = Principal("acme", "alice", frozenset(), "jti", 0.0, 2e9, limits={"max_tokens_per_1_day": 5})
    sealed = minting.seal(minting.MintedSecret("ek_1", principal, 1e9), ring)
    assert minting.unseal(sealed, ring, now=0.0).principal.limits == {"max_tokens_per_1_day": 5}


async def test_tenants_own_limit_stands_before_the_common_one(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        limits={"max_requests_per_1_day": 5, "max_tokens_per_1_day": 700},
        tenants={"acme": {**EVERY_SCOPE, "limits": {"max_requests_per_1_day": 2}}, "beta": EVERY_SCOPE},
    )
    answer = await post(gateway, CHAT, chat(max_tokens=1))
    assert (answer.get("x-ratelimit-limit-requests"), answer.get("x-ratelimit-limit-tokens")) == ("2", "700")
    answer = await post(gateway, CHAT, chat(max_tokens=1), tenant="beta")
    assert answer.get("x-ratelimit-limit-requests") == "5"


# Forms that stream


def limited_whisper(**limits: Any) -> dict[str, Any]:
    return tenant(max_requests_per_1_day=10, models={"whisper*": {"max_requests_per_1_day": 1}}, **limits)


@pytest.mark.parametrize("model_first", [True, False], ids=["model first", "model last"])
async def test_form_whose_model_has_no_room_never_reaches_its_end_and_costs_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream, model_first: bool
) -> None:
    gateway = await start_gateway(**limited_whisper())
    parts = [("model", b"whisper-1"), ("file", bytes(200_000))]
    body = form(*(parts if model_first else reversed(parts)))
    answers(upstream, reporting(0))
    granted = await post(gateway, TRANSCRIBE, body, FORM)
    assert granted.status == 200
    assert left(granted, "requests") == 0, "the model's level is the tightest"
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY) == 9

    upstream.plays(cut_off)
    refused = await post(gateway, TRANSCRIBE, body, FORM)
    assert refused.status == 429
    assert "for model 'whisper*'" in error_of(refused)["message"]
    await upstream.passed("cut")
    seen = upstream.requests[-1]
    assert not seen.complete
    assert not seen.body.endswith(b"--edge--\r\n")
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY) == 9
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY, model="whisper-1") == 0


async def test_form_is_answered_with_the_levels_of_both_steps(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        **tenant(max_tokens_per_1_day=1000, models={"whisper*": {"max_requests_per_1_day": 5}})
    )
    answers(upstream, reporting(0))
    answer = await post(gateway, TRANSCRIBE, form(("model", b"whisper-1"), ("file", b"RIFF")), FORM)
    assert (left(answer, "tokens"), left(answer, "requests")) == (999, 4)


async def test_form_of_another_model_passes_whole(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**limited_whisper())
    answers(upstream, reporting(0))
    body = form(("file", bytes(200_000)), ("model", b"gpt-4o-transcribe"))
    for _ in range(3):
        assert (await post(gateway, TRANSCRIBE, body, FORM)).status == 200
    assert [seen.body for seen in upstream.requests] == [body] * 3
    unnamed = form(("file", bytes(1000)))
    assert (await post(gateway, TRANSCRIBE, unnamed, FORM)).status == 200, (
        "the upstream will say what it lacks"
    )


async def test_form_is_charged_to_its_model_by_its_size(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(models={"whisper*": {"max_audio_megabytes_per_1_minute": 1}}))
    answers(upstream, reporting(0))
    body = form(("file", bytes(600_000)), ("model", b"whisper-1"))
    assert (await post(gateway, TRANSCRIBE, body, FORM)).status == 200
    refused = await post(gateway, TRANSCRIBE, body, FORM)
    assert (refused.status, error_of(refused)["type"]) == (429, "audio-megabytes")
    too_large = form(("file", bytes(1_200_000)), ("model", b"whisper-1"))
    refused = await post(gateway, TRANSCRIBE, too_large, FORM)
    assert (refused.status, error_of(refused)["code"]) == (400, "request_too_large_for_limit")


async def test_body_is_not_invited_when_nothing_is_left(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=1))
    client = await gateway.connect()
    for headers, status in ((JSON, 200), (JSON + "Expect: 100-continue\r\n", 429)):
        head = client.request_bytes("POST", CHAT, headers=headers + f"Content-Length: {len(chat())}\r\n")
        await client.send(head + (chat() if status == 200 else b""))
        assert (await client.read_answer("POST")).status == status


# What a tenant is told, and what happens without the store


async def test_me_says_what_is_left_of_every_limit(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        **tenant(
            max_tokens_per_1_day=1000,
            models={"gpt-4o*": {"max_requests_per_1_day": 5}},
            subjects={"*": {"max_requests_per_1_day": 7}},
        )
    )
    answers(upstream, reporting(250))
    await post(gateway, CHAT, chat(max_tokens=1))
    await asyncio.sleep(0.02)
    client = await gateway.connect()
    limits = orjson.loads((await client.request("GET", "/gateway/me")).body)["limits"]
    assert [{name: level[name] for name in level if name != "reset"} for level in limits] == [
        {"limit": "max_tokens_per_1_day", "capacity": 1000, "remaining": 750},
        {"limit": "max_requests_per_1_day", "subject": "tester", "capacity": 7, "remaining": 6},
        {"limit": "max_requests_per_1_day", "model": "gpt-4o*", "capacity": 5, "remaining": 4},
    ]


async def test_two_gateways_on_one_redis_share_limits_exactly(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    """Many at once on both; what was granted, settled and counted is one and the same number."""
    settings = tenant(max_requests_per_1_day=30, max_tokens_per_1_day=4000) | {"redis_url": redis.url}
    gateways = [await start_gateway(**settings) for _ in range(2)]
    used = 0

    async def script(turn: Turn) -> None:
        nonlocal used
        await turn.read_body()
        used += len(turn.seen.body)
        await turn.send(reporting(len(turn.seen.body)))

    upstream.plays(script)
    asked = [post(gateways[n % 2], CHAT, chat("x" * n, max_tokens=n)) for n in range(50)]
    statuses = [answer.status for answer in await asyncio.gather(*asked)]
    assert (statuses.count(200), statuses.count(429)) == (30, 20)
    async with asyncio.timeout(2):
        while await remaining(gateways[0], Dimension.TOKENS_PER_DAY) != 4000 - used:
            pass
    await asyncio.gather(*(gateway.app.services.ledger.flush() for gateway in gateways))
    for gateway in gateways:
        assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 4000 - used
        counts = (await counted(gateway))["tester", "gpt-4o", "createChatCompletion"]
        assert (counts["requests"], counts["input"]) == (30, used)


@pytest.mark.parametrize("refused", [False, True])
async def test_who_asks_two_gateways_in_turn_finds_given_back_what_it_did_not_use(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer, refused: bool
) -> None:
    """One request at a time: nobody is refused for what is on its way back, used or not."""
    settings = tenant(max_requests_per_1_day=10, max_tokens_per_1_day=1500) | {"redis_url": redis.url}
    ring = KeyRing.ephemeral()
    gateways = [await start_gateway(ring=ring, **settings) for _ in range(2)]
    clients = [await gateway.connect() for gateway in gateways]
    answers(upstream, reporting(10))
    if refused:
        too_much = chat("x" * 70_000, max_tokens=1)  # it is read behind the door
        for n in range(20):
            assert (await post(gateways[n % 2], CHAT, too_much)).status == 400
    for n in range(10):
        answer = await clients[n % 2].request("POST", CHAT, chat(), headers=JSON)
        assert answer.status == 200, (n, answer.body)


@pytest.mark.parametrize(
    ("policy", "status"), [("open", 200), ("local", 200), ("closed", 503)], ids=lambda value: str(value)
)
async def test_each_limit_says_what_becomes_of_it_without_the_store(
    start_gateway: StartGateway, policy: str, status: int
) -> None:
    gateway = await start_gateway(
        redis_url="redis://127.0.0.1:9/0",
        on_store_failure="open" if policy != "open" else "closed",
        **tenant(max_requests_per_1_day=1, on_store_failure={"max_requests_per_1_day": policy}),
    )
    for expected in (status, 429 if policy == "local" else status):
        answer = await post(gateway, CHAT, chat())
        assert answer.status == expected
    assert gateway.metric('gateway_limit_store_servers{state="down"}') == 1
    outcome = {"open": "granted", "local": "refused", "closed": "unavailable"}[policy]
    alone = (
        f'gateway_limiter_decisions_without_store_total{{by="{policy}",decision="{outcome}",tenant="acme"}}'
    )
    assert gateway.metric(alone) == (1 if policy == "local" else 2)
    if status == 503:
        assert error_of(answer)["code"] == "limits_unavailable"
        assert (
            gateway.metric(
                'gateway_limiter_decisions_total{decision="unavailable",dimension="none",tenant="acme"}'
            )
            == 2
        )


@pytest.mark.parametrize("with_slots", [False, True], ids=["requests alone", "with slots"])
async def test_refusals_while_the_store_stands_still_cost_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer, with_slots: bool
) -> None:
    slots = {"max_concurrent_requests": 40, "max_tokens_per_1_day": 1000} if with_slots else {}
    gateway = await start_gateway(
        redis_url=redis.url, on_store_failure="closed", **tenant(max_requests_per_1_day=40, **slots)
    )
    answers(upstream, reporting(10))
    assert (await post(gateway, CHAT, chat())).status == 200
    redis.freeze()
    stalled = await asyncio.gather(*(post(gateway, CHAT, chat()) for _ in range(20)))
    assert {answer.status for answer in stalled} == {503}
    await asyncio.sleep(1.5)
    redis.thaw()
    async with asyncio.timeout(3):
        while gateway.metric('gateway_limit_store_servers{state="up"}') != 1 or gateway.metric(
            "gateway_limit_late_settlements"
        ):
            await asyncio.sleep(0.05)
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY) == 39
    if with_slots:
        assert await remaining(gateway, Dimension.CONCURRENT_REQUESTS) == 40
        assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000 - 10


async def test_log_names_the_limit_and_nobody(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(subjects={"*": {"max_requests_per_1_day": 1}}))
    for _ in range(2):
        await post(gateway, CHAT, chat(), subject="alice")
    _, line = await gateway.lines.wait(2)
    assert (line["error"], line["detail"]) == ("rate_limit_exceeded", "max_requests_per_1_day = 1")
