"""Whether time tells of another tenant's objects: what B waits for A's id, and for one that never was any.

    python -m tests.benchmarks.oracles [--tries 10000]

Each try asks for both, one after the other in turns, over one connection; nobody else asks. Told are the medians, the
difference of the means in standard errors of it, and what Kolmogorov and Smirnov say of the two distributions: more
than 1.95 happens by chance once in a thousand times.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import statistics
from bisect import bisect_right
from contextlib import closing
from time import perf_counter

import uvloop

from tests.kit.one_account import KINDS, Account, never_there, one_account
from tests.kit.redis import running_redis

ASKED = ("file", "response", "thread")


async def pairs(account: Account, foreign: str, unknown: str, tries: int) -> tuple[list[float], list[float]]:
    """Seconds until B was told of each, try by try; which comes first takes turns."""
    waited: dict[str, list[float]] = {foreign: [], unknown: []}
    for number in range(tries):
        for target in (foreign, unknown) if number % 2 else (unknown, foreign):
            began = perf_counter()
            answer = await account.ask("b", "GET", target)
            waited[target].append(perf_counter() - began)
            assert answer.status == 404, answer
    return waited[foreign], waited[unknown]


def apart(one: list[float], other: list[float]) -> float:
    """How far apart two distributions are, after Kolmogorov and Smirnov, scaled by their sizes."""
    first, second = sorted(one), sorted(other)
    most = max(
        abs(bisect_right(first, at) / len(first) - bisect_right(second, at) / len(second))
        for at in (*first, *second)
    )
    return most * math.sqrt(len(first) * len(second) / (len(first) + len(second)))


async def compare(redis_url: str, tries: int) -> None:
    async with one_account(redis_url) as account:
        stored = await account.made_by("a")
        for name in ASKED:
            path = KINDS[name].path
            assert path is not None
            object_id = stored.of_kind(name)
            foreign = stored.target(path)
            unknown = foreign.replace(object_id, never_there(object_id))
            await pairs(account, foreign, unknown, tries // 20)  # warm
            one, other = await pairs(account, foreign, unknown, tries)
            spread = math.sqrt((statistics.variance(one) + statistics.variance(other)) / tries)
            means = (statistics.fmean(one) - statistics.fmean(other)) / spread
            medians = [statistics.median(waited) * 1e6 for waited in (one, other)]
            print(
                f"{name:9} {tries} tries  another's {medians[0]:.1f} µs  nobody's {medians[1]:.1f} µs  "
                f"means {means:+.2f} standard errors apart  distributions {apart(one, other):.2f}",
                flush=True,
            )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--tries", type=int, default=10_000)
    with running_redis() as redis, closing(uvloop.new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(compare(redis.unix_url, arguments.parse_args().tries))


if __name__ == "__main__":
    main()
