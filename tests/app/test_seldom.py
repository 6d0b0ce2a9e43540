"""What tenants have spent, and which credentials expire next: read while somebody looks, and no more often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import orjson
import pytest

from gateway.app.seldom import Seldom
from gateway.credentials.issue import IssuedCredential
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.redis_credentials import RedisCredentials
from gateway.credentials.revocations import Revocation
from gateway.credentials.trust import Trust
from gateway.operations.scopes import Vocabulary
from gateway.operations.table import OperationTable
from gateway.settings.settings import Credentials
from gateway.usage.counters import Counted, Entry
from gateway.usage.ledger import UsageLedger
from gateway.usage.memory_usage import MemoryUsage
from gateway.usage.no_usage import NoUsage
from gateway.usage.reported import Known, Usage
from tests.kit.clock import Clock
from tests.kit.redis import RedisServer

FIRST = datetime(2026, 11, 1, 0, 30, tzinfo=UTC).timestamp()
LATER = datetime(2026, 11, 26, 12, tzinfo=UTC).timestamp()
VOCABULARY: Vocabulary = OperationTable.load().vocabulary


@pytest.fixture
async def trust() -> AsyncIterator[Trust]:
    trusting = Trust(Credentials(), {}, ring=KeyRing.ephemeral(), vocabulary=VOCABULARY)
    await trusting.start()
    yield trusting
    await trusting.close()


def used(ledger: UsageLedger, output: int) -> None:
    """One exchange of the tenant `acme`."""
    counted = Counted("acme", Entry("alice", "gpt-4o", "createChatCompletion"))
    ledger.count(counted, Usage(input=10, output=output, total=10 + output), Known.REPORTED)


async def test_today_and_the_month_are_those_of_utc_and_begin_anew(trust: Trust) -> None:
    clock = Clock(FIRST - 3600)
    ledger = UsageLedger(MemoryUsage(clock=clock), clock=clock)
    seldom = Seldom(ledger=ledger, trust=trust, clock=clock, read_seconds=0)
    used(ledger, 1000)  # still October
    clock.now = FIRST
    used(ledger, 100)
    clock.now = LATER
    used(ledger, 7)

    await seldom.look(["acme", "idle"])
    spent = seldom.used("acme")
    assert spent["today"] == {"requests": 1, "input": 10, "output": 7}
    assert spent["month"] == {"requests": 2, "input": 20, "output": 107}
    assert seldom.used("idle")["today"] == {"requests": 0, "input": 0, "output": 0}

    used(ledger, 1)
    await asyncio.sleep(0.05)
    await seldom.look(["acme"])
    await asyncio.sleep(0.05)
    month = seldom.used("acme")["month"]
    assert month is not None
    assert month["output"] == 108
    assert seldom.used("idle")["today"] is None, "who is not asked for is forgotten"
    await seldom.close()


async def test_who_looks_often_has_it_read_once(trust: Trust) -> None:
    clock = Clock(LATER)
    ledger = UsageLedger(MemoryUsage(clock=clock), clock=clock)
    seldom = Seldom(ledger=ledger, trust=trust, clock=clock)
    await seldom.look(["acme"])
    used(ledger, 7)
    for _ in range(20):
        await seldom.look(["acme"])
        await asyncio.sleep(0.005)

    assert seldom.used("acme")["today"] == {"requests": 0, "input": 0, "output": 0}
    await seldom.close()


async def test_where_nobody_counts_for_all_it_is_not_known(trust: Trust) -> None:
    seldom = Seldom(ledger=UsageLedger(NoUsage()), trust=trust)
    await seldom.look(["acme"])

    assert seldom.used("acme") == {"today": None, "month": None, "read": None}
    assert seldom.credentials is None
    await seldom.close()


def issued(number: int) -> IssuedCredential:
    """One of many; the higher the number, the later it expires."""
    return IssuedCredential(
        id=f"id-{number:04}",
        tenant="acme",
        subject="alice",
        scopes=("models:read",),
        models=None,
        key="k",
        issued_at=1_790_000_000,
        expires_at=4_000_000_000 + number,
    )


async def test_of_the_register_those_that_expire_next_and_are_not_revoked(redis: RedisServer) -> None:
    register = RedisCredentials(redis.url)
    for number in reversed(range(450)):
        await register.register(issued(number))
    for number in (0, 3):
        await register.add(Revocation(credential=f"id-{number:04}", until=4_000_000_000))
    assert [one.id for one in await register.issued(skip=1, most=2)] == ["id-0001", "id-0002"]
    await register.close()

    trusting = Trust(Credentials(), {}, ring=KeyRing.ephemeral(), vocabulary=VOCABULARY, redis_url=redis.url)
    await trusting.start()
    try:
        seldom = Seldom(ledger=UsageLedger(MemoryUsage()), trust=trusting)
        await seldom.look([])
        shown = seldom.credentials or []
        assert [one["id"] for one in shown[:4]] == ["id-0001", "id-0002", "id-0004", "id-0005"]
        assert (len(shown), seldom.more_credentials) == (200, True)
        assert set(shown[0]) == {"tenant", "subject", "id", "expires"}
        await seldom.close()
    finally:
        await trusting.close()


async def test_a_redis_that_is_gone_costs_no_more_than_what_it_knew(redis: RedisServer) -> None:
    trusting = Trust(Credentials(), {}, ring=KeyRing.ephemeral(), vocabulary=VOCABULARY, redis_url=redis.url)
    await trusting.start()
    try:
        seldom = Seldom(ledger=UsageLedger(MemoryUsage()), trust=trusting)
        redis.stop()
        await asyncio.wait_for(seldom.look([]), 5)
        await asyncio.sleep(0.7)
        assert seldom.credentials is None
        await seldom.close()
    finally:
        await trusting.close()


async def test_no_number_that_an_upstream_reports_is_larger_than_can_be_told(trust: Trust) -> None:
    clock = Clock(LATER)
    ledger = UsageLedger(MemoryUsage(clock=clock), clock=clock)
    seldom = Seldom(ledger=ledger, trust=trust, clock=clock)
    for _ in range(3000):
        used(ledger, 2**53)

    await seldom.look(["acme"])
    month = seldom.used("acme")["month"]
    assert month == {"requests": 3000, "input": 30_000, "output": 2**53}
    assert orjson.dumps(month)
    await seldom.close()
