"""Reserve, then settle: whatever becomes of an exchange, its tenant pays for what it used."""

from __future__ import annotations

import asyncio

import orjson
import pytest
import websockets

from gateway.limits.terms import Charge, Dimension
from tests.conftest import StartGateway
from tests.kit.asking import error_of, form, running_simulator
from tests.kit.client import CHAT, FORM, JSON
from tests.kit.gateway import running_gateway
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn, says
from tests.kit.usage_answers import counted, sse
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


async def test_first_request_of_a_small_tenant_is_never_impossible(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """What is guessed is cut to what the bucket holds."""
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=500))
    answers(upstream, reporting(40))
    answer = await post(gateway, CHAT, chat(n=4))
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
    upstream.plays(says(*words))
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
    assert left(answer, "tokens") == 999, "one at least, for something will be reported"
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


async def test_batch_does_not_wait_for_a_file_behind_another_protocol(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(batch_1_day_max_input_tokens=1000))

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n")
        await turn.gone()

    upstream.plays(script)
    await post(gateway, "/v1/batches", orjson.dumps({"input_file_id": "file-1", "endpoint": CHAT}))
    assert gateway.upstream_connections() == 0


async def test_nobody_asks_for_a_files_size_where_batches_are_not_limited(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_tokens_per_1_day=1000))
    await post(gateway, "/v1/batches", orjson.dumps({"input_file_id": "file-1", "endpoint": CHAT}))
    assert [seen.method for seen in upstream.requests] == ["POST"]


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


async def test_batch_that_is_refused_anyway_asks_the_upstream_nothing(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(**tenant(max_requests_per_1_day=1, batch_1_day_max_input_tokens=1000))
    await post(gateway, CHAT, chat())
    refused = await post(gateway, "/v1/batches", orjson.dumps({"input_file_id": "file-1", "endpoint": CHAT}))
    assert refused.status == 429
    assert refused.all("x-ratelimit-remaining-requests") == ["0"]
    assert [seen.target for seen in upstream.requests] == [CHAT]
