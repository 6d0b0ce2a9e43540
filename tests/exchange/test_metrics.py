"""Instruments: closed sets of labels, whatever clients send, and what one exchange adds to them."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
import string
from functools import partial

import pytest

from gateway.errors import Ending
from gateway.exchange.exchange import Exchange
from gateway.exchange.metrics import Metrics
from gateway.exchange.tallies import status_class
from gateway.operations.table import NeverUnlisted, NotUnderV1
from gateway.operations.targets import TargetRefused
from gateway.policy.caller import NOBODY, Caller
from gateway.policy.tenants import tenant_policies
from gateway.settings.sources import load
from gateway.usage.counters import TIERS
from gateway.usage.reported import KINDS, Known, Usage
from tests.kit import records
from tests.kit.asking import TABLE
from tests.kit.client import JSON, RawClient
from tests.kit.exposition import page_of
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream

TENANTS = ("acme", "umbrella", "initech")
POLICIES = tenant_policies(load(flags={"tenants": {name: {} for name in TENANTS}}, environ={}), TABLE)
CALLERS = (NOBODY, *(Caller(NOBODY.principal, policy) for policy in POLICIES.values()))
OPERATIONS = {operation.id for operation in TABLE} | {
    "unlisted",
    "none",
    "gatewayMe",
    "gatewayJwks",
    "gatewayUsage",
}
CLOSED = {
    "tenant": {*TENANTS, "other"},
    "operation": OPERATIONS,
    "status": {"none", "1xx", "2xx", "3xx", "4xx", "5xx"},
    "ending": {ending.value for ending in Ending},
    "direction": {"in", "out"},
    "kind": set(KINDS),
    "tier": set(TIERS),
    "known": {known.value for known in Known},
    "le": None,  # the buckets, fixed in the code
}
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def series(metrics: Metrics) -> set[str]:
    """Every series of the gateway's own, without its value."""
    lines = page_of(metrics.registry).splitlines()
    return {line.rsplit(" ", 1)[0] for line in lines if line.startswith("gateway_")}


def word(chance: random.Random) -> str:
    return "".join(
        chance.choices(string.ascii_letters + string.digits + '-_.%/{}"\\\n', k=chance.randint(1, 20))
    )


exchange = partial(records.exchange, operation=TABLE.by_id("createResponse"))


def ended(metrics: Metrics, made: Exchange, now: float = 101.0) -> None:
    metrics.ended(made, made.times(now), True)


def streamed(made: Exchange) -> Exchange:
    """The same with an answer that a model has streamed, and said what it used."""
    made.spent, made.known = True, Known.REPORTED
    made.usage = Usage(input=3, output=4, total=7, tier="flex")
    made.first_byte_at, made.last_piece_at = 100.2, 100.9
    return made


def test_100000_random_exchanges_add_no_series_beyond_the_closed_sets() -> None:
    chance = random.Random(4)
    metrics = Metrics()
    metrics.models.names.configure(["named"])
    operations = [
        *TABLE.operations,
        *(TABLE.match(method, "/v1/brand/new").operation for method in ("GET", "PUT")),
    ]
    # Everything that the closed sets allow in what is seen here.
    for operation, caller in itertools.product(operations, CALLERS):
        for status, ending in ((200, Ending.COMPLETE), (None, Ending.CLIENT_LEFT)):
            ended(metrics, exchange(operation=operation, caller=caller, status=status, ending=ending))
        ended(metrics, streamed(exchange(operation=operation, caller=caller, status=200, model="named")))
        ended(metrics, streamed(exchange(operation=operation, caller=caller, status=200, model="whatever")))
    before = series(metrics)

    unmatched = 0
    words = [word(chance) for _ in range(5000)]
    for number in range(100_000):
        target = f"/v1/{chance.choice(words)}{number}"
        try:
            operation = TABLE.match(chance.choice(words), target).operation
        except (TargetRefused, NotUnderV1, NeverUnlisted):
            unmatched += 1
            operation = chance.choice(operations)
        complete = chance.random() < 0.5
        made = Exchange(
            id="req", method=chance.choice(words), operation=operation, started_at=100.0, started_time=0.0
        )
        made.model = f"{chance.choice(words)}{number}"
        made.caller = chance.choice(CALLERS)
        made.status = chance.randrange(200, 300) if complete else None
        made.ending = Ending.COMPLETE if complete else Ending.CLIENT_LEFT
        if chance.random() < 0.5:
            streamed(made)
        ended(metrics, made, 100.0 + chance.random())

    assert unmatched > 10_000
    assert series(metrics) == before
    assert {
        line for line in before if 'model="' in line and not re.search('model="(named|other)"', line)
    } == set()
    assert any(line.startswith("gateway_output_llm_tokens_per_second_sum") for line in before)


