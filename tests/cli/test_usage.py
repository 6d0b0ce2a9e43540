"""`gateway usage` and `gateway limits`: what running gateways have counted in Redis, and how to fill it again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import orjson
import pytest

from gateway.cli import main
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.terms import Charge, Dimension, Quota, account_key
from gateway.usage.counters import HOUR_SECONDS, Counted, Entry
from gateway.usage.ledger import UsageLedger
from gateway.usage.redis_usage import RedisUsage
from gateway.usage.reported import Known, Usage
from tests.kit.redis import RedisServer

LIMITS = """
[tenants.acme.limits]
max_requests_per_1_day = 100
[tenants.acme.limits.models."gpt-4o*"]
max_tokens_per_1_day = 5000
[tenants.acme.limits.subjects."*"]
max_requests_per_1_day = 10
[tenants.beta]
"""


@pytest.fixture
def config(tmp_path: Path, redis: RedisServer) -> str:
    file = tmp_path / "gateway.toml"
    file.write_text(f'redis_url = "{redis.url}"\n{LIMITS}', encoding="utf-8")
    return str(file)


def use(redis: RedisServer, *, now: float | None = None) -> None:
    """Three requests of two models, as a gateway counts them."""

    async def count() -> None:
        ledger = UsageLedger(RedisUsage(redis.url), clock=lambda: now or time.time())
        for model, usage, known in (
            ("gpt-4o", Usage(input=1000, output=200, audio_seconds=1.5), Known.REPORTED),
            ("gpt-4o", Usage(input=234, estimated=True), Known.ESTIMATED),
            ("", None, None),
        ):
            ledger.count(Counted("acme", Entry("alice", model, "op")), usage, known, bytes_in=7)
        await ledger.close()

    asyncio.run(count())


def test_usage_is_a_table_with_a_total(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    use(redis)
    assert main(["usage", "--tenant", "acme", "--since", "7d", "--config", config]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert title.startswith("acme from 20")
    assert [line.split() for line in lines] == [
        ["model", "requests", "reported", "estimated", "input", "output", "bytes_in", "audio_seconds"],
        ["gpt-4o", "2", "1", "1", "1,234", "200", "14", "1.5"],
        ["-", "1", "0", "0", "0", "0", "7", "0.0"],
        ["total", "3", "1", "1", "1,234", "200", "21", "1.5"],
    ]


def test_usage_for_programs(redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    use(redis)
    command = ["usage", "--tenant", "acme", "--by", "subject,operation", "--json", "--config", config]
    assert main(command) == 0
    document = orjson.loads(capsys.readouterr().out)
    assert document["tenant"] == "acme"
    ((data),) = document["data"]
    assert (data["subject"], data["operation"], data["input"]) == ("alice", "op", 1234)
    assert document["total"] == {name: data[name] for name in document["total"]}


@pytest.mark.parametrize("since", ["2h", "7d", "90d"])
def test_usage_goes_back_as_far_as_it_is_asked(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str], since: str
) -> None:
    ages = {"2h": 3600, "7d": 6 * 86_400, "90d": 80 * 86_400}
    for age in ages.values():
        use(redis, now=time.time() - age)
    assert main(["usage", "--tenant", "acme", "--since", since, "--json", "--config", config]) == 0
    within = [name for name, age in ages.items() if age <= ages[since]]
    assert orjson.loads(capsys.readouterr().out)["total"]["requests"] == 3 * len(within)


def test_usage_by_the_hour_is_in_order(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for hours in (1, 2, 3):
        use(redis, now=time.time() - hours * HOUR_SECONDS)
    assert (
        main(["usage", "--tenant", "acme", "--since", "1d", "--by", "hour", "--json", "--config", config])
        == 0
    )
    hours_found = [data["hour"] for data in orjson.loads(capsys.readouterr().out)["data"]]
    assert len(hours_found) == 3
    assert hours_found == sorted(hours_found)


def test_nobody_elses_usage_is_shown(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    use(redis)
    assert main(["usage", "--tenant", "beta", "--config", config]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "model  requests  input  output",
        "total         0      0       0",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--since", "forever"], "is not a duration"),
        (["--by", "tenant"], "is none of hour, day"),
    ],
)
def test_question_that_makes_no_sense_is_explained(
    config: str, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["usage", "--tenant", "acme", "--config", config, *arguments]) == 1
    assert message in capsys.readouterr().err


UNREACHABLE = ["--set", "redis_url='redis://127.0.0.1:9/0'", "--set", "limits.max_requests_per_1_day=5"]
COMMANDS = [["usage"], ["limits", "show"], ["limits", "reset"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_redis_the_command_says_where_to_look(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--tenant", "default"]) == 1
    error = capsys.readouterr().err
    assert "redis_url: is not set" in error
    assert "GET /gateway/" in error


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_redis_out_of_reach_is_said_in_one_line(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--tenant", "default", *UNREACHABLE]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("gateway: ")


def take(redis: RedisServer, *charges: Charge) -> None:
    async def admit() -> None:
        store = RedisBuckets(redis.url)
        assert (await store.admit("exchange", charges)).allowed
        await store.close()

    asyncio.run(admit())


def shown(config: str, capsys: pytest.CaptureFixture[str], *more: str) -> list[tuple[str, str, int, int]]:
    assert main(["limits", "show", "--tenant", "acme", "--json", "--config", config, *more]) == 0
    return [
        (
            level["limit"],
            level.get("model") or level.get("subject") or "all",
            level["capacity"],
            level["remaining"],
        )
        for level in orjson.loads(capsys.readouterr().out)
    ]


REQUESTS = Charge(Quota(Dimension.REQUESTS_PER_DAY, 100, account_key("acme")), 40)
TOKENS = Charge(Quota(Dimension.TOKENS_PER_DAY, 5000, account_key("acme", model="gpt-4o*")), 1200)
ALICES = Charge(Quota(Dimension.REQUESTS_PER_DAY, 10, account_key("acme", subject="alice")), 3)


def test_limits_show_what_is_left(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    take(redis, REQUESTS, TOKENS, ALICES)
    assert shown(config, capsys) == [
        ("max_requests_per_1_day", "all", 100, 60),
        ("max_tokens_per_1_day", "gpt-4o*", 5000, 3800),
    ]
    assert shown(config, capsys, "--subject", "alice")[2] == ("max_requests_per_1_day", "alice", 10, 7)
    assert main(["limits", "show", "--tenant", "acme", "--config", config]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["limit", "for", "capacity", "remaining", "full", "in"]
    assert [line.split()[:4] for line in lines] == [
        ["max_requests_per_1_day", "all", "100", "60"],
        ["max_tokens_per_1_day", "model", "gpt-4o*", "5,000"],
    ]
    assert main(["limits", "show", "--tenant", "beta", "--config", config]) == 0
    assert capsys.readouterr().out == "The tenant beta has no limits.\n"


def test_limits_are_filled_again(redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    take(redis, REQUESTS, TOKENS, ALICES)
    reset = ["limits", "reset", "--tenant", "acme", "--config", config]
    assert main([*reset, "--subject", "alice"]) == 0
    capsys.readouterr()
    assert [remaining for *_, remaining in shown(config, capsys, "--subject", "alice")] == [60, 3800, 10]
    assert main(reset) == 0
    assert capsys.readouterr().out == "The limits of acme are full again.\n"
    assert [remaining for *_, remaining in shown(config, capsys)] == [100, 5000]


def test_limits_of_a_credential_are_filled_by_its_id(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    quota = Quota(Dimension.REQUESTS_PER_DAY, 1, account_key("acme", credential="jti-1"))
    take(redis, Charge(quota))
    assert main(["limits", "reset", "--tenant", "acme", "--credential", "jti-1", "--config", config]) == 0
    take(redis, Charge(quota))


def test_tenant_that_is_not_configured_is_named(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limits", "show", "--tenant", "nobody", "--config", config]) == 1
    assert "no tenant 'nobody'" in capsys.readouterr().err
