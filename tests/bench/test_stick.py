"""What the gateway costs by the stick is said in one line, and as a change only from a tenth on."""

from __future__ import annotations

import pytest

from gateway.bench.processes import raw_upstream
from gateway.bench.works import Requests, Target
from tests.benchmarks import stick
from tests.kit.redis import RedisServer

FOUND = stick.Found(gateway=[8.0, 12.0], relay=[1.0, 1.0])


@pytest.mark.parametrize(
    ("recorded", "line"),
    [
        (None, "an event costs 10.00 × a bare relay's; nothing is recorded"),
        (10.9, "an event costs 10.00 × a bare relay's, as recorded (10.90)"),
        (9.2, "an event costs 10.00 × a bare relay's, as recorded (9.20)"),
        (8.0, "an event costs 10.00 × a bare relay's: 25% MORE than recorded (8.00)"),
        (20.0, "an event costs 10.00 × a bare relay's: 50% less than recorded (20.00)"),
    ],
)
def test_a_change_is_told_from_a_tenth_on(recorded: float | None, line: str) -> None:
    assert stick.said("an event", FOUND, recorded) == line


async def test_gateway_and_relay_answer_the_same_works(redis: RedisServer) -> None:
    few = stick.Measure("few requests", Requests(count=20, connections=2), lambda outcome: outcome.finished)
    async with raw_upstream() as upstream:
        async with stick.whole_gateway(upstream, redis.url, counted=False) as gateway:
            costs = await gateway.cost(few)
        async with stick.bare_relay(upstream, counted=False) as relay:
            assert costs > await relay.cost(few) > 0
    nobody = stick.Asked(Target(port=gateway.target.port), relay.pid)
    with pytest.raises(OSError, match=r"few requests: .*ConnectionRefusedError"):
        await nobody.cost(few)
