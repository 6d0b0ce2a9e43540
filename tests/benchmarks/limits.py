"""What limiting costs: CPU microseconds and latency of an exchange's admission and settlement.

    python -m tests.benchmarks.limits [--seconds 2]

Each row runs over the store itself and through the limiter, alone (one exchange after another) and with 64
exchanges at a time, over memory and over a real Redis on a Unix socket. `cpu` is this process' own time per
exchange; `redis` is the server's; `p50` and `p99` are the latency of an admission. One quota: requests per
minute, nothing to settle. Five quotas: requests and tokens per minute and day and a slot, settled at once.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import time
from collections.abc import Sequence
from contextlib import closing

import uvloop

from gateway.limits.limiter import Limiter
from gateway.limits.memory_buckets import MemoryBuckets
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import BucketStore
from gateway.limits.terms import Charge, Dimension, Quota, account_key
from tests.kit.redis import RedisServer, running_redis

MANY = 10**9
KEY = account_key("acme")
ONE_QUOTA = [Charge(Quota(Dimension.REQUESTS_PER_MINUTE, MANY, KEY))]
FIVE_QUOTAS = [
    *ONE_QUOTA,
    Charge(Quota(Dimension.REQUESTS_PER_DAY, MANY, KEY)),
    Charge(Quota(Dimension.TOKENS_PER_MINUTE, MANY, KEY), 1500),
    Charge(Quota(Dimension.TOKENS_PER_DAY, MANY, KEY), 1500),
    Charge(Quota(Dimension.CONCURRENT_REQUESTS, MANY, KEY)),
]
USED = {Dimension.TOKENS_PER_MINUTE: 900, Dimension.TOKENS_PER_DAY: 900}
_ids = itertools.count()


async def drive(limiter: Limiter, charges: Sequence[Charge], concurrent: int, seconds: float) -> list[float]:
    """Admit and settle for some seconds; the latencies of the admissions."""
    took: list[float] = []
    until = time.perf_counter() + seconds

    async def client() -> None:
        while time.perf_counter() < until:
            exchange, began = str(next(_ids)), time.perf_counter()
            await limiter.admit(exchange, charges)
            took.append(time.perf_counter() - began)
            limiter.settle_soon(exchange, USED)
            await asyncio.sleep(0)

    await asyncio.gather(*(client() for _ in range(concurrent)))
    return took


async def row(name: str, store: BucketStore, redis: RedisServer | None, seconds: float) -> None:
    limiter = Limiter(store)
    await limiter.start()
    for charges in (ONE_QUOTA, FIVE_QUOTAS):
        for concurrent in (1, 64):
            await drive(limiter, charges, concurrent, 0.2)
            began_redis, began = server_seconds(redis), time.process_time()
            took = sorted(await drive(limiter, charges, concurrent, seconds))
            cpu = (time.process_time() - began) / len(took) * 1e6
            server = (server_seconds(redis) - began_redis) / len(took) * 1e6
            p50, p99 = (took[int(q * (len(took) - 1))] * 1e6 for q in (0.5, 0.99))
            print(
                f"{name:8} {len(charges)} quotas  {concurrent:3} at a time  "
                f"cpu {cpu:7.1f} µs  redis {server:6.1f} µs  p50 {p50:7.0f} µs  p99 {p99:7.0f} µs  ({len(took)})",
                flush=True,
            )
    await limiter.close()


def server_seconds(redis: RedisServer | None) -> float:
    if redis is None:
        return 0.0
    info = dict(line.split(":", 1) for line in redis.command("INFO", "cpu").splitlines() if ":" in line)
    return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--seconds", type=float, default=2.0, help="how long each row runs")
    seconds = arguments.parse_args().seconds
    with running_redis() as redis, closing(uvloop.new_event_loop()) as loop:
        loop.run_until_complete(row("memory", MemoryBuckets(), None, seconds))
        loop.run_until_complete(
            row("redis", RedisBuckets(redis.unix_url, deadline_seconds=5), redis, seconds)
        )


if __name__ == "__main__":
    main()
