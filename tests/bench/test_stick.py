"""What the gateway costs by the stick is said in one line, and as a change only from a tenth on."""

from __future__ import annotations

import os

import pytest

from gateway.bench.processes import raw_upstream
from gateway.bench.works import Requests, Target
from tests.benchmarks import stick
from tests.kit.redis import RedisServer

FOUND = stick.Found(gateway=[8.0, 12.0], relay=[1.0, 1.0])


@pytest.mark.parametrize(
    ("recorded", "line"),
    [
        (None, "an event costs 10.00 × a bare relay's (8.00–12.00); nothing is recorded"),
        (10.9, "an event costs 10.00 × a bare relay's (8.00–12.00), as recorded (10.90)"),
        (9.2, "an event costs 10.00 × a bare relay's (8.00–12.00), as recorded (9.20)"),
        (8.0, "an event costs 10.00 × a bare relay's (8.00–12.00): 25% MORE than recorded (8.00)"),
        (20.0, "an event costs 10.00 × a bare relay's (8.00–12.00): 50% less than recorded (20.00)"),
    ],
)
def test_a_change_is_told_from_a_tenth_on(recorded: float | None, line: str) -> None:
    assert stick.said("an event", FOUND, recorded) == line


async def test_gateway_and_relay_answer_the_same_works(redis: RedisServer) -> None:
    few = stick.Measure("few requests", Requests(count=20, connections=2), lambda outcome: outcome.finished)
    async with raw_upstream() as upstream:
        async with stick.whole_gateway(upstream, redis.url, None) as gateway:
            assert await gateway.cost(few) > 0
        async with stick.bare_relay(upstream, None) as relay:
            assert await relay.cost(few) > 0
            assert os.sched_getaffinity(relay.pid) == os.sched_getaffinity(0)
    nobody = stick.Measured(Target(port=gateway.target.port), relay.pid)
    with pytest.raises(OSError, match=r"few requests: .*ConnectionRefusedError"):
        await nobody.cost(few)
