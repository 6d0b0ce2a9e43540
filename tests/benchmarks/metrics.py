"""What metrics cost where there are many.

    python -m tests.benchmarks.metrics [--tenants 200] [--operations 20]

Processor time of a worker's snapshot, in all and of its longest bite; of a supervisor that hears one; and of the page
for one, two and eight workers, as it is and packed. Every tenant has used every operation in every way.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Callable
from functools import partial
from time import thread_time

from gateway.app.counted import Counted
from gateway.app.exposition import texts
from gateway.app.snapshots import Snapshots
from tests.kit.exposition import at_once, busy

_REPEATS = 5


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