async def test_requests_of_strangers_add_no_series(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Over real sockets: unknown tenants, paths, methods, models and header names, each another one."""
    chance = random.Random(7)
    letters = string.ascii_letters + string.digits

    def name() -> str:
        return "".join(chance.choices(letters, k=12))

    async def ask_strange_things(client: RawClient, rounds: int) -> None:
        for _ in range(rounds):
            client.credential = gateway.credential(tenant=f"t{name()}", subject=name())
            known, client.credential = client.credential, gateway.credential(subject=name())
            requests = (
                (known, "GET", f"/v1/{name()}"),
                (client.credential, name().upper(), f"/v1/{name()}"),
                (client.credential, "GET", f"/v1/models/{name()}"),
                (client.credential, "GET", f"/{name()}"),
                (client.credential, "POST", "/v1/chat/completions"),
                (f"{name()}.{name()}.{name()}", "GET", f"/v1/files/{name()}"),
            )
            for credential, method, target in requests:
                client.credential = credential
                body = b'{"model":"%b"}' % name().encode() if method not in ("GET",) else None
                headers = f"X-{name()}: {name()}\r\n{JSON}"
                await client.send(client.request_bytes(method, target, body, headers=headers))
                if (await client.read_answer()).get("connection") == "close":
                    await client.close()
                    client.reader, client.writer = await asyncio.open_connection(gateway.host, gateway.port)

    async with await RawClient.connect(gateway.host, gateway.port) as client:
        await ask_strange_things(client, 3)
        gateway.app.services.metrics.process.log_lines_withheld.labels(
            "budget"
        )  # so many in a second have no lines
        before = series(gateway.app.services.metrics)
        await ask_strange_things(client, 150)

    assert series(gateway.app.services.metrics) == before
    assert len(upstream.requests) > 150


async def test_scrape_of_everything_that_can_be_is_bounded(gateway: Gateway) -> None:
    metrics = gateway.app.services.metrics
    caller = Caller(NOBODY.principal, gateway.app.services.tenants.policies["acme"])
    for operation in TABLE:
        ended(metrics, exchange(operation=operation, caller=caller, status=200, ending=Ending.COMPLETE))

    scraped = page_of(metrics.registry)

    assert scraped.count("\n") < 100 * len(list(TABLE))


def test_labels_of_every_series_come_from_closed_sets_and_tenant_is_on_counters_only() -> None:
    metrics = Metrics()
    usage = Usage(*range(1, 16))
    words = itertools.cycle((*TIERS, "a new word"))
    for caller, status, ending in itertools.product(CALLERS, (None, 101, 204, 302, 404, 503), Ending):
        made = exchange(
            caller=caller,
            status=status,
            ending=ending,
            usage=usage._replace(tier=next(words)),
            known=Known.ESTIMATED,
            bytes_in=1,
            bytes_out=1,
            first_byte_at=100.5,
        )
        ended(metrics, made, 101.0)

    seen: dict[str, set[str]] = {}
    for line in series(metrics):
        name, _, labels = line.partition("{")
        found = dict(LABEL.findall(labels))
        if "tenant" in found:
            assert name.endswith("_total") or name == "gateway_exchanges_in_flight", line
        for label, value in found.items():
            if name.startswith(
                ("gateway_exchange", "gateway_body", "gateway_usage", "gateway_first", "gateway_over")
            ):
                seen.setdefault(label, set()).add(value)
    assert seen.keys() == CLOSED.keys()
    for label, values in seen.items():
        allowed = CLOSED[label]
        assert allowed is None or values <= allowed, label
    assert seen["status"] == CLOSED["status"]
    assert seen["ending"] == CLOSED["ending"]


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (None, "none"),
        (100, "1xx"),
        (101, "1xx"),
        (200, "2xx"),
        (206, "2xx"),
        (304, "3xx"),
        (429, "4xx"),
        (599, "5xx"),
    ],
)
def test_status_is_its_class(status: int | None, shown: str) -> None:
    assert status_class(status) == shown


def value(metrics: Metrics, line: str) -> float:
    found = [
        text.rsplit(" ", 1)[1]
        for text in page_of(metrics.registry).splitlines()
        if text.rsplit(" ", 1)[0] == line
    ]
    return float(found[0]) if found else 0.0


def test_one_exchange_adds_what_happened_once() -> None:
    metrics = Metrics()
    made = exchange(
        caller=CALLERS[1], status=200, ending=Ending.COMPLETE, bytes_in=10, bytes_out=2000,
        forwarded_at=100.001, first_byte_at=100.4, usage=Usage(input=7, output=5, reasoning=2),
    )  # fmt: skip

    ended(metrics, made, 102.0)

    who = 'tenant="acme"'
    assert (
        value(
            metrics,
            'gateway_exchanges_total{ending="complete",operation="createResponse",status="2xx",tenant="acme"}',
        )
        == 1
    )
    assert value(metrics, f"gateway_exchange_seconds_total{{{who}}}") == pytest.approx(2.0)
    assert value(metrics, f'gateway_body_bytes_total{{direction="in",{who}}}') == 10
    assert value(metrics, f'gateway_body_bytes_total{{direction="out",{who}}}') == 2000
    assert (
        value(metrics, 'gateway_exchange_duration_seconds_bucket{le="1.0",operation="createResponse"}') == 0
    )
    assert (
        value(metrics, 'gateway_exchange_duration_seconds_bucket{le="2.5",operation="createResponse"}') == 1
    )
    assert value(metrics, 'gateway_first_byte_seconds_sum{operation="createResponse"}') == pytest.approx(0.4)
    assert value(metrics, 'gateway_overhead_seconds_sum{operation="createResponse"}') == pytest.approx(0.001)
    assert used_in(metrics, who, "default") == {"input": 7, "output": 5, "reasoning": 2}


def used_in(metrics: Metrics, who: str, tier: str) -> dict[str, float | None]:
    """What a tier served, by kind."""
    used = {
        kind: value(metrics, f'gateway_usage_total{{kind="{kind}",{who},tier="{tier}"}}') for kind in KINDS
    }
    return {kind: amount for kind, amount in used.items() if amount}


def test_usage_is_told_apart_by_the_tier_that_served_in_words_that_are_known() -> None:
    metrics, who = Metrics(), 'tenant="acme"'
    for number, tier in enumerate(("", "default", "flex", "batch", *(f"word-{n}" for n in range(100)))):
        made = exchange(caller=CALLERS[1], status=200, usage=Usage(input=10 + number, tier=tier))
        ended(metrics, made)

    assert used_in(metrics, who, "default") == {"input": 21}
    assert used_in(metrics, who, "flex") == {"input": 12}
    assert used_in(metrics, who, "batch") == {"input": 13}
    assert used_in(metrics, who, "other") == {"input": sum(range(14, 114))}
    assert len([line for line in series(metrics) if line.startswith("gateway_usage_total")]) == 4


def test_exchanges_that_used_something_are_counted_by_what_is_known_of_it() -> None:
    metrics, who = Metrics(), 'tenant="acme"'
    for known, times in ((Known.REPORTED, 3), (Known.ESTIMATED, 2), (Known.UNREPORTED, 1), (None, 5)):
        for _ in range(times):
            ended(metrics, exchange(caller=CALLERS[1], status=200, known=known))

    found = [value(metrics, f'gateway_usage_exchanges_total{{known="{known}",{who}}}') for known in Known]
    assert found == [3, 2, 1]


def test_what_did_not_happen_makes_no_series() -> None:
    metrics = Metrics()
    assert not any("{" in line and "createResponse" in line for line in series(metrics))

    ended(metrics, exchange(status=401, ending=Ending.REFUSED))

    lines = [line for line in series(metrics) if "createResponse" in line]
    assert any('status="4xx",tenant="other"' in line for line in lines)
    assert not any(
        line.startswith(("gateway_body_bytes", "gateway_first_byte", "gateway_usage")) for line in lines
    )


def test_exchange_whose_ending_nobody_knows_is_a_failure() -> None:
    metrics = Metrics()

    ended(metrics, exchange())

    assert any('ending="failed"' in line and 'status="none"' in line for line in series(metrics))


def test_two_gateways_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()

    ended(one, exchange(status=200, ending=Ending.COMPLETE))

    assert series(one) != series(other)
