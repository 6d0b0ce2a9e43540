"""Admission and settlement end to end: all or nothing, the limit is named, and what was used is what is taken."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
import websockets

from gateway.credentials import realtime_secrets as minting
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.principal import Principal
from gateway.limits.terms import Charge, Dimension
from tests.conftest import StartGateway
from tests.kit.asking import error_of, form, running_simulator
from tests.kit.client import CHAT, FORM, JSON, RawAnswer, RawClient
from tests.kit.gateway import BY_NAME, Gateway, running_gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn
from tests.kit.usage_answers import counted, sse

ACME: dict[str, Any] = {"scopes": ["*", *BY_NAME]}


def tenant(**limits: Any) -> dict[str, Any]:
    return {"tenants": {"acme": {**ACME, "limits": limits}}}


def chat(text: str = "Hi", **members: Any) -> bytes:
    return orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": text}], **members})


def reporting(total: int, **members: object) -> bytes:
    """A whole answer that reports its usage."""
    usage = {"prompt_tokens": total, "completion_tokens": 0, "total_tokens": total}
    body = orjson.dumps({"usage": usage, **members})
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


def answers(upstream: ScriptedUpstream, answer: bytes) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answer)

    upstream.plays(script)


async def post(
    gateway: Gateway, target: str, body: bytes, headers: str = JSON, **credential: Any
) -> RawAnswer:
    async with await RawClient.connect(
        gateway.host, gateway.port, gateway.credential(**credential)
    ) as client:
        return await client.request("POST", target, body, headers=headers)


async def remaining(gateway: Gateway, dimension: Dimension, *, model: str | None = None) -> int:
    """Whole units that are left, once everything that ended has been settled."""
    limits = gateway.app.services.tenants.policies["acme"].limits
    quotas = limits.tenant if model is None else limits.of_model(model)
    (quota,) = [quota for quota in quotas if quota.dimension is dimension]
    await asyncio.sleep(0.02)
    return (await gateway.app.services.limiter.look([Charge(quota, 0)])).levels[0].remaining


def left(answer: RawAnswer, unit: str) -> int:
    value = answer.get(f"x-ratelimit-remaining-{unit}")
    assert value is not None
    return int(value)


# Dimensions


TRANSCRIBE = "/v1/audio/transcriptions"
IMAGE = orjson.dumps({"model": "dall-e-3", "prompt": "A cat", "n": 2})
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
        tenants={"acme": {**ACME, "limits": {"max_requests_per_1_day": 2}}, "beta": ACME},
    )
    answer = await post(gateway, CHAT, chat(max_tokens=1))
    assert (answer.get("x-ratelimit-limit-requests"), answer.get("x-ratelimit-limit-tokens")) == ("2", "700")
    answer = await post(gateway, CHAT, chat(max_tokens=1), tenant="beta")
    assert answer.get("x-ratelimit-limit-requests") == "5"


# Reserve, then settle


async def test_first_request_of_a_small_tenant_is_never_impossible(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """What is guessed is cut to what the bucket holds."""
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=500))
    answers(upstream, reporting(40))
    answer = await post(gateway, CHAT, chat(max_tokens=100_000, n=4))
    assert answer.status == 200
    assert left(answer, "tokens") == 0
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 460


@pytest.mark.parametrize(
    ("target", "body"),
    [
        (CHAT, chat("x" * 4100)),
        ("/v1/embeddings", orjson.dumps({"model": "e", "input": [list(range(600)), list(range(600))]})),
    ],
    ids=["text", "numbers"],
)
async def test_known_part_above_the_capacity_is_no_matter_of_waiting(
    start_gateway: StartGateway, upstream: ScriptedUpstream, target: str, body: bytes
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    refused = await post(gateway, target, body)
    assert (refused.status, error_of(refused)["code"]) == (400, "request_too_large_for_limit")
    assert refused.get("retry-after") is None
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000
    assert not upstream.requests


async def test_attachments_are_no_text(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBO" * 10_000}}
    sound = {"type": "input_audio", "input_audio": {"data": "UklG" * 10_000, "format": "wav"}}
    body = chat(messages=[{"role": "user", "content": [picture, sound]}], max_tokens=5)
    assert (await post(gateway, CHAT, body)).status == 200


@pytest.mark.parametrize("used", [0, 7, 300, 999], ids=lambda used: f"{used} used")
async def test_what_was_used_replaces_what_was_reserved(
    start_gateway: StartGateway, upstream: ScriptedUpstream, used: int
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    answers(upstream, reporting(used))
    await post(gateway, CHAT, chat(max_tokens=200))
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000 - used


async def test_what_exceeds_the_reservation_becomes_debt(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    answers(upstream, reporting(1700))
    assert (await post(gateway, CHAT, chat(max_tokens=10))).status == 200
    refused = await post(gateway, CHAT, chat(max_tokens=10))
    assert refused.status == 429
    wait_seconds = int(refused.get("retry-after") or 0)
    assert 86_400 * 0.7 <= wait_seconds <= 86_400 * 0.74, "the debt is waited for, too"


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_what_the_upstream_refuses_costs_the_request_alone(
    start_gateway: StartGateway, upstream: ScriptedUpstream, status: int
) -> None:
    gateway = await start_gateway(
        **tenant(max_requests_per_1_day=10, max_tokens_per_1_day=1000, max_images_per_1_minute=10**6)
    )
    answers(
        upstream, b"HTTP/1.1 %d No\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}" % status
    )
    await post(gateway, CHAT, chat())
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000
    assert await remaining(gateway, Dimension.REQUESTS_PER_DAY) == 9
    await post(gateway, "/v1/images/generations", IMAGE)
    assert await remaining(gateway, Dimension.IMAGES_PER_MINUTE) == 10**6


async def test_upstream_out_of_reach_costs_the_request_alone(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        upstream={"base_url": "http://127.0.0.1:9/v1", "api_key": "sk-x"}, **tenant(max_tokens_per_1_day=1000)
    )
    assert (await post(gateway, CHAT, chat())).status == 502
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 1000


async def test_client_leaving_amid_a_stream_is_settled_within_a_second(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=10_000, max_concurrent_requests=1))
    words = [sse((None, {"choices": [{"delta": {"content": f" {n}"}}]})) for n in range(5)]

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        for word in words:
            await turn.chunk(word)
        await turn.gone()

    upstream.plays(script)
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", CHAT, chat(stream=True), headers=JSON))
    answer = await client.read_head()
    assert answer.get("x-ratelimit-remaining-concurrent-requests") == "0"
    got = b""
    while got != b"".join(words):
        got += await client.read_chunk()
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) < 9010, "1000 are expected of the answer"
    client.reset()
    async with asyncio.timeout(1):
        while await remaining(gateway, Dimension.CONCURRENT_REQUESTS) == 0:
            pass
    assert 10_000 - 5 - 6 <= await remaining(gateway, Dimension.TOKENS_PER_DAY) <= 10_000 - 5
    ((_, counts),) = (await counted(gateway)).items()
    assert counts["input"] + counts["output"] == 10_000 - await remaining(gateway, Dimension.TOKENS_PER_DAY)


async def test_slot_is_held_to_the_last_byte(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    gateway = await start_gateway(**tenant(max_concurrent_requests=1))

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(b"data: 1\n\n")
        await turn.wait_for("go on")
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", CHAT, chat(stream=True), headers=JSON))
    answer = await client.read_head()
    assert await client.read_chunk() == b"data: 1\n\n"
    assert (await post(gateway, CHAT, chat())).status == 429
    upstream.gate("go on").set()
    await client.read_body(answer)
    assert await remaining(gateway, Dimension.CONCURRENT_REQUESTS) == 1
    assert (await post(gateway, CHAT, chat())).status == 200


async def test_images_are_settled_by_the_images_that_came(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_images_per_1_minute=60_000))
    answers(upstream, reporting(0, data=[{"url": "https://a.invalid/1"}]))
    answer = await post(
        gateway, "/v1/images/generations", orjson.dumps({"model": "d", "prompt": "x", "n": 500})
    )
    assert left(answer, "images") == 59_500
    assert await remaining(gateway, Dimension.IMAGES_PER_MINUTE) >= 59_999


@pytest.mark.parametrize("chunked", [False, True], ids=["stated length", "no stated length"])
async def test_audio_is_charged_by_the_bytes_that_went_up(
    start_gateway: StartGateway, upstream: ScriptedUpstream, chunked: bool
) -> None:
    """A form of unknown size may take whatever is left, and is settled by what it had."""
    gateway = await start_gateway(**tenant(max_audio_megabytes_per_1_minute=10))
    quota = gateway.app.services.tenants.policies["acme"].quotas[0]
    body = form(("file", bytes(3_000_000)), ("model", b"whisper-1"))
    answers(upstream, reporting(0))
    client = await gateway.connect()
    if chunked:
        head = client.request_bytes("POST", TRANSCRIBE, headers=FORM + "Transfer-Encoding: chunked\r\n")
        await client.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
        answer = await client.read_answer("POST")
        assert left(answer, "audio-megabytes") == 0
    else:
        answer = await client.request("POST", TRANSCRIBE, body, headers=FORM)
        assert left(answer, "audio-megabytes") == 6
    assert answer.status == 200
    await asyncio.sleep(0.02)
    fits = [Charge(quota, size) for size in (10_000_000 - len(body), 10_000_000 - len(body) + 500_000)]
    assert [(await gateway.app.services.limiter.look([charge])).allowed for charge in fits] == [
        True,
        False,
    ]


async def test_whatever_reports_usage_is_charged_for_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Where nothing could be reserved, too: who can tell what a transcript will have?"""
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    answers(upstream, reporting(59))
    answer = await post(gateway, TRANSCRIBE, form(("file", b"RIFF"), ("model", b"gpt-4o-transcribe")), FORM)
    assert left(answer, "tokens") == 1000
    assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == 941


