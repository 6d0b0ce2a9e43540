"""`gateway limits`: what is left, owed and held, and by whom; and how it is forgiven."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.cli import main
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.terms import Charge, Dimension, Quota, account_key
from tests.kit.redis import RedisServer

KEY = account_key("acme")
TOKENS = Quota(Dimension.TOKENS_PER_MINUTE, 1000, KEY)
SLOTS = Quota(Dimension.CONCURRENT_REQUESTS, 500, KEY)
AUDIO = Quota(Dimension.AUDIO_MEGABYTES_PER_MINUTE, 25, KEY)


@pytest.fixture
def config(tmp_path: Path, redis: RedisServer) -> str:
    file = tmp_path / "gateway.toml"
    file.write_text(f"""
        redis_url = "{redis.url}"
        [upstream]
        api_key = "sk-upstream"
        [tenants.acme.limits]
        max_tokens_per_1_minute = 1000
        max_concurrent_requests = 500
        max_audio_megabytes_per_1_minute = 25
    """)
    return str(file)


def use(redis: RedisServer, *steps: tuple[str, list[Charge]], debts: list[Charge]) -> None:
    async def taken() -> None:
        store = RedisBuckets(redis.url, deadline_seconds=2)
        for exchange, charges in steps:
            assert (await store.admit(exchange, charges, hold=True)).allowed
        await store.debit("", debts)
        await store.close()

    asyncio.run(taken())


def test_what_is_owed_and_held_is_shown_and_forgiven(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    held = [Charge(TOKENS, 200), Charge(SLOTS), Charge(AUDIO, 1_500_000)]
    use(redis, ("req_gw_1", held), debts=[Charge(TOKENS, 50_000)])

    def show(*more: str) -> str:
        assert main(["limits", "show", "--tenant", "acme", *more, "--config", config]) == 0
        return capsys.readouterr().out

    def report() -> Any:
        return orjson.loads(show("--json"))

    said = report()
    tokens = next(limit for limit in said["limits"] if limit["limit"] == TOKENS.dimension)
    assert (tokens["remaining"], 49_000 < tokens["owed"] <= 49_200) == (0, True)
    assert 49 * 60 - 30 < tokens["paid_off_seconds"] <= 49.2 * 60
    (one,) = said["held"]
    assert one["exchange"] == "req_gw_1"
    assert one["holds"] == {
        "max_tokens_per_1_minute": 200,
        "max_concurrent_requests": 1,
        "max_audio_megabytes_per_1_minute": 1.5,
    }
    assert 0 < one["lease_seconds"] <= 15
    lines = show().splitlines()
    assert "owed" in lines[0] and "paid off in" in lines[0]
    assert next(line for line in lines if "tokens" in line).rstrip().endswith("s")
    assert any("req_gw_1" in line and "200 of max_tokens_per_1_minute" in line for line in lines)

    assert main(["limits", "reset", "--tenant", "acme", "--config", config]) == 0
    assert "nothing is owed" in capsys.readouterr().out
    assert [limit["owed"] for limit in report()["limits"]] == [0, 0, 0]
    assert report()["held"] == []


def test_what_very_many_hold_is_shown_in_part(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    use(redis, *((f"req_gw_{n}", [Charge(SLOTS)]) for n in range(130)), debts=[])
    assert main(["limits", "show", "--tenant", "acme", "--json", "--config", config]) == 0
    said = orjson.loads(capsys.readouterr().out)
    assert (len(said["held"]), said["held_more"]) == (100, 30)
    assert main(["limits", "show", "--tenant", "acme", "--config", config]) == 0
    assert "… and 30 more" in capsys.readouterr().out
