"""What exchanges add to in place is exposed as prometheus_client exposes its own."""

from __future__ import annotations

import random

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from gateway.exchange.instruments import Registry, Spreads, Tallies
from tests.kit.exposition import page_of

BOUNDS = (0.005, 0.1, 1, 2.5, 600)
LABELS = ("tenant", "operation")
STRANGE = ('a"b', "c\\d", "e\nf", "é", "")


def both() -> tuple[CollectorRegistry, Registry]:
    """The same additions, in the order of chance, to prometheus_client's instruments and to ours."""
    disable_created_metrics()
    theirs, ours = CollectorRegistry(auto_describe=True), Registry()
    counter = Counter("gateway_things", "Things, of a\nkind.", LABELS, registry=theirs)
    histogram = Histogram("gateway_seconds", "Seconds.", LABELS, buckets=BOUNDS, registry=theirs)
    tallies = Tallies("gateway_things", "Things, of a\nkind.", LABELS, registry=ours)
    spreads = Spreads("gateway_seconds", "Seconds.", LABELS, bounds=BOUNDS, registry=ours)
    chance = random.Random(3)
    for _ in range(2000):
        labels = (chance.choice(STRANGE), chance.choice(STRANGE))
        amount = chance.choice((0.0, chance.random(), chance.expovariate(0.01), *BOUNDS))
        counter.labels(*labels).inc(amount)
        histogram.labels(*labels).observe(amount)
        tallies.labels(*labels).value += amount
        spreads.labels(*labels).observe(amount)
    return theirs, ours


def test_the_exposition_is_that_of_prometheus_client_to_the_byte() -> None:
    theirs, ours = both()

    assert page_of(ours) == generate_latest(theirs).decode()
    assert page_of(ours, openmetrics=True) == generate_openmetrics(theirs).decode()


def test_a_series_is_made_once() -> None:
    registry = Registry()
    tallies = Tallies("gateway_things", "Things.", LABELS, registry=registry)
    spreads = Spreads("gateway_seconds", "Seconds.", LABELS, bounds=BOUNDS, registry=registry)

    assert tallies.labels("a", "b") is tallies.labels("a", "b")
    assert tallies.labels("a", "b") is not tallies.labels("b", "a")
    assert spreads.labels("a", "b") is spreads.labels("a", "b")