async def test_guess_is_what_the_operator_expects_of_the_model(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        expected_output={"gpt-4o*": 300, "gpt-4o-mini": 50}, **tenant(max_tokens_per_1_day=10_000)
    )
    answers(upstream, reporting(0))
    for members, guess in (
        ({"model": "gpt-4o-mini"}, 50),
        ({"model": "gpt-4o-mini", "n": 3}, 150),
        ({"model": "gpt-4o-2024"}, 300),
        ({"model": "o3"}, 1000),
        ({"model": "o3", "max_completion_tokens": 70, "n": 2}, 140),
    ):
        answer = await post(gateway, CHAT, chat("", **members))
        # A few bytes of text are in every body: the names of role and model.
        assert 0 <= 10_000 - guess - left(answer, "tokens") <= 8, members


async def test_batch_costs_what_the_upstream_says_its_file_has(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(batch_1_day_max_input_tokens=1000))

    async def script(turn: Turn) -> None:
        await turn.read_body()
        body = b'{"id":"file-1","object":"file","bytes":2400}' if turn.seen.method == "GET" else b"{}"
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    upstream.plays(script)
    batch = orjson.dumps({"input_file_id": "file-1/..?x", "endpoint": CHAT, "completion_window": "24h"})
    answer = await post(gateway, "/v1/batches", batch)
    assert (answer.status, left(answer, "tokens")) == (200, 400)
    refused = await post(gateway, "/v1/batches", batch)
    assert (refused.status, error_of(refused)["type"]) == (429, "tokens")
    assert "batch_1_day_max_input_tokens = 1000" in error_of(refused)["message"]
    asked = [(seen.method, seen.target) for seen in upstream.requests]
    question = ("GET", "/v1/files/file-1%2F..%3Fx")
    assert asked == [question, ("POST", "/v1/batches"), question]
    assert upstream.requests[0].get("authorization") == "Bearer sk-upstream-key"
    assert (await post(gateway, CHAT, chat())).get("x-ratelimit-limit-tokens") is None


