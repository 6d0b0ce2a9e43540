"""`gateway demo`: what it prints can be pasted into a shell as it stands, and shows what it says."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from redis import Redis

from tests.kit.command import END_OF_GREETING, RunningCommand, running_demo
from tests.kit.redis import RedisServer
from tests.kit.tls import make_certificate
from tests.kit.waiting import until


@pytest.fixture
async def demo() -> AsyncIterator[RunningCommand]:
    async with running_demo() as demo:
        yield demo


def paragraph(demo: RunningCommand, beginning: str) -> list[str]:
    """The lines that it printed without a blank one between, of which the first begins like that."""
    [found] = [
        text.splitlines() for text in "\n".join(demo.stdout).split("\n\n") if text.startswith(beginning)
    ]
    return found


async def pasted(demo: RunningCommand, *lines: str, **environ: str) -> str:
    """What a shell that was told what the demo says to export prints, of both its outputs, upon these lines."""
    script = "\n".join([*paragraph(demo, "export "), *lines])
    done = await asyncio.to_thread(
        subprocess.run,
        ["sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": "/nonexistent",
            **environ,
        },
        timeout=30,
        check=False,
    )
    return done.stdout.decode()


def logged(demo: RunningCommand) -> list[Any]:
    """The lines of its log so far."""
    return [orjson.loads(line) for line in demo.stdout[demo.stdout.index(END_OF_GREETING) + 1 :] if line]


def answers(printed: str) -> list[Any]:
    """The JSON documents among the lines that were printed."""
    return [orjson.loads(line) for line in printed.splitlines() if line.startswith("{")]


async def test_every_line_that_the_demo_prints_shows_what_it_says(demo: RunningCommand) -> None:
    models, stream, refusal, limit, cut, me, metrics = paragraph(demo, "ask models")

    assert {"gpt-4o-mini", "gpt-4.1"} <= {
        model["id"] for model in answers(await pasted(demo, models))[0]["data"]
    }
    said = await pasted(demo, stream)
    assert "data: [DONE]" in said
    assert "Simulated" in said
    [refused] = answers(await pasted(demo, refusal))
    assert (refused["error"]["type"], refused["error"]["code"]) == ("permission_error", "missing_scope")
    first, second, third = answers(await pasted(demo, limit))
    assert first["object"] == second["object"] == "chat.completion"
    assert third["error"]["code"] == "rate_limit_exceeded"
    broken = await pasted(demo, cut)
    assert "Simulated" in broken
    assert "[DONE]" not in broken
    assert "curl: (18)" in broken
    [principal] = answers(await pasted(demo, me))
    assert (principal["tenant"], principal["subject"]) == ("demo", "you")
    counted = await pasted(demo, metrics)
    for ending in ("complete", "refused", "upstream_lost"):
        assert f'gateway_exchanges_total{{ending="{ending}",operation="createChatCompletion"' in counted


async def test_the_sdks_lines_work_as_printed_and_their_stream_is_metered(demo: RunningCommand) -> None:
    said = await pasted(demo, *paragraph(demo, "python3 -c"))

    assert said.startswith("Simulated answer to: Hello")
    await until(lambda: len(logged(demo)) == 1)
    [line] = logged(demo)
    assert (line["tenant"], line["operation"]) == ("demo", "createChatCompletion")
    assert (line["status"], line["ending"]) == (200, "complete")
    assert line["usage_known"] == "reported"
    assert line["usage"]["output"] > 0


async def test_ctrl_c_ends_the_demo(demo: RunningCommand) -> None:
    demo.signal(signal.SIGINT)
    assert await demo.exit_code() == 0


async def test_a_demo_counts_in_the_redis_that_it_is_told(redis: RedisServer) -> None:
    async with running_demo("--redis", redis.url) as demo:
        assert any("counted in Redis" in line for line in demo.stdout)
        _, _, _, limit, *_ = paragraph(demo, "ask models")

        first, second, third = answers(await pasted(demo, limit))

    assert first["object"] == second["object"] == "chat.completion"
    assert third["error"]["code"] == "rate_limit_exceeded"
    with Redis.from_url(redis.url) as client:
        assert client.dbsize() > 0


async def test_any_setting_of_the_demo_can_be_set() -> None:
    async with running_demo("--set", 'tenants.demo.models=["gpt-4o*"]') as narrow:
        _, _, _, limit, *_ = paragraph(narrow, "ask models")

        refused = answers(await pasted(narrow, limit))

    assert {answer["error"]["code"] for answer in refused} == {"model_not_allowed"}


async def test_a_demo_that_speaks_tls_prints_lines_that_do(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "gateway")
    tls = ("--set", f"tls_certificate={certificate}", "--set", f"tls_key={key}")
    async with running_demo(*tls) as demo:
        models, *_, me, _ = paragraph(demo, "ask models")

        printed = await pasted(demo, models, me, CURL_CA_BUNDLE=str(certificate))

    assert any(line.startswith("export OPENAI_BASE_URL=https://") for line in demo.stdout)
    assert [answer["object"] for answer in answers(printed)] == ["list", "gateway.principal"]
