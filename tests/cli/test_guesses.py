"""`gateway limits guesses` prints what is guessed, and why."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import orjson
import pytest

from gateway.cli import main
from gateway.usage.answer_lengths import Lengths
from gateway.usage.redis_lengths import RedisLengths
from gateway.usage.redis_wire import UsageWire
from tests.kit.redis import RedisServer


def learned(redis: RedisServer, **models: list[int]) -> None:
    async def learn() -> None:
        store, now = RedisLengths(UsageWire(redis.url)), time.time()
        for name, several in models.items():
            lengths = Lengths()
            for length in several:
                lengths.add(length, now)
            await store.learn("acme", {name: lengths})
            now += 1
        await store.close()

    asyncio.run(learn())


@pytest.fixture
def config(redis: RedisServer, tmp_path: Path) -> str:
    file = tmp_path / "gateway.toml"
    file.write_text(f'redis_url = "{redis.url}"\nexpected_output = {{ "o3*" = 70 }}\n[tenants.acme]\n')
    return str(file)


def test_guesses_are_shown_with_what_they_rest_on(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    learned(redis, o3=[500], gpt=[8000] * 40, **{"new\x1b[31m": [3]})
    assert main(["limits", "guesses", "--tenant", "acme", "--json", "--config", config]) == 0
    new, gpt, o3 = orjson.loads(capsys.readouterr().out)
    assert (o3["model"], o3["by"], o3["guess"], o3["mean"]) == ("o3", "expected_output", 70, 500)
    assert (gpt["by"], gpt["mean"], gpt["longest"], gpt["answers"]) == ("answers", 8000, 8000, 40)
    assert gpt["guess"] in range(7800, 8001)
    assert new["guess"] < 1000
    assert main(["limits", "guesses", "--tenant", "acme", "--config", config]) == 0
    head, units, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["model", "by"]
    assert units.split() == ["LLM", "tokens"]
    assert len(lines) == 3
    assert "\x1b" not in lines[0]


def test_nothing_known_is_said(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limits", "guesses", "--tenant", "acme", "--config", config]) == 0
    assert "1,000 LLM tokens" in capsys.readouterr().out
    assert main(["limits", "guesses", "--tenant", "nobody", "--config", config]) == 1
    assert "no tenant 'nobody'" in capsys.readouterr().err
