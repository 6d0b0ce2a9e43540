"""What is told of models: when their streams begin, how fast they write, how smoothly, and what is used of them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from tests.kit.asking import ask
from tests.kit.client import JSON
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.upstream import SSE_HEAD, Script, ScriptedUpstream, Turn

CHAT = "/v1/chat/completions"
DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
USAGE = (
    b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":100,"total_tokens":107}}\n\n'
    b"data: [DONE]\n\n"
)
PAUSE_SECONDS = 0.2


def streaming(*pauses: float, usage: bytes = USAGE) -> Script:
    """The script of a stream with these pauses between its pieces."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(DELTA % b"a")
        for number, pause in enumerate(pauses):
            await asyncio.sleep(pause)
            await turn.chunk(DELTA % b"%d" % number)
        await turn.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(usage), usage))

    return script


def chat(model: str) -> bytes:
    return b'{"model":"%b","stream":true,"messages":[]}' % model.encode()


async def stream(gateway: Gateway, model: str = "gpt-4o") -> None:
    assert (await ask(gateway, "POST", CHAT, chat(model), headers=JSON)).status == 200


def total(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of a family's series with these labels."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)", gateway.metrics(), re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(value) for said, value in found if all(label in said for label in wanted))


@pytest.fixture
async def told(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    async with running_gateway(
        upstream={"base_url": upstream.base_url},
        tenants={"acme": {**EVERY_SCOPE, "models": ["gpt-4o", "*"]}},
    ) as gateway:
        yield gateway


async def test_a_stream_tells_when_it_began_how_fast_it_was_and_what_it_used_of_which_model(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streaming(PAUSE_SECONDS))
    await stream(told)
    await told.lines.wait(1)

    assert total(told, "gateway_generation_first_byte_seconds_count", model="gpt-4o") == 1
    assert total(told, "gateway_output_llm_tokens_per_second_count", model="gpt-4o") == 1
    speed = total(told, "gateway_output_llm_tokens_per_second_sum", model="gpt-4o")
    assert 100 / (3 * PAUSE_SECONDS) < speed <= 100 / PAUSE_SECONDS * 1.05
    assert total(told, "gateway_model_usage_total", model="gpt-4o", kind="input") == 7
    assert total(told, "gateway_model_usage_total", model="gpt-4o", kind="output") == 100
    assert total(told, "gateway_usage_total", tenant="acme", kind="output") == 100


async def test_what_comes_at_once_or_is_not_reported_has_no_speed(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    async def at_once(turn: Turn) -> None:
        await turn.read_body()
        body = DELTA % b"a" + USAGE
        await turn.send(SSE_HEAD + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))

    upstream.plays(at_once)
    await stream(told)
    upstream.plays(streaming(PAUSE_SECONDS, usage=b"data: [DONE]\n\n"))
    await stream(told)
    await told.lines.wait(2)

    assert total(told, "gateway_generation_first_byte_seconds_count", model="gpt-4o") == 2
    assert total(told, "gateway_output_llm_tokens_per_second_count") == 0


async def test_what_is_no_stream_has_usage_and_nothing_of_streams(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        body = b'{"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}'
        await turn.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    upstream.plays(script)
    assert (await ask(told, "POST", CHAT, b'{"model":"gpt-4o","messages":[]}', headers=JSON)).status == 200
    await told.lines.wait(1)

    assert total(told, "gateway_model_usage_total", model="gpt-4o", kind="output") == 4
    assert total(told, "gateway_generation_first_byte_seconds_count") == 0
    assert total(told, "gateway_piece_gap_seconds_count") == 0


async def test_a_model_that_only_requests_name_counts_as_other(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streaming())
    for number in range(20):
        await stream(told, f"made-up-{number}")
    await told.lines.wait(20)

    assert total(told, "gateway_model_usage_total", model="other", kind="output") == 2000
    assert "made-up" not in told.metrics()


async def test_pieces_are_counted_by_how_long_each_took_to_come(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streaming(*[0.15] * 10))
    await stream(told)
    await told.lines.wait(1)

    bucket = "gateway_piece_gap_seconds_bucket"
    assert total(told, bucket, le="0.1") <= 1, "the report came at once behind the last event"
    assert total(told, bucket, le="1.0") == total(told, "gateway_piece_gap_seconds_count")
    assert 10 <= total(told, "gateway_piece_gap_seconds_count") <= 11
    assert total(told, "gateway_piece_gap_seconds_sum") == pytest.approx(1.5, abs=0.4)


async def test_of_many_streams_some_are_watched_and_a_long_silence_is_seen_in_every_one(
    told: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(streaming(*[0.02] * 8, 3.0, *[0.3] * 8))
    await asyncio.gather(*(stream(told) for _ in range(36)))
    await told.lines.wait(36)

    short = total(told, "gateway_piece_gap_seconds_bucket", le="1.0")
    long = total(told, "gateway_piece_gap_seconds_bucket", le="5.0") - short
    assert total(told, "gateway_piece_gap_seconds_count") == short + long
    assert long == 36, "one in each, as long as it was"
    # Of the first four each, of the others one in eight, which counts for eight; pieces may come together.
    assert 36 * 12 <= short <= 36 * 17


async def test_a_reload_names_models(upstream: ScriptedUpstream) -> None:
    upstream.plays(streaming())
    async with running_gateway(
        upstream={"base_url": upstream.base_url}, tenants={"acme": EVERY_SCOPE}, followed=True
    ) as gateway:
        await stream(gateway, "late")
        await gateway.lines.wait(1)
        assert total(gateway, "gateway_model_usage_total", model="other", kind="output") == 100

        gateway.settings["tenants"] = {"acme": {**EVERY_SCOPE, "default_model": "late"}}
        assert gateway.app.configuration is not None
        await gateway.app.configuration.reload()
        await stream(gateway, "late")
        await gateway.lines.wait(2)

    assert total(gateway, "gateway_model_usage_total", model="late", kind="output") == 100
