"""What metrics cost where there are many.

    python -m tests.benchmarks.metrics [--tenants 200] [--operations 20]

Processor time of a worker's snapshot, in all and of its longest bite; of a supervisor that hears one; and of the page
for one, two and eight workers, as it is and packed. Every tenant has used every operation in every way. Then by how
much a loop is late that serves in the same process, without a scraper and with four that ask ten times a second.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import zlib
from collections.abc import Callable
from functools import partial
from time import monotonic, thread_time

import uvloop

from gateway.app.counted import Counted
from gateway.app.exposition import exposition_of_one, texts
from gateway.app.health import MachineHealth, State, WorkerState
from gateway.app.private_listener import PrivateListener
from gateway.app.snapshots import Snapshots
from tests.kit.exposition import at_once, busy

_REPEATS = 5
_SCRAPERS = 4
_SECONDS = 5
_TIMER_SECONDS = 0.002
_WORKER = WorkerState(0, os.getpid(), State.READY, 0.0, ready=True)
_SCRAPER = """
import sys
import time
import urllib.request

page = urllib.request.Request(f"http://127.0.0.1:{sys.argv[1]}/metrics", headers={"Accept-Encoding": "gzip"})
while True:
    urllib.request.urlopen(page).read()
    time.sleep(0.1)
"""


def main() -> None:
    """Print a line per figure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tenants", type=int, default=200)
    parser.add_argument("--operations", type=int, default=20)
    options = parser.parse_args()
    metrics = busy(options.tenants, options.operations)
    snapshots, counted = Snapshots(metrics.registry), Counted()
    first = at_once(snapshots.take())
    _print(
        "a supervisor that hears of all series for the first time", _spent(lambda: _hear(counted, 0, first))
    )
    bites = min((_bites(snapshots) for _ in range(_REPEATS)), key=sum)
    _print("a snapshot, in all", sum(bites))
    _print("its longest bite", max(bites))
    later = [at_once(snapshots.take()) for _ in range(_REPEATS)]
    print(f"{len(later[0]) / 1000:8.0f} kB     a snapshot")
    _print("a supervisor that hears one", min(_spent(partial(_hear, counted, 0, one)) for one in later))
    for workers in (1, 2, 8):
        for index in range(workers):
            _hear(counted, index, first)
        page = _page(counted)
        _print(f"the page, {workers} workers", _least(lambda: _page(counted)))
    print(f"{page.count(chr(10)):8}        lines, {len(page) / 1000:.0f} kB")
    _print("packing it", _least(lambda: zlib.compress(page.encode(), 1)))
    exposition = exposition_of_one(metrics.registry, lambda: _WORKER)
    listener = PrivateListener("127.0.0.1", 0, exposition=exposition, health=MachineHealth(lambda: [_WORKER]))
    port = listener.start()
    for scrapers in (0, _SCRAPERS):
        late = sorted(uvloop.run(_lateness(port, scrapers)))
        what = f"late is the loop with {scrapers} scrapers"
        _print(f"{what}, at the median", late[len(late) // 2])
        _print(f"{what}, of a hundred times once", late[-len(late) // 100])
    listener.stop()


async def _lateness(port: int, scrapers: int) -> list[float]:
    """By how much a timer comes too late."""
    running = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", _SCRAPER, str(port))
        for _ in range(scrapers)
    ]
    await asyncio.sleep(0.5)
    late, end = [], monotonic() + _SECONDS
    while (now := monotonic()) < end:
        await asyncio.sleep(_TIMER_SECONDS)
        late.append(monotonic() - now - _TIMER_SECONDS)
    for one in running:
        one.terminate()
        await one.wait()
    return late


def _hear(counted: Counted, index: int, snapshot: bytes) -> None:
    counted.hear(str(index), index, snapshot)


def _page(counted: Counted) -> str:
    return "".join(texts(counted, openmetrics=False))


def _bites(snapshots: Snapshots) -> list[float]:
    taking = snapshots.take()
    bites: list[float] = []
    while True:
        began = thread_time()
        try:
            taking.send(None)
        except StopIteration:
            return bites
        finally:
            bites.append(thread_time() - began)


def _least(do: Callable[[], object]) -> float:
    return min(_spent(do) for _ in range(_REPEATS))


def _spent(do: Callable[[], object]) -> float:
    began = thread_time()
    do()
    return thread_time() - began


def _print(what: str, seconds: float) -> None:
    print(f"{seconds * 1000:8.2f} ms     {what}")


if __name__ == "__main__":
    main()
