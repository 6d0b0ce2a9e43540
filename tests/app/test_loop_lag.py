"""How late the loop is, is measured and shown."""

from __future__ import annotations

import asyncio
import time

from tests.conftest import StartGateway


async def test_blocked_loop_shows_in_the_metrics(start_gateway: StartGateway) -> None:
    gateway = await start_gateway()
    await asyncio.sleep(0.1)
    before = gateway.metric('gateway_event_loop_lag_seconds_bucket{le="0.25",worker="0"}')
    assert before > 0

    time.sleep(0.4)
    await asyncio.sleep(0.1)

    assert gateway.metric('gateway_event_loop_lag_max_seconds{worker="0"}') >= 0.3
    late = gateway.metric('gateway_event_loop_lag_seconds_count{worker="0"}') - gateway.metric(
        'gateway_event_loop_lag_seconds_bucket{le="0.25",worker="0"}'
    )
    assert late >= 1
