"""GET /gateway/usage: one's own, the tenant's for who may see it, and never more than can be answered in passing."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from functools import partial
from operator import sub
from typing import Any

import orjson
import pytest

from gateway.usage.counters import HOUR_SECONDS, Counted, Entry
from gateway.usage.ledger import UsageLedger
from gateway.usage.redis_usage import RedisUsage
from gateway.usage.redis_wire import UsageWire
from gateway.usage.reported import Known, Usage
from tests.conftest import StartGateway
from tests.kit.asking import ask, error_of, verdict
from tests.kit.client import RawClient
from tests.kit.gateway import Gateway
from tests.kit.redis import RedisServer


@pytest.fixture(params=["memory", "redis"])
async def gateway(
    request: pytest.FixtureRequest, start_gateway: StartGateway, redis: RedisServer
) -> AsyncIterator[Gateway]:
    """A gateway that counts in either store."""
    yield await start_gateway(**({"redis_url": redis.url} if request.param == "redis" else {}))


def count(gateway: Gateway, entries: Iterable[Entry], *, tenant: str = "acme") -> None:
    """Have these counted as requests that were answered."""
    for number, entry in enumerate(entries, 1):
        gateway.app.services.ledger.count(Counted(tenant, entry), Usage(input=number), Known.REPORTED)


async def usage(gateway: Gateway, query: str = "", **named: Any) -> dict[str, Any]:
    answer = await ask(gateway, "GET", f"/gateway/usage{query}", **named)
    assert answer.status == 200, answer.body
    said = orjson.loads(answer.body)
    assert isinstance(said, dict)
    return said


async def test_what_a_process_remembers_is_said_to_begin_with_it(start_gateway: StartGateway) -> None:
    began = time.time()
    said = await usage(await start_gateway())

    (note,) = said["notes"]
    since = re.search(r"since (\S+Z)", note)
    assert since is not None and "memory of this process" in note
    assert abs(datetime.fromisoformat(since[1]).timestamp() - began) < 30
    assert said["since"] < since[1]


class TestWhose:
    async def test_subject_sees_its_own_and_its_total_is_its_own(self, gateway: Gateway) -> None:
        count(
            gateway,
            [Entry("alice", "m1", "op"), Entry("bob", "secret-model", "op"), Entry("alice", "m2", "op")],
        )

        for query in ("", "?by=subject,model", "?by=operation", "?by=", "?by=hour&since=2h"):
            said = await usage(gateway, query, subject="alice", scopes=["models:read"])
            assert said["subject"] == "alice"
            assert (said["total"]["requests"], said["total"]["input"]) == (2, 4)
            assert sum(row["requests"] for row in said["data"]) == 2
            assert query != "?by=" or (len(said["data"]), said["by"]) == (1, []), "as the command has it"
            assert "bob" not in str(said) and "secret" not in str(said)

    async def test_who_may_sees_everybodys(self, gateway: Gateway) -> None:
        count(gateway, [Entry("alice", "m1", "op"), Entry("bob", "m2", "op")])

        said = await usage(gateway, "?by=subject", subject="carol", scopes=["usage:read"])

        assert "subject" not in said
        assert {row["subject"] for row in said["data"]} == {"alice", "bob"}
        assert said["total"]["requests"] == 2

    async def test_of_another_tenant_nobody_sees_anything(self, gateway: Gateway) -> None:
        count(gateway, [Entry("alice", "m1", "op")], tenant="rival")

        said = await usage(gateway, "?by=subject", subject="alice")

        assert said["total"]["requests"] == 0

    async def test_subject_whose_name_begins_like_anothers_sees_nothing_of_it(self, gateway: Gateway) -> None:
        long = "x" * 255
        names = ["al", "alice", "alice2", 'alice","', long + "a", long + "b", "ä"]
        count(gateway, [Entry(name, "m", "op") for name in names])

        for number, name in enumerate(names, 1):
            said = await usage(gateway, "?by=subject", subject=name, scopes=["models:read"])
            assert [(row["subject"], row["input"]) for row in said["data"]] == [(name, number)]

    async def test_subject_called_other_does_not_see_what_is_counted_together(self, gateway: Gateway) -> None:
        count(gateway, [Entry("other", "other", "op"), Entry("other", "m", "op")])

        said = await usage(gateway, "?by=subject,model", subject="other", scopes=["models:read"])

        assert [row["model"] for row in said["data"]] == ["m"]

    async def test_scope_counts_as_far_as_the_tenant_has_it(self, start_gateway: StartGateway) -> None:
        gateway = await start_gateway(tenants={"acme": {"scopes": ["*"]}, "open": {}})
        for tenant in ("acme", "open"):
            count(gateway, [Entry("alice", "m", "op")], tenant=tenant)

        totals = [
            (await usage(gateway, tenant=tenant, scopes=["usage:read"]))["total"]["requests"]
            for tenant in ("acme", "open")
        ]

        assert totals == [0, 1]


class TestSize:
    async def test_largest_rows_are_shown_and_a_note_says_so(self, gateway: Gateway) -> None:
        count(gateway, [Entry("alice", f"m{number}", "op") for number in range(3000)])

        said = await usage(gateway)

        assert len(said["data"]) == 1000
        assert {row["input"] for row in said["data"]} == set(range(2001, 3001)), "the largest"
        assert said["total"]["requests"] == 3000, "all of them"
        assert "1000 of 3000" in said["notes"][0]
        assert not any("rows" in note for note in (await usage(gateway, "?by=operation"))["notes"])

    async def test_a_great_deal_is_read_in_bites_while_others_are_served(
        self, start_gateway: StartGateway, redis: RedisServer
    ) -> None:
        """No step of Redis takes the whole of it, and what would be too many rows to add up is refused."""
        gateway = await start_gateway(redis_url=redis.url, limits={"max_requests_per_1_day": 10_000})
        now = time.time()
        for hour in range(1, 4):
            ledger = UsageLedger(
                RedisUsage(UsageWire(redis.url, deadline_seconds=5)),
                clock=partial(sub, now, hour * HOUR_SECONDS),
            )
            for number in range(9000):
                ledger.count(Counted("acme", Entry(f"s{number}", "m", "op")), Usage(input=1), Known.REPORTED)
            await ledger.close()
        redis.command("CONFIG", "RESETSTAT")
        asking = asyncio.create_task(usage(gateway, "?since=6h&by=hour"))
        served = 0
        async with await RawClient.connect(gateway.host, gateway.port, gateway.credential()) as client:
            while not asking.done():
                served += (await client.request("GET", "/v1/models")).status == 200
                await asyncio.sleep(0.01)

        said = await asking
        assert said["total"]["requests"] >= 27_000
        assert [row["requests"] for row in said["data"]][:3] == [9000] * 3
        assert served >= 10
        scans = re.search(r"cmdstat_hscan:calls=(\d+)", redis.command("INFO", "commandstats"))
        assert scans is not None and int(scans[1]) > 27_000 * 2 / 150
        answer = await ask(gateway, "GET", "/gateway/usage?since=6h&by=subject,hour")
        assert verdict(answer) == (400, "bad_request")
        assert "shorter" in error_of(answer)["message"]


class TestPermits:
    async def test_one_credential_asks_sixty_times_a_minute(self, start_gateway: StartGateway) -> None:
        gateway = await start_gateway()
        credential = gateway.credential()
        async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
            answers = [
                await client.request("GET", ("/gateway/me", "/gateway/usage")[number % 2])
                for number in range(64)
            ]

        assert [answer.status for answer in answers[:60]] == [200] * 60
        refused = answers[-1]
        assert verdict(refused) == (429, "rate_limit_exceeded")
        assert error_of(refused)["type"] == "requests"
        assert int(refused.get("retry-after") or 0) >= 1
        assert refused.get("x-gateway-request-id")
        assert (await ask(gateway, "GET", "/gateway/me")).status == 200, "another credential"
        assert (await ask(gateway, "GET", "/v1/models", credential=credential)).status == 200

    @pytest.mark.parametrize("on_store_failure", ["local", "open", "closed"])
    async def test_they_hold_while_the_store_is_gone(
        self, start_gateway: StartGateway, on_store_failure: str
    ) -> None:
        gateway = await start_gateway(
            redis_url="redis://127.0.0.1:9/0",
            on_store_failure=on_store_failure,
            limits={"max_requests_per_1_day": 5},
        )
        async with await RawClient.connect(gateway.host, gateway.port, gateway.credential()) as client:
            statuses = [(await client.request("GET", "/gateway/me")).status for _ in range(64)]

        assert statuses[:60] == [200] * 60
        assert statuses[-1] == 429

    async def test_public_keys_are_for_everybody_as_often_as_they_like(
        self, start_gateway: StartGateway
    ) -> None:
        gateway = await start_gateway()
        async with await RawClient.connect(gateway.host, gateway.port) as client:
            answers = [await client.request("GET", "/.well-known/jwks.json") for _ in range(100)]

        assert {answer.status for answer in answers} == {200}
        assert len({answer.body for answer in answers}) == 1