async def test_nobody_asks_for_a_files_size_where_batches_are_not_limited(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    await post(gateway, "/v1/batches", orjson.dumps({"input_file_id": "file-1", "endpoint": CHAT}))
    assert [seen.method for seen in upstream.requests] == ["POST"]


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

    async def script(turn: Turn) -> None:
        await turn.read_body()
        upstream.gate("cut").set()

    upstream.plays(script)
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
    assert (left(answer, "tokens"), left(answer, "requests")) == (1000, 4)


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


# Sessions


async def test_realtime_session_is_charged_as_it_goes(upstream: ScriptedUpstream) -> None:
    capacity = 5000
    async with (
        running_simulator() as simulator,
        running_gateway(
            upstream={"base_url": simulator.base_url, "api_key": "sk-x"},
            **tenant(max_tokens_per_1_day=capacity, max_concurrent_requests=2),
        ) as gateway,
    ):
        url = gateway.base_url.replace("http", "ws", 1) + "/realtime?model=gpt-realtime"
        header = {"Authorization": f"Bearer {gateway.credential()}"}
        used = 0
        async with websockets.connect(url, additional_headers=header) as socket:
            assert socket.response is not None
            assert socket.response.headers["x-ratelimit-remaining-concurrent-requests"] == "1"
            for _ in range(2):
                item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
                await socket.send(orjson.dumps({"type": "conversation.item.create", "item": item}).decode())
                await socket.send('{"type":"response.create"}')
                while (event := orjson.loads(await socket.recv()))["type"] != "response.done":
                    pass
                used += event["response"]["usage"]["total_tokens"]
                # One is held for the session itself, and given back when it ends.
                assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == capacity - used - 1
        await gateway.lines.wait(1)
        assert await remaining(gateway, Dimension.TOKENS_PER_DAY) == capacity - used
        assert await remaining(gateway, Dimension.CONCURRENT_REQUESTS) == 2


async def test_no_session_begins_while_nothing_is_left(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=100))
    answers(upstream, reporting(150))
    await post(gateway, CHAT, chat(max_tokens=1))
    url = gateway.base_url.replace("http", "ws", 1) + "/realtime?model=gpt-realtime"
    header = {"Authorization": f"Bearer {gateway.credential()}"}
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with websockets.connect(url, additional_headers=header):
            pass
    assert refused.value.response.status_code == 429
    assert len(upstream.requests) == 1


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
    if status == 503:
        assert error_of(answer)["code"] == "limits_unavailable"
        assert (
            gateway.metric(
                'gateway_limiter_decisions_total{decision="unavailable",dimension="none",tenant="acme"}'
            )
            == 2
        )


async def test_log_names_the_limit_and_nobody(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(**tenant(subjects={"*": {"max_requests_per_1_day": 1}}))
    for _ in range(2):
        await post(gateway, CHAT, chat(), subject="alice")
    _, line = await gateway.lines.wait(2)
    assert (line["error"], line["detail"]) == ("rate_limit_exceeded", "max_requests_per_1_day = 1")


async def test_batch_that_is_refused_anyway_asks_the_upstream_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=1, batch_1_day_max_input_tokens=1000))
    await post(gateway, CHAT, chat())
    refused = await post(gateway, "/v1/batches", orjson.dumps({"input_file_id": "file-1", "endpoint": CHAT}))
    assert refused.status == 429
    assert refused.all("x-ratelimit-remaining-requests") == ["0"]
    assert [seen.target for seen in upstream.requests] == [CHAT]
