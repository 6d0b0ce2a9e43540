"""What metrics call used and settled is what the limits were charged, whatever becomes of an exchange, and while a
session goes on."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import pytest

from gateway.limits.terms import TICKS_PER_PERIOD, Dimension
from tests.kit.client import JSON, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.realtime import talk
from tests.kit.upstream import SSE_HEAD, Script, ScriptedUpstream, Turn, answer_ok
from tests.kit.waiting import comes_to, until

CHAT = "/v1/chat/completions"
CAPACITY = 5000
RESERVED = 700
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"word " * 80 + b'"}}]}\n\n'
REPORT = b'data: {"choices":[],"usage":{"prompt_tokens":20,"completion_tokens":30,"total_tokens":50}}\n\n'


def streams(*pieces: bytes, then: str) -> Script:
    """The script of a stream that ends well, is cut, or goes on until its client has left."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        for piece in pieces:
            await turn.chunk(piece)
        match then:
            case "ends":
                await turn.send(b"0\r\n\r\n")
            case "cut":
                turn.close()
            case _:
                await turn.gone()

    return script


async def refuses(turn: Turn) -> None:
    """The script of an upstream that takes nothing on."""
    await turn.read_body()
    await turn.send(b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")


@pytest.fixture
async def limited(upstream: ScriptedUpstream) -> AsyncIterator[Gateway]:
    tenant = {**EVERY_SCOPE, "limits": {"max_tokens_per_1_day": CAPACITY}, "models": ["one", "two"]}
    async with running_gateway(
        upstream={"base_url": upstream.base_url}, tenants={"acme": tenant}, unseen_tokens_per_second=0
    ) as gateway:
        yield gateway


def total(gateway: Gateway, name: str, **labels: str) -> float:
    """The sum of a family's series with these labels."""
    found = re.findall(rf"^{name}(?:\{{(.*)\}})? (\S+)", gateway.metrics(), re.MULTILINE)
    wanted = [f'{label}="{value}"' for label, value in labels.items()]
    return sum(float(value) for said, value in found if all(label in said for label in wanted))


async def charged(gateway: Gateway) -> int:
    """What the limit has been charged, rounded to what it gives back in a quarter of a minute."""
    services = gateway.app.services
    quotas = [
        quota
        for quota in services.tenants.policies["acme"].quotas
        if quota.dimension is Dimension.TOKENS_PER_DAY
    ]
    (missing,) = await services.limiter.store.missing(quotas)
    return round(missing / TICKS_PER_PERIOD)


@pytest.mark.parametrize(
    ("script", "leaves", "reserves", "known"),
    [
        (streams(EVENT, REPORT, b"data: [DONE]\n\n", then="ends"), False, True, "reported"),
        (streams(EVENT, b"data: [DONE]\n\n", then="ends"), False, True, "estimated"),
        (streams(EVENT, EVENT, then="cut"), False, True, "estimated"),
        (streams(EVENT, EVENT, then="goes on"), True, True, "estimated"),
        (refuses, False, False, None),
        (answer_ok, False, True, "estimated"),
    ],
    ids=["reported", "unreported", "broken off", "client left", "refused upstream", "no stream"],
)
async def test_what_metrics_call_settled_is_what_the_limit_was_charged(
    limited: Gateway,
    upstream: ScriptedUpstream,
    script: Script,
    leaves: bool,
    reserves: bool,
    known: str | None,
) -> None:
    upstream.plays(script)
    body = b'{"model":"one","stream":true,"max_tokens":%d,"messages":[{"role":"user","content":"Hi"}]}'
    client = await limited.connect()
    await client.send(client.request_bytes("POST", CHAT, body % RESERVED, headers=JSON))
    if leaves:
        await client.read_head()
        await client.read_chunk()
        client.reset()
    else:
        await ends_somehow(client)
    line = (await limited.lines.wait(1))[0]

    settled = total(limited, "gateway_limited_llm_tokens_total", moment="settled", tenant="acme")
    reserved = total(limited, "gateway_limited_llm_tokens_total", moment="reserved", tenant="acme")
    await comes_to(round(settled), lambda: charged(limited))
    assert (reserved > RESERVED) == reserves
    assert (settled > 0) == reserves
    assert line.get("usage_known") == known
    used = sum(total(limited, "gateway_usage_total", kind=kind) for kind in ("input", "output"))
    assert used == settled
    assert (
        sum(total(limited, "gateway_model_usage_total", model="one", kind=k) for k in ("input", "output"))
        == used
    )


async def ends_somehow(client: RawClient) -> None:
    """Read all of an answer, whole or not."""
    try:
        async with asyncio.timeout(5):
            await client.read_answer()
    except (asyncio.IncompleteReadError, ConnectionError, EOFError):
        pass


async def test_what_a_session_uses_is_told_while_it_goes_on_by_the_model_of_each_response(
    limited: Gateway, upstream: ScriptedUpstream
) -> None:
    session = await talk(limited, upstream, target="/v1/responses", protocols="")
    for number, model in enumerate(("one", "two", "one")):
        named = {"model": model, "input": "Hi", "max_output_tokens": RESERVED}
        await session.client_tells("response.create", **named)
        response = {"id": f"resp_{number}", "model": model}
        await session.upstream_tells("response.created", response=response)
        usage = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
        done = {**response, "status": "completed", "output": [], "usage": usage}
        await session.upstream_tells("response.completed", response=done)

    await until(lambda: total(limited, "gateway_usage_total", tenant="acme", kind="output") == 60)
    assert total(limited, "gateway_model_usage_total", model="one", kind="output") == 40
    assert total(limited, "gateway_model_usage_total", model="two", kind="output") == 20
    assert total(limited, "gateway_limited_llm_tokens_total", moment="settled") == 90
    assert total(limited, "gateway_limited_llm_tokens_total", moment="reserved") > 3 * RESERVED

    await session.hang_up()
    await limited.lines.wait(1)
    assert total(limited, "gateway_usage_total", tenant="acme", kind="output") == 60, (
        "and not once more at its end"
    )
