"""Streams are asked for their usage at the public API, elsewhere where the operator says so, and a report tells."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.policy.tenants import tenant_policies
from gateway.settings.sources import load
from tests.conftest import StartGateway
from tests.kit.asking import TABLE, ask
from tests.kit.client import JSON, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.usage_answers import CHAT_COUNTS, KINDS
from tests.middleware.test_meter import plays

STREAM = next(kind for kind in KINDS if kind.added)
OWN = {"base_url": "https://llm.internal/v1", "api_key": "k"}


def metered(tenant: dict[str, Any] | None = None, **upstream: Any) -> bool:
    """Whether the tenant's streams are asked for their usage."""
    upstream = {"base_url": "https://api.openai.com/v1", "api_key": "sk-common", **upstream}
    flags = {"upstream": upstream, "tenants": {"acme": tenant or {}}}
    return tenant_policies(load(flags=flags, environ={}), TABLE)["acme"].metered


@pytest.mark.parametrize(
    ("base_url", "asked"),
    [
        ("https://api.openai.com/v1", True),
        ("https://API.OpenAI.com:443/v1/", True),
        ("https://us.api.openai.com/v1", True),
        ("https://eu.api.openai.com/v1", True),
        ("https://acme.openai.azure.com/openai/v1", False),
        ("https://api.openai.com.evil.example/v1", False),
        ("https://notapi.openai.com/v1", False),
        ("http://127.0.0.1:8000/v1", False),
    ],
)
def test_only_the_public_api_is_asked_unless_the_operator_says_so(base_url: str, asked: bool) -> None:
    assert metered(base_url=base_url) == asked
    assert metered({"upstream": {"base_url": base_url, "api_key": "k"}}) == asked
    for chosen in (True, False):
        assert metered(base_url=base_url, metering=chosen) == chosen
        assert metered({"metering": chosen}, base_url=base_url) == chosen
        assert metered({"metering": chosen}, base_url=base_url, metering=not chosen) == chosen


def test_what_is_said_of_the_common_upstream_is_not_said_of_a_tenants_own() -> None:
    assert not metered({"upstream": OWN}, metering=True)
    assert metered({"upstream": {"base_url": "https://eu.api.openai.com/v1", "api_key": "k"}}, metering=False)
    assert metered({"upstream": {"project": "proj_a"}}, base_url=OWN["base_url"], metering=True)


def test_limit_on_llm_tokens_asks_whatever_is_said() -> None:
    assert metered({"limits": {"max_tokens_per_1_day": 5}, "metering": False}, metering=False)


@pytest.mark.parametrize("asked", [True, False])
async def test_what_streams_of_the_public_api_used_is_known_unless_the_operator_wants_no_asking(
    start_gateway: StartGateway, upstream: ScriptedUpstream, asked: bool
) -> None:
    """Over the proxy that stands on the way there."""
    port = upstream.base_url.removeprefix("http://127.0.0.1:").partition("/")[0]
    way: dict[str, Any] = {
        "base_url": "http://api.openai.com/v1",
        "api_key": "sk-common",
        "http_proxy": f"http://127.0.0.1:{port}",
    }
    if not asked:
        way["metering"] = False
    gateway = await start_gateway(upstream=way, tenants={"acme": EVERY_SCOPE})
    answer = STREAM.answer if asked else STREAM.answer.replace(STREAM.added, b"")
    plays(upstream, STREAM, [answer])

    async with await RawClient.connect(gateway.host, gateway.port, gateway.credential()) as client:
        got = await client.request("POST", STREAM.target, STREAM.request, headers=JSON)

    assert got.body == STREAM.answer.replace(STREAM.added, b"")
    (seen,) = upstream.requests
    assert (b"include_usage" in seen.body) == asked
    await is_told_everywhere(gateway, "reported" if asked else "unreported")


async def test_what_a_server_says_that_rejects_being_asked_reaches_the_client(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    body = b'{"detail":[{"type":"extra_forbidden","loc":["body","stream_options","include_usage"]}]}'
    head = (
        b"HTTP/1.1 422 Unprocessable Entity\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    )

    async def rejects(turn: Turn) -> None:
        assert b"include_usage" in await turn.read_body()
        await turn.send(head % len(body) + body)

    upstream.plays(rejects)
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "metering": True}})
    answer = await ask(gateway, "POST", STREAM.target, orjson.loads(STREAM.request))

    assert (answer.status, answer.body) == (422, body)
    assert "usage_known" not in (await gateway.lines.wait(1))[0], "nothing was used"


async def test_what_no_answer_ever_says_is_missing_nowhere(gateway: Gateway) -> None:
    for target in ("/v1/moderations", "/v1/embeddings"):
        assert (await ask(gateway, "POST", target, {"model": "m", "input": "Hi"})).status == 200
    total = orjson.loads((await ask(gateway, "GET", "/gateway/usage")).body)["total"]
    assert (total["requests"], total["unreported"]) == (2, 1)


async def is_told_everywhere(gateway: Gateway, known: str) -> None:
    """One exchange, and what is known of its usage, in the log, the metrics and the report."""
    line = (await gateway.lines.wait(1))[0]
    assert line["usage_known"] == known
    assert ("usage" in line) == (known == "reported")
    labels = f'known="{known}",tenant="acme"'
    assert gateway.metric(f"gateway_usage_exchanges_total{{{labels}}}") == 1
    said = orjson.loads((await ask(gateway, "GET", "/gateway/usage")).body)
    total = said["total"]
    assert {name: total[name] for name in ("requests", "reported", "estimated", "unreported")} == {
        "requests": 1,
        **dict.fromkeys(("reported", "estimated", "unreported"), 0),
        known: 1,
    }
    assert total["input"] == (CHAT_COUNTS["input"] if known == "reported" else 0)
    assert any("unreported" in note for note in said["notes"]) == (known == "unreported")
