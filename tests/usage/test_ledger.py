"""Usage is counted once, per hour and day, whatever the store does; reports add up."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import redis as library
from hypothesis import given
from hypothesis import strategies as st

from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import account_key
from gateway.usage.counters import (
    COUNTERS,
    DAY_SECONDS,
    DAYS_KEPT_SECONDS,
    HOUR_SECONDS,
    HOURS_KEPT_SECONDS,
    MOST_ENTRIES,
    Batch,
    Counted,
    Entry,
    Period,
    Row,
    UsageStore,
    named,
    periods_since,
)
from gateway.usage.ledger import UsageLedger
from gateway.usage.memory_usage import MemoryUsage
from gateway.usage.redis_usage import RedisUsage
from gateway.usage.redis_wire import UsageWire
from gateway.usage.report import GROUPS, Question, Report, TooManyRows, document, figures
from gateway.usage.reported import Known, Usage
from tests.conftest import StartGateway
from tests.kit.asking import ask, error_of
from tests.kit.client import JSON
from tests.kit.clock import Clock
from tests.kit.gateway import BY_NAME
from tests.kit.redis import RedisServer, running_cluster, running_redis
from tests.kit.waiting import until

ALICE = Entry("alice", "gpt-4o", "createChatCompletion")
BOB = Entry("bob", "", "listModels")
NOON = datetime(2026, 11, 22, 12, 30, tzinfo=UTC).timestamp()
HOUR = Period.around(NOON, HOUR_SECONDS)
DAY = Period.around(NOON, DAY_SECONDS)
INPUT = COUNTERS.index("input")
EVERYTHING = Usage(
    input=1,
    cached_input=2,
    output=3,
    input_audio=4,
    output_audio=5,
    images=6,
    audio_seconds=7.25,
    characters=8,
    estimated=True,
)


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest, redis: RedisServer) -> AsyncIterator[UsageStore]:
    """Either store, empty."""
    redis.command("FLUSHALL")
    made: UsageStore = (
        MemoryUsage(clock=lambda: NOON)
        if request.param == "memory"
        else RedisUsage(UsageWire(redis.unix_url))
    )
    yield made
    await made.close()


async def rows_of(
    source: UsageLedger | UsageStore, tenant: str, periods: Sequence[Period], *, subject: str | None = None
) -> list[Row]:
    """All at once what is read in bites."""
    return [row async for rows in source.read(tenant, periods, subject=subject) for row in rows]


def named_counts(row: Row) -> dict[str, int]:
    return {name: amount for name, amount in zip(COUNTERS, row.counts, strict=True) if amount}


async def test_every_counter_is_kept_per_hour_and_day(store: UsageStore) -> None:
    ledger = UsageLedger(store, clock=lambda: NOON)
    for _ in range(2):
        ledger.count(Counted("acme", ALICE), EVERYTHING, Known.ESTIMATED, bytes_in=9, bytes_out=10)
    ledger.count(Counted("acme", BOB), None, None, bytes_out=11)
    ledger.count(Counted("other", BOB), None, None)
    for period in (HOUR, DAY):
        rows = {row.entry: named_counts(row) for row in await rows_of(ledger, "acme", [period])}
        assert rows == {
            ALICE: {
                "requests": 2,
                "input": 2,
                "cached_input": 4,
                "output": 6,
                "input_audio": 8,
                "output_audio": 10,
                "images": 12,
                "milliseconds": 14_500,
                "characters": 16,
                "bytes_in": 18,
                "bytes_out": 20,
                "estimated": 2,
            },
            BOB: {"requests": 1, "bytes_out": 11},
        }
    assert await rows_of(ledger, "nobody", [HOUR, DAY]) == []
    assert await rows_of(ledger, "acme", []) == []


async def test_who_is_counted_again_and_again_is_counted_in_the_hour_it_is(store: UsageStore) -> None:
    """Whatever was told meanwhile, also where the clock is put back."""
    clock = Clock(NOON)
    ledger, alice = UsageLedger(store, clock=clock), Counted("acme", ALICE)
    for number, hour in enumerate((0, 0, 1, 0, 1, 1, 2)):
        clock.now = NOON + hour * HOUR_SECONDS
        ledger.count(alice, Usage(input=10**number), Known.REPORTED)
        ledger.count(Counted("acme", ALICE), None, None)
        if number % 2:
            await ledger.flush()
    hours = [Period(HOUR.start + hour * HOUR_SECONDS, HOUR_SECONDS) for hour in range(3)]

    rows = await rows_of(ledger, "acme", hours)

    assert [(row.counts[0], row.counts[INPUT]) for row in rows] == [(6, 1011), (6, 110_100), (2, 1_000_000)]


async def test_hours_of_a_day_add_up_to_it(store: UsageStore) -> None:
    clock = Clock(NOON)
    ledger = UsageLedger(store, clock=clock)
    for hour in range(3):
        clock.now = NOON + hour * HOUR_SECONDS
        ledger.count(Counted("acme", ALICE), Usage(input=10**hour), Known.REPORTED)
        await ledger.flush()
    hours = [Period(HOUR.start + hour * HOUR_SECONDS, HOUR_SECONDS) for hour in range(3)]
    assert [(row.period, row.counts[INPUT]) for row in await rows_of(ledger, "acme", hours)] == [
        (hour, 10**n) for n, hour in enumerate(hours)
    ]
    assert [row.counts[INPUT] for row in await rows_of(ledger, "acme", [DAY])] == [111]


async def test_part_of_an_exchange_is_no_request(store: UsageStore) -> None:
    ledger = UsageLedger(store, clock=lambda: NOON)
    ledger.count(Counted("acme", ALICE), Usage(output=5), Known.REPORTED, requests=0)
    ((row),) = await rows_of(ledger, "acme", [HOUR])
    assert named_counts(row) == {"output": 5}


@pytest.mark.parametrize("name", ["ä\n:{}", '","', "x" * 500, "\ud83d", "日" * 200])
async def test_names_of_any_kind_are_kept(store: UsageStore, name: str) -> None:
    ledger = UsageLedger(store, clock=lambda: NOON)
    entry = Entry(named(name), named(name), "op")
    ledger.count(Counted("acme", entry), None, None)
    assert [row.entry for row in await rows_of(ledger, "acme", [HOUR])] == [entry]
    assert len(entry.subject) <= 256


async def test_too_many_names_are_counted_together(store: UsageStore) -> None:
    names = 30_000
    ledger = UsageLedger(store, clock=lambda: NOON)
    for number in range(names):
        ledger.count(Counted("acme", Entry("alice", f"model-{number}", "op")), Usage(input=1), Known.REPORTED)
        if number % 3000 == 2999:
            await ledger.flush()
    rows = await rows_of(ledger, "acme", [DAY])
    assert sum(row.counts[0] for row in rows) == names
    assert len(rows) == MOST_ENTRIES + 1
    assert max(rows, key=lambda row: row.counts[0]).entry == Entry("other", "other", "op")


async def test_memory_forgets_what_is_older_than_it_keeps() -> None:
    clock = Clock(NOON)
    ledger = UsageLedger(MemoryUsage(clock=clock), clock=clock)
    ledger.count(Counted("acme", ALICE), None, None)
    assert len(await rows_of(ledger, "acme", [HOUR, DAY])) == 2
    for later, left in ((HOURS_KEPT_SECONDS, 1), (DAYS_KEPT_SECONDS, 0)):
        clock.now = NOON + later + DAY_SECONDS
        ledger.count(Counted("acme", ALICE), None, None)
        await ledger.flush()
        assert len(await rows_of(ledger, "acme", [HOUR, DAY])) == left


async def test_redis_keeps_counters_no_longer_than_they_are_asked_for(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    store = RedisUsage(UsageWire(redis.url, deadline_seconds=2))
    await store.add(Batch("b", "acme", HOUR, [(ALICE, [1] * len(COUNTERS))]))
    await store.close()
    place = f"gateway:{account_key('acme')}:usage"
    for key, seconds in (
        (f"hour:{HOUR.start}", HOURS_KEPT_SECONDS),
        (f"day:{DAY.start}", DAYS_KEPT_SECONDS),
        ("batch:b", 120),
    ):
        left = int(redis.command("TTL", f"{place}:{key}").strip()[1:])
        assert seconds - 5 <= left <= seconds


async def test_what_a_tier_has_stands_beside_the_whole_which_earlier_versions_read(
    redis: RedisServer,
) -> None:
    redis.command("FLUSHALL")
    ledger = UsageLedger(RedisUsage(UsageWire(redis.url, deadline_seconds=2)), clock=lambda: NOON)
    for tier, amount in (("", 1), ("flex", 10), ("batch", 100)):
        ledger.count(Counted("acme", ALICE._replace(tier=tier)), Usage(input=amount), Known.REPORTED)
    ledger.count(Counted("acme", ALICE), Usage(input=-11), None, requests=0)
    rows = {row.entry.tier: named_counts(row) for row in await rows_of(ledger, "acme", [HOUR])}
    await ledger.close()
    one = {"requests": 1, "reported": 1}
    assert rows == {"": {**one, "input": -10}, "flex": {**one, "input": 10}, "batch": {**one, "input": 100}}
    with library.Redis(port=redis.port) as client:
        fields = client.hgetall(f"gateway:{account_key('acme')}:usage:hour:{HOUR.start}")
    place = b'["alice","gpt-4o","createChatCompletion"]:'
    assert {name: int(fields[place + name]) for name in (b"requests", b"input", b"input@flex")} == {
        b"requests": 3,
        b"input": 100,
        b"input@flex": 10,
    }
    assert {name.partition(b"]:")[0] + b"]:" for name in fields.keys() - {b"entries"}} == {place}
    assert fields[b"entries"] == b"1"


async def test_batch_that_is_told_again_counts_once(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    store = RedisUsage(UsageWire(redis.url, deadline_seconds=2))
    batch = Batch("b", "acme", HOUR, [(ALICE, [1] * len(COUNTERS)), (BOB, [2] * len(COUNTERS))])
    for _ in range(3):
        await store.add(batch)
    rows = await rows_of(store, "acme", [HOUR, DAY])
    await store.close()
    assert sorted(row.counts[0] for row in rows) == [1, 1, 2, 2]


async def test_outage_delays_counters_and_loses_none(redis: RedisServer) -> None:
    """The server freezes with a batch on its way, and answers again; nothing is lost, nothing counted twice."""
    redis.command("FLUSHALL")
    lost: list[int] = []
    ledger = UsageLedger(
        RedisUsage(UsageWire(redis.url, deadline_seconds=0.1)), lost=lost.append, clock=lambda: NOON
    )
    for _ in range(5):
        ledger.count(Counted("acme", ALICE), Usage(input=1), Known.REPORTED)
    await ledger.flush()
    redis.freeze()
    try:
        for _ in range(7):
            ledger.count(Counted("acme", ALICE), Usage(input=1), Known.REPORTED)
            await ledger.flush()
        assert ledger.waiting == 7
        with pytest.raises(StoreUnavailable):
            await rows_of(ledger, "acme", [HOUR])
    finally:
        redis.thaw()
    async with asyncio.timeout(5):
        while ledger.waiting:
            await ledger.flush()
            await asyncio.sleep(0.05)
    rows = await rows_of(ledger, "acme", [HOUR, DAY])
    assert [(row.counts[0], row.counts[INPUT]) for row in rows] == [(12, 12)] * 2
    await ledger.close()
    assert lost == []


async def test_server_that_is_gone_delays_counters_until_it_is_back() -> None:
    with running_redis() as server:
        ledger = UsageLedger(RedisUsage(UsageWire(server.url, deadline_seconds=0.2)), clock=lambda: NOON)
        await ledger.start()
        server.stop()
        for _ in range(10):
            ledger.count(Counted("acme", ALICE), Usage(input=1), Known.REPORTED)
            await ledger.flush()
        server.start()
        await until(lambda: not ledger.waiting)
        assert [row.counts[0] for row in await rows_of(ledger, "acme", [HOUR])] == [10]
        await ledger.close()


async def test_what_no_store_took_is_said_to_be_lost() -> None:
    lost: list[int] = []
    ledger = UsageLedger(RedisUsage(UsageWire("redis://127.0.0.1:9/0")), lost=lost.append)
    await ledger.start()
    for _ in range(3):
        ledger.count(Counted("acme", ALICE), None, None)
    began = time.monotonic()
    await ledger.close()
    assert time.monotonic() - began < 2
    assert sum(lost) == 3


async def test_usage_that_was_said_later_and_no_store_took_is_said_to_be_lost() -> None:
    lost: list[int] = []
    ledger = UsageLedger(RedisUsage(UsageWire("redis://127.0.0.1:9/0")), lost=lost.append)
    ledger.count(Counted("acme", ALICE), Usage(input=50_000_000), Known.REPORTED, requests=0)
    await ledger.close()
    assert sum(lost) == 1


async def test_what_is_given_up_while_no_store_listens_is_said_to_be_lost_and_nothing_else() -> None:
    lost: list[int] = []
    clock, alice = Clock(NOON), Counted("acme", ALICE)
    ledger = UsageLedger(RedisUsage(UsageWire("redis://127.0.0.1:9/0")), lost=lost.append, clock=clock)
    for number in range(1500):
        ledger.count(alice, None, None)
        ledger.count(Counted(f"tenant-{number}", ALICE), None, None)

    assert sum(lost) > 0
    assert sum(lost) + ledger.waiting == 3000
    await ledger.close()


async def test_what_was_given_up_is_said_where_it_is_missing(store: UsageStore) -> None:
    """Beside what came later: a report without it would be short, and nobody would know."""
    clock, alice = Clock(NOON), Counted("acme", ALICE)
    ledger = UsageLedger(store, clock=clock)
    for _ in range(3):
        ledger.count(alice, Usage(input=5), Known.REPORTED)
    clock.now += HOUR_SECONDS
    ledger.count(alice, Usage(input=7), Known.REPORTED)
    for number in range(999):
        ledger.count(Counted(f"tenant-{number}", BOB), None, None)

    assert await rows_of(ledger, "acme", [HOUR]) == []
    ((row),) = await rows_of(ledger, "acme", [Period(HOUR.start + HOUR_SECONDS, HOUR_SECONDS)])
    assert named_counts(row) == {"requests": 1, "reported": 1, "input": 7, "lost": 3}
    question, report = Question(DAY_SECONDS, ("model",)), Report(["model"])
    report.add([row])
    (note,) = document(question, report, tenant="acme", now=clock.now)["notes"]
    assert note.startswith("Up to 3 more requests are missing")


async def test_telling_of_many_tenants_lets_others_have_their_turn() -> None:
    turn, told = 0, Counter[int]()

    class Noting(MemoryUsage):
        async def add(self, batch: Batch) -> None:
            told[turn] += 1
            await super().add(batch)

    ledger = UsageLedger(Noting(), clock=lambda: NOON)
    for number in range(500):
        ledger.count(Counted(f"tenant-{number}", ALICE), None, None)
    telling = asyncio.create_task(ledger.flush())
    while not telling.done():
        await asyncio.sleep(0)
        turn += 1

    assert (ledger.waiting, told.total()) == (0, 500)
    assert max(told.values()) <= 32


async def test_counting_costs_no_round_trip_and_flushing_one_write(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    ledger = UsageLedger(RedisUsage(UsageWire(redis.url, deadline_seconds=2)), clock=lambda: NOON)
    ledger.count(Counted("acme", ALICE), None, None)
    await ledger.flush()
    redis.command("CONFIG", "RESETSTAT")
    for number in range(1000):
        ledger.count(Counted(f"tenant-{number % 10}", ALICE), Usage(input=1), Known.REPORTED)
    assert "evalsha:calls" not in redis.command("INFO", "commandstats")
    await ledger.flush()
    assert "evalsha:calls=10," in redis.command("INFO", "commandstats")
    await ledger.close()


async def test_ledger_tells_by_itself_within_moments(redis: RedisServer) -> None:
    redis.command("FLUSHALL")
    ledger, reader = (
        UsageLedger(RedisUsage(UsageWire(redis.url, deadline_seconds=2)), clock=lambda: NOON),
        RedisUsage(UsageWire(redis.url, deadline_seconds=2)),
    )
    await ledger.start()
    ledger.count(Counted("acme", ALICE), None, None)
    async with asyncio.timeout(2):
        while not await rows_of(reader, "acme", [HOUR]):
            await asyncio.sleep(0.02)
    ledger.count(Counted("acme", ALICE), None, None)
    await ledger.close()
    assert [row.counts[0] for row in await rows_of(reader, "acme", [HOUR])] == [2], "closing tells the rest"
    await reader.close()


async def test_cluster_keeps_a_tenant_in_one_slot() -> None:
    with running_cluster() as nodes:
        ledger = UsageLedger(
            RedisUsage(UsageWire(f"redis+cluster://127.0.0.1:{nodes[0].port}", deadline_seconds=2)),
            clock=lambda: NOON,
        )
        for number in range(20):
            ledger.count(Counted(f"tenant-{number}", ALICE), Usage(input=number), Known.REPORTED)
        await ledger.flush()
        assert ledger.waiting == 0
        for number in range(20):
            rows = await rows_of(ledger, f"tenant-{number}", [HOUR, DAY])
            assert [row.counts[INPUT] for row in rows] == [number] * 2
        await ledger.close()


# Reports


@given(since_hours=st.integers(0, 24 * 450), minutes=st.integers(0, 24 * 60 - 1), hourly=st.booleans())
def test_periods_cover_the_time_once(since_hours: int, minutes: int, hourly: bool) -> None:
    now = DAY.start + minutes * 60.0
    since = now - since_hours * HOUR_SECONDS
    periods = periods_since(since, now, hourly=hourly)
    for before, after in itertools.pairwise(periods):
        assert before.start + before.seconds == after.start
    first, last = periods[0], periods[-1]
    assert last.start <= now < last.start + last.seconds
    hours = [period for period in periods if period.seconds == HOUR_SECONDS]
    assert all(period.start > now - HOURS_KEPT_SECONDS for period in hours)
    assert not hourly or hours == periods
    if since_hours < 24 * 8 - 1:
        assert first.start <= since < first.start + first.seconds
    if not hourly:
        assert len(periods) <= 402 + 23
        assert first.start <= since or since_hours >= 24 * 400


def row(hour: int, subject: str, model: str, requests: int, *, seconds: int = HOUR_SECONDS) -> Row:
    return Row(
        Period(DAY.start + hour * HOUR_SECONDS, seconds),
        Entry(subject, model, "op"),
        [requests, *[0] * (len(COUNTERS) - 1)],
    )


def test_report_shows_the_largest_in_their_order_and_adds_all_up() -> None:
    report = Report(["hour", "model"])
    report.add(row(number % 3, "a", f"m{number}", number) for number in range(1, 31))

    shown = [(found["hour"], found["requests"]) for found in report.rows(largest=4)]
    assert [requests for _, requests in shown] == [30, 27, 28, 29]
    assert shown == sorted(shown, key=lambda one: str(one[0]))
    assert report.total()["requests"] == 465


def test_report_adds_up_so_many_rows_and_no_more() -> None:
    report = Report(["model"], most=3)
    report.add(row(0, "a", f"m{number % 3}", 1) for number in range(9))
    with pytest.raises(TooManyRows):
        report.add([row(0, "a", "another", 1)])


def test_report_groups_and_adds_up() -> None:
    rows = [row(0, "a", "x", 1), row(1, "a", "y", 2), row(1, "b", "x", 4), row(30, "b", "x", 8)]

    def added_up(*by: str) -> Report:
        report = Report(by)
        report.add(rows)
        return report

    def requests(*by: str) -> list[tuple[Any, ...]]:
        return [(*(found[group] for group in by), found["requests"]) for found in added_up(*by).rows()]

    assert requests("model") == [("x", 13), ("y", 2)]
    assert requests("subject") == [("b", 12), ("a", 3)]
    assert requests("subject", "model") == [("b", "x", 12), ("a", "y", 2), ("a", "x", 1)]
    assert requests() == [(15,)]
    assert requests("day") == [("2026-11-22T00:00:00Z", 7), ("2026-11-23T00:00:00Z", 8)]
    assert requests("hour", "model") == [
        ("2026-11-22T00:00:00Z", "x", 1),
        ("2026-11-22T01:00:00Z", "x", 4),
        ("2026-11-22T01:00:00Z", "y", 2),
        ("2026-11-23T06:00:00Z", "x", 8),
    ]
    assert added_up("model").total()["requests"] == 15
    assert figures([1] * len(COUNTERS))["audio_seconds"] == 0.001


@pytest.mark.parametrize(
    ("since", "by"), [("7", ""), ("7y", ""), ("-1d", ""), ("0d", ""), ("7d", "tenant"), ("", "model")]
)
def test_question_that_makes_no_sense_says_what_would(since: str, by: str) -> None:
    with pytest.raises(ValueError, match=r"is not a duration such as|is none of hour, day"):
        Question.read(since, by)


def test_question_is_read() -> None:
    assert Question.read("2w", "model,hour,model") == Question(14 * DAY_SECONDS, ("model", "hour"))
    assert Question.read("45s", "").by == ()
    assert set(Question.read("1d", ",".join(GROUPS)).by) == set(GROUPS)


# GET /gateway/usage


async def test_tenant_reads_its_own_usage_and_nobody_elses(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(tenants={name: {"scopes": ["*", *BY_NAME]} for name in ("acme", "beta")})
    for _ in range(3):
        await ask(gateway, "POST", "/v1/chat/completions", {"model": "gpt-4o", "messages": []})
    await ask(gateway, "GET", "/v1/models", tenant="beta", subject="eve")
    answer = await ask(gateway, "GET", "/gateway/usage")
    assert answer.status == 200
    assert answer.get("cache-control") == "no-store"
    document = orjson.loads(answer.body)
    assert (document["object"], document["tenant"]) == ("gateway.usage", "acme")
    ((data),) = document["data"]
    assert (data["model"], data["requests"]) == ("gpt-4o", 3)
    assert document["total"]["requests"] == 3
    document = orjson.loads(
        (await ask(gateway, "GET", "/gateway/usage?since=1h&by=subject,operation", tenant="beta")).body
    )
    assert [(data["subject"], data["operation"], data["requests"]) for data in document["data"]] == [
        ("eve", "listModels", 1)
    ]
    assert (await ask(gateway, "GET", "/gateway/usage", credential="no")).status == 401


@pytest.mark.parametrize("query", ["since=ever", "by=tenant", "tenant=beta"])
async def test_question_that_cannot_be_answered_is_refused(start_gateway: StartGateway, query: str) -> None:
    gateway = await start_gateway()
    answer = await ask(gateway, "GET", f"/gateway/usage?{query}")
    assert (answer.status, error_of(answer)["code"]) == (400, "bad_request")


async def test_usage_that_nobody_can_read_now_is_no_empty_usage(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(redis_url="redis://127.0.0.1:9/0")
    await ask(gateway, "GET", "/v1/models")
    answer = await ask(gateway, "GET", "/gateway/usage")
    assert (answer.status, error_of(answer)["code"]) == (503, "limits_unavailable")
    assert gateway.metric("gateway_usage_waiting") == 1


async def test_asking_for_usage_is_no_usage(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(limits={"max_requests_per_1_day": 1})
    client = await gateway.connect()
    for _ in range(3):
        answer = await client.request("GET", "/gateway/usage", headers=JSON)
        assert orjson.loads(answer.body)["data"] == []
