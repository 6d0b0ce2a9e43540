"""Every fault of the limit store, for half a minute each under load: what exchanges notice of it.

    python -m tests.benchmarks.limit_faults [--seconds 30] [--rate 500] [FAULT ...]

Per fault one line: admissions that failed or took longer than 100 ms (and how late the event loop itself was at
worst), the 99th percentile before and during the fault, CPU per exchange as a multiple of before, bytes logged
per exchange, seconds until the store decides again, growth of memory, and permits that Redis holds against those
that were granted. The promise: nothing fails, p99 grows by 120 ms at most, CPU by a fifth, one log line per
change, recovery within 2 s, nothing charged twice.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

import uvloop

from gateway.limits.limiter import Limiter
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.terms import Charge, Dimension, Quota
from tests.kit.faults.faulty_link import faulty_link
from tests.kit.faults.store_faults import FAULTS
from tests.kit.redis import running_cluster, running_redis, running_sentinel
from tests.limits.contract import fresh_key
from tests.limits.limiter_load import Load, seconds_until_from_store

LEASE_SECONDS = 15.0


class Bytes(logging.Handler):
    """Counts what a log file would hold."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += len(self.format(record)) + 1


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


Step = Callable[[], object]


async def play(
    name: str, url: str, seconds: float, rate: int, begin: Step, end: Step, *, keeps: bool
) -> None:
    """Run the load before, during and after a fault, and print what was seen."""
    key = fresh_key()
    requests, tokens = (
        Quota(Dimension.REQUESTS_PER_DAY, 100_000, key),
        Quota(Dimension.TOKENS_PER_DAY, 10_000_000, key),
    )
    slots = Quota(Dimension.CONCURRENT_REQUESTS, 10_000, key)
    charges, used = [Charge(requests), Charge(tokens, 50), Charge(slots)], {Dimension.TOKENS_PER_DAY: 20}
    limiter = Limiter(RedisBuckets(url, lease_seconds=LEASE_SECONDS))
    await limiter.start()
    log = Bytes()
    logging.getLogger("gateway").addHandler(log)
    began = time.time()
    before, during, after = (Load(limiter, charges, rate, used) for _ in range(3))

    cpu = time.process_time()
    await before.run(min(seconds, 5.0))
    cpu_before = (time.process_time() - cpu) / len(before.outcomes)
    memory = peak_megabytes()
    await asyncio.to_thread(begin)
    cpu = time.process_time()
    await during.run(seconds)
    cpu_during = (time.process_time() - cpu) / len(during.outcomes)
    await asyncio.to_thread(end)
    recovery = await seconds_until_from_store(limiter, requests)
    await after.run(2.0)
    await asyncio.sleep(LEASE_SECONDS + 2)

    left = (await limiter.look([Charge(requests, 0)])).levels[0].remaining
    refilled = (time.time() - began) * requests.capacity / 86_400
    granted = before.granted + during.granted + after.granted
    loads = (before, during, after)
    late = sum(outcome.seconds > 0.1 for load in loads for outcome in load.outcomes)
    charged = f"{requests.capacity - left}..{requests.capacity - left + refilled:.0f}" if keeps else "lost"
    print(
        f"{name:18} failed {sum(load.unavailable for load in loads)}  >100 ms {late}"
        f" (loop {max(load.worst_lag_seconds for load in loads) * 1000:.0f} ms)"
        f"  p99 {before.seconds_at(0.99) * 1000:.1f} → {during.seconds_at(0.99) * 1000:.1f} ms"
        f"  cpu ×{cpu_during / cpu_before:.2f}  log {log.count / len(during.outcomes):.2f} B"
        f"  back in {recovery:.2f} s  memory +{peak_megabytes() - memory:.1f} MB"
        f"  charged {charged} of {granted}",
        flush=True,
    )
    logging.getLogger("gateway").removeHandler(log)
    await limiter.close()


async def single(name: str, seconds: float, rate: int) -> None:
    begin, end = FAULTS[name]
    with running_redis() as redis:
        async with faulty_link(redis.port) as link:
            url = f"redis://127.0.0.1:{link.port}"
            steps = (lambda: begin(redis, link)), (lambda: end(redis, link))
            await play(name, url, seconds, rate, *steps, keeps=name != "killed")


async def scripts(seconds: float, rate: int) -> None:
    """The scripts are forgotten ten times a second, for as long as the fault lasts."""
    with running_redis() as redis:
        over = threading.Event()

        def flush() -> None:
            while not over.wait(0.1):
                redis.command("SCRIPT", "FLUSH")

        flushing = threading.Thread(target=flush)

        def end() -> None:
            over.set()
            flushing.join()

        await play("scripts flushed", redis.url, seconds, rate, flushing.start, end, keeps=True)


async def cluster(seconds: float, rate: int) -> None:
    with running_cluster() as nodes:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)
        frozen = ExitStack()

        def freeze_all_but_one() -> None:
            for node in nodes[1:]:
                node.freeze()
                frozen.callback(node.thaw)

        await play("cluster 2 of 3", url, seconds, rate, freeze_all_but_one, frozen.close, keeps=True)


async def sentinel(seconds: float, rate: int) -> None:
    with running_sentinel() as (watcher, master, _):
        url = f"redis+sentinel://127.0.0.1:{watcher.port}/limits"
        await play("sentinel failover", url, seconds, rate, master.stop, lambda: None, keeps=True)


def main() -> None:
    topologies = {"scripts": scripts, "cluster": cluster, "sentinel": sentinel}
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each fault lasts")
    parser.add_argument("--rate", type=int, default=500, help="exchanges per second")
    parser.add_argument("fault", nargs="*", help=", ".join([*FAULTS, *topologies]))
    arguments = parser.parse_args()
    for name in arguments.fault or [*FAULTS, *topologies]:
        run = topologies.get(name)
        work = (
            run(arguments.seconds, arguments.rate) if run else single(name, arguments.seconds, arguments.rate)
        )
        uvloop.run(work)


if __name__ == "__main__":
    main()
