"""What two workers cost beside one, and carry: CPU per unit of each, in alternating rounds.

    python -m tests.benchmarks.workers [--rounds 3] [--seconds 8]

CPU is that of all the gateway's processes, the supervisor's included. Two workers have twice the connections and
streams of one, so that each has what the one has: what comes in one turn of a loop shares that turn's cost. On two
cores client, upstream and Redis share them with both workers, so what is carried says little; it is said all the same.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from statistics import median

import uvloop

from gateway.bench.processes import raw_upstream
from gateway.bench.trial import Extent, Round, Subject, Trial
from gateway.bench.works import Target
from tests.kit.redis import running_redis
from tests.kit.workers import running_workers

FULL_SECONDS = 60.0


async def rounds(options: argparse.Namespace) -> dict[str, dict[int, list[Round]]]:
    found: dict[str, dict[int, list[Round]]] = {"request": {1: [], 2: []}, "event": {1: [], 2: []}}
    with running_redis() as redis, tempfile.TemporaryDirectory() as directory:
        async with raw_upstream() as port:
            base_url = f"http://127.0.0.1:{port}/v1"
            for number in range(options.rounds):
                for workers in (1, 2) if number % 2 else (2, 1):
                    keys = Path(directory) / f"{number}-{workers}"
                    limit = ("--set", "limits.max_requests_per_1_minute=100000000")
                    async with running_workers(keys, base_url, redis, *limit, workers=workers) as running:
                        target = Target(running.command.port, credentials=(running.credential,))
                        subject = Subject(target, running.supervisor)
                        extent = Extent(FULL_SECONDS, streams=200 * workers, connections=32 * workers)
                        trial = Trial(Target(port), extent)
                        found["request"][workers].append(await trial.requests(subject, options.seconds))
                        found["event"][workers].append(await trial.events(subject, options.seconds))
                        for problem in trial.problems:
                            print(f"{workers} workers: {problem}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8.0)
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(rounds(options))
    for unit, by_workers in found.items():
        for workers, those in by_workers.items():
            cpu, rate = median(r.cpu_us for r in those), median(r.per_second for r in those)
            print(f"{unit:8} {workers} workers: {cpu:7.1f} µs of CPU, {rate:8.0f} a second")
        ratios = [two.cpu_us / one.cpu_us for one, two in zip(by_workers[1], by_workers[2], strict=True)]
        print(
            f"{unit:8} two beside one: {median(ratios):.2f} × (rounds: {', '.join(f'{r:.2f}' for r in ratios)})"
        )


if __name__ == "__main__":
    main()
