"""What an answer used stands alike in the log, in the metrics, in `gateway usage` and in `GET /gateway/usage`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.usage.report import UNITS
from gateway.usage.reported import KINDS
from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.command import run_command
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn

RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "model": "gpt-5",
    "service_tier": "flex",
    "output": [
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
        {"type": "file_search_call", "id": "fs_1", "status": "completed"},
        {"type": "code_interpreter_call", "id": "ci_1", "status": "completed", "container_id": "cntr_1"},
    ],
    "usage": {
        "input_tokens": 300_000,
        "input_tokens_details": {"cached_tokens": 1000, "cache_write_tokens": 2000},
        "output_tokens": 500,
        "output_tokens_details": {"reasoning_tokens": 400},
        "total_tokens": 300_500,
    },
}
SPOKEN = {
    "id": "c",
    "object": "chat.completion",
    "service_tier": "priority",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {
        "prompt_tokens": 20,
        "prompt_tokens_details": {"audio_tokens": 15},
        "completion_tokens": 30,
        "completion_tokens_details": {"audio_tokens": 25},
        "total_tokens": 50,
    },
}
BY_TIER = {
    "flex": {
        "input": 300_000, "cached_input": 1000, "cache_write": 2000, "output": 500, "reasoning": 400,
        "web_searches": 1, "file_searches": 1, "code_sessions": 1, "long_context": 1,
    },
    "priority": {"input": 20, "output": 30, "input_audio": 15, "output_audio": 25},
    "other": {"audio_seconds": 2.5},
    "default": {"images": 2},
}  # fmt: skip
ASKED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/v1/responses", {"model": "gpt-5", "input": "Hi"}, RESPONSE),
    ("/v1/chat/completions", {"model": "gpt-5", "messages": []}, SPOKEN),
    (
        "/v1/chat/completions",
        {"model": "gpt-5", "messages": []},
        {"usage": {"type": "duration", "seconds": 2.5}, "service_tier": "a new one"},
    ),
    (
        "/v1/images/generations",
        {"model": "gpt-5", "prompt": "A cat"},
        {"created": 1, "data": [{"url": "https://x/1"}, {"url": "https://x/2"}]},
    ),
]


async def told(gateway: Gateway, config: Path) -> list[dict[str, Any]]:
    """By tier, from the gateway itself and from the command."""
    answer = await ask(gateway, "GET", "/gateway/usage?by=tier", scopes=["usage:read"])
    done = await run_command("usage", "--tenant", "acme", "--by", "tier", "--json", "--config", str(config))
    assert done.code == 0, done.stderr
    return [orjson.loads(answer.body), orjson.loads(done.stdout)]


@pytest.mark.parametrize("metering", [True, False])
async def test_every_kind_is_told_alike(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    redis: RedisServer,
    tmp_path: Path,
    *,
    metering: bool,
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(f'redis_url = "{redis.url}"\n[tenants.acme]\n')
    gateway = await start_gateway(
        redis_url=redis.url, tenants={"acme": {**EVERY_SCOPE, "metering": metering}}
    )
    answers = iter([orjson.dumps(answer) for _, _, answer in ASKED])

    async def script(turn: Turn) -> None:
        await turn.read_body()
        body = next(answers)
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        await turn.send(head + body)

    upstream.plays(script)
    for target, body, _ in ASKED:
        assert (await ask(gateway, "POST", target, body)).status == 200

    lines = await gateway.lines.wait(len(ASKED))
    logged = {
        {"a new one": "other"}.get(tier := line["usage"].pop("tier", "default"), tier): line["usage"]
        for line in lines
    }
    assert {line["usage_known"] for line in lines} == {"reported"}
    assert {
        tier: {kind: used[kind] for kind in KINDS if kind in used} for tier, used in logged.items()
    } == BY_TIER
    for said in await told(gateway, config):
        rows = {row["tier"]: {kind: row[kind] for kind in KINDS if row[kind]} for row in said["data"]}
        assert rows == BY_TIER
        assert said["total"]["requests"] == said["total"]["reported"] == len(ASKED)
        assert said["notes"] == []
        assert said["units"] == UNITS and UNITS.keys() == said["total"].keys()
    page = gateway.metrics()
    shown: dict[str, dict[str, float]] = {}
    for line in page.splitlines():
        if line.startswith("gateway_usage_total{"):
            labels, value = line.removeprefix("gateway_usage_total{").split("} ")
            named = dict(label.split("=") for label in labels.replace('"', "").split(","))
            shown.setdefault(named["tier"], {})[named["kind"]] = float(value.split()[0])
    assert shown == BY_TIER
