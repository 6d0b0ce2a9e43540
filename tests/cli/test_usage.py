"""`gateway usage` and `gateway limits`: what running gateways have counted in Redis, and how to fill it again."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import time
from functools import partial
from operator import sub
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway.cli import main
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.terms import Charge, Dimension, Quota, account_key
from gateway.usage.counters import HOUR_SECONDS, Counted, Entry
from gateway.usage.ledger import UsageLedger
from gateway.usage.redis_usage import RedisUsage
from gateway.usage.redis_wire import UsageWire
from gateway.usage.reported import Known, Usage
from tests.kit.asking import ask
from tests.kit.gateway import running_gateway
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
        ledger = UsageLedger(
            RedisUsage(UsageWire(redis.url, deadline_seconds=2)), clock=lambda: now or time.time()
        )
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
    title, *lines, note = capsys.readouterr().out.splitlines()
    assert title.startswith("acme from 20")
    assert [re.split(" {2,}", line.strip()) for line in lines] == [
        ["model", "requests", "reported", "estimated", "input", "output", "audio_seconds", "bytes_in"],
        ["requests", "requests", "LLM tokens", "LLM tokens"],
        ["gpt-4o", "2", "1", "1", "1,234", "200", "1.5", "14"],
        ["-", "1", "0", "0", "0", "0", "0.0", "7"],
        ["total", "3", "1", "1", "1,234", "200", "1.5", "21"],
    ]
    ends = [
        line.rindex(end) + len(end) for line, end in zip(lines[:3], ("output", "tokens", "200"), strict=True)
    ]
    assert len(set(ends)) == 1, "units stand below what they are of"
    assert note.startswith("note: 1 of 3 requests are estimated")


def test_usage_is_told_apart_by_the_tier_that_served(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever a tier has of it is not counted twice, nor in the hour nor in the day."""

    async def count() -> None:
        for days in (0, 3):
            ledger = UsageLedger(
                RedisUsage(UsageWire(redis.url, deadline_seconds=2)),
                clock=partial(sub, time.time(), days * 86_400),
            )
            for tier, amount in (("", 1), ("flex", 10), ("batch", 100), ("flex", 1000)):
                entry = Entry("alice", "gpt-4o", "op", tier)
                ledger.count(Counted("acme", entry), Usage(input=amount, tier=tier), Known.REPORTED)
                await ledger.flush()
            await ledger.close()

    asyncio.run(count())
    assert main(["usage", "--tenant", "acme", "--by", "tier,day", "--json", "--config", config]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert [(data["tier"], data["requests"], data["input"]) for data in found["data"]] == [
        ("flex", 2, 1010),
        ("batch", 1, 100),
        ("default", 1, 1),
    ] * 2
    assert (found["total"]["requests"], found["total"]["input"]) == (8, 2222)
    assert main(["usage", "--tenant", "acme", "--by", "model", "--json", "--config", config]) == 0
    ((data),) = orjson.loads(capsys.readouterr().out)["data"]
    assert (data["requests"], data["input"]) == (8, 2222)


def test_usage_for_spreadsheets_is_figures_and_nothing_that_they_would_work_out(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [
        '=HYPERLINK("http://x","y")',
        "+1",
        "-1",
        "@a",
        "＝1",
        'a "b", c',
        "plain",
        "\t=1",
        "\r\n=2",
        "  =1",
        "semicolon;=1",
    ]

    async def count() -> None:
        ledger = UsageLedger(RedisUsage(UsageWire(redis.url, deadline_seconds=2)))
        for number, name in enumerate(names, 1):
            ledger.count(Counted("acme", Entry(name, "", "op")), Usage(input=10**6 * number), Known.REPORTED)
        await ledger.close()

    asyncio.run(count())
    assert main(["usage", "--tenant", "acme", "--by", "subject,model", "--csv", "--config", config]) == 0
    text = capsys.readouterr().out
    assert text.count("\r\n") == text.count("\n") == len(names) + 1
    head, *rows = csv.reader(io.StringIO(text, newline=""))
    assert head[:7] == [
        *("subject", "model", "requests", "reported (requests)", "estimated (requests)"),
        *("unreported (requests)", "input (LLM tokens)"),
    ]
    assert {len(row) for row in rows} == {len(head)}
    assert sorted(int(row[6]) for row in rows) == [10**6 * number for number in range(1, len(names) + 1)]
    assert {row[1] for row in rows} == {""}
    assert 'a "b", c' in {row[0] for row in rows}
    assert not [row[0] for row in rows if row[0].lstrip()[0] in "=+-@＝\t\r"]
    assert '"semicolon;=1","",' in text  # in one cell, whatever divides cells
    assert sum(row[0].startswith("'") for row in rows) >= 5


def test_what_programs_read_is_what_the_gateway_says_itself(
    redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same defaults, the same shape, the same figures, the same notes."""
    use(redis)
    use(redis, now=time.time() - 5 * 86_400)
    config = tmp_path / "gateway.toml"
    config.write_text(f'redis_url = "{redis.url}"\n{LIMITS}', encoding="utf-8")

    async def answers() -> list[Any]:
        async with running_gateway(
            upstream={"base_url": "http://127.0.0.1:9/v1", "api_key": "k"},
            redis_url=redis.url,
            tenants={"acme": {}},
        ) as gateway:
            return [
                orjson.loads(
                    (await ask(gateway, "GET", f"/gateway/usage{query}", scopes=["usage:read"])).body
                )
                for query in ("", "?since=9d&by=hour,tier")
            ]

    for said, more in zip(asyncio.run(answers()), ([], ["--since", "9d", "--by", "hour,tier"]), strict=True):
        assert main(["usage", "--tenant", "acme", "--json", "--config", str(config), *more]) == 0
        found = orjson.loads(capsys.readouterr().out)
        assert list(found) == list(said)
        assert {**found, "until": ""} == {**said, "until": ""}
        assert said["total"]["requests"] == 6
        assert len(said["notes"]) == 1 + ("--since" in more)


def test_tenant_that_nobody_has_is_an_error_and_one_that_is_gone_is_not(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for form in ([], ["--json"], ["--csv"]):
        assert main(["usage", "--tenant", "acne", *form, "--config", config]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "did you mean acme?" in captured.err and "there are acme, beta" in captured.err
    use(redis)
    gone = Path(config).with_name("other.toml")
    gone.write_text(f'redis_url = "{redis.url}"\n[tenants.beta]\n', encoding="utf-8")
    assert main(["usage", "--tenant", "acme", "--config", str(gone)]) == 0
    assert "no tenant acme any more" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("since", "by", "note"),
    [
        ("9d", "hour", "Hours are told apart for 8 days: this begins at"),
        ("500d", "model", "Usage is kept for 400 days: this begins at"),
        ("7d", "hour", None),
        ("90d", "day,model", None),
    ],
)
def test_what_is_no_longer_kept_is_said(
    redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str], since: str, by: str, note: str | None
) -> None:
    command = ["usage", "--tenant", "acme", "--since", since, "--by", by, "--config", config]
    assert main(command) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == (note is not None)
    assert all(line.startswith(f"note: {note}") for line in notes)


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
    assert [re.split(" {2,}", line.strip()) for line in capsys.readouterr().out.splitlines()[1:]] == [
        ["model", "requests", "input", "output"],
        ["LLM tokens", "LLM tokens"],
        ["total", "0", "0", "0"],
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
COMMANDS = [["usage"], ["limits", "show"], ["limits", "reset"], ["limits", "guesses"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_without_redis_the_command_says_where_to_look(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--tenant", "default"]) == 1
    error = capsys.readouterr().err
    assert "redis_url: is not set" in error
    assert "GET /gateway/" in error or command[-1] == "guesses"


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
        store = RedisBuckets(redis.url, deadline_seconds=2)
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
        for level in orjson.loads(capsys.readouterr().out)["limits"]
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
    assert " ".join(head.split()) == "limit for capacity remaining full in owed paid off in"
    assert [line.split()[:4] for line in lines[:2]] == [
        ["max_requests_per_1_day", "all", "100", "60"],
        ["max_tokens_per_1_day", "model", "gpt-4o*", "5,000"],
    ]
    assert lines[2] == "", "what is held stands apart"
    assert main(["limits", "show", "--tenant", "beta", "--config", config]) == 0
    assert capsys.readouterr().out == "The tenant beta has no limits.\n"


def test_limits_are_filled_again(redis: RedisServer, config: str, capsys: pytest.CaptureFixture[str]) -> None:
    take(redis, REQUESTS, TOKENS, ALICES)
    reset = ["limits", "reset", "--tenant", "acme", "--config", config]
    assert main([*reset, "--subject", "alice"]) == 0
    assert capsys.readouterr().out == "The limits of the subject alice are full again, and nothing is owed.\n"
    assert [remaining for *_, remaining in shown(config, capsys, "--subject", "alice")] == [60, 3800, 10]
    assert main(reset) == 0
    assert capsys.readouterr().out == (
        "The limits of acme are full again, and nothing is owed.\n"
        "Those of its subjects are as they were: --subject fills them, one by one.\n"
    )
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
