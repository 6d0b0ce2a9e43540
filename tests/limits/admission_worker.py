"""A worker process that admits, holds and settles exchanges against a Redis, and prints what it was granted.

python -m tests.limits.admission_worker URL KEY SEED MODE

MODE `load`: 200 exchanges at a time for two seconds, then one JSON line.
MODE `hold`: takes three slots, prints a line, and keeps them until it is killed.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

import orjson

from gateway.limits.limiter import Limiter
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.terms import Charge, Dimension, Quota

CONCURRENT = 200
LOAD_SECONDS = 2.0
LEASE_SECONDS = 1.5
REQUESTS = (Dimension.REQUESTS_PER_MINUTE, 600)
TOKENS = (Dimension.TOKENS_PER_DAY, 200_000)
SLOTS = (Dimension.CONCURRENT_REQUESTS, 100)


def quotas(key: str) -> tuple[Quota, Quota, Quota]:
    return Quota(*REQUESTS, key), Quota(*TOKENS, key), Quota(*SLOTS, key)


async def load(limiter: Limiter, key: str, seed: int) -> dict[str, object]:
    """Play clients until the time is up; refused ones try again a little later."""
    chance = random.Random(seed)
    requests, tokens, slots = quotas(key)
    granted: list[tuple[float, float, int, int]] = []
    refused: dict[str, int] = {}
    until = time.monotonic() + LOAD_SECONDS

    async def client(n: int) -> None:
        turn = 0
        while time.monotonic() < until:
            turn += 1
            exchange, reserved = f"{seed}-{n}-{turn}", chance.randrange(1, 500)
            decision = await limiter.admit(
                exchange, [Charge(requests), Charge(tokens, reserved), Charge(slots)]
            )
            if decision.refused_by:
                name = str(decision.refused_by.dimension)
                refused[name] = refused.get(name, 0) + 1
                await asyncio.sleep(chance.uniform(0.1, 0.5))
                continue
            began = time.monotonic()
            await asyncio.sleep(chance.uniform(0.02, 0.1))
            used = chance.randrange(0, reserved + 50)
            granted.append((began, time.monotonic(), reserved, used))
            limiter.settle_soon(exchange, {Dimension.TOKENS_PER_DAY: used})

    await asyncio.gather(*(client(n) for n in range(CONCURRENT)))
    return {"granted": granted, "refused": refused}


async def main(url: str, key: str, seed: int, mode: str) -> None:
    lease = 15.0 if mode == "load" else LEASE_SECONDS
    limiter = Limiter(RedisBuckets(url, deadline_seconds=5, lease_seconds=lease), announce_seconds=0.3)
    await limiter.start()
    if mode == "hold":
        slots = quotas(key)[2]
        for n in range(3):
            await limiter.admit(f"{seed}-{n}", [Charge(slots)])
        print("holding", flush=True)
        await asyncio.sleep(60)
    result = await load(limiter, key, seed)
    await limiter.close()
    print(orjson.dumps(result).decode())


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]))
