"""What tests of limits ask, what their upstream reports, and what is left afterwards."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson

from gateway.limits.terms import Charge, Dimension
from tests.kit.client import JSON, RawAnswer, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import ScriptedUpstream, Turn


def tenant(**limits: Any) -> dict[str, Any]:
    return {"tenants": {"acme": {**EVERY_SCOPE, "limits": limits}}}


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


IMAGE = orjson.dumps({"model": "dall-e-3", "prompt": "A cat", "n": 2})
TRANSCRIBE = "/v1/audio/transcriptions"
