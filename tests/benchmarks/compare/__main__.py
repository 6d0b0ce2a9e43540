"""Measure the gateway beside its peers, and print the tables.

    python -m tests.benchmarks.compare [--peers envoy nginx …] [--work json events-200 …] [--rounds 3]
                                       [--peer-rounds 1] [--minutes 15] [--tls] [--credentials 1000]
                                       [--baseline envoy] [--out FILE [--add]]

Two cores are needed: one for the candidate, one for client, upstream and Redis. Candidates run side by side and are
measured in turn; each round goes the other way round. The gateway and the direct way are always measured; who is not
installed is left out, with a line that says how to install it. `--tls`: candidates speak TLS to the upstream.
`--credentials N`: some works are done once more with N credentials in turn, of the gateway and of the baseline.
`--minutes`: no work is begun that would not be over by then. `--out docs/performance.json` replaces what the file
holds of the works that were measured, unless `--add` keeps it; `python -m docs.generate` then makes tables and chart.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from docs import performance, targets
from docs.measured import Cell as Told
from docs.measured import Measured, Peer
from gateway.bench.certificate import make_certificate
from gateway.bench.processes import raw_upstream
from tests.benchmarks.compare import machine, setting
from tests.benchmarks.compare.candidates import CANDIDATES, DIRECT, GATEWAY, UNLIMITED, Candidate
from tests.benchmarks.compare.running import Running, running, version
from tests.benchmarks.compare.works import WORKS, Bench, Cell, Failed
from tests.kit.redis import running_redis

FOREIGN_CPUS = 0.15
STEAL = 0.02
CELL_DEADLINE_SECONDS = 180.0
WARM_UP = 300
ALWAYS = (DIRECT, GATEWAY)


@dataclass(frozen=True)
class Plan:
    """What is to be measured."""

    candidates: list[Candidate]
    works: list[str]
    rounds: int
    peer_rounds: int
    """Of those, how many measure peers other than the baseline; one, of who is slow."""

    until: float
    """By the monotonic clock."""

    tls: bool
    baseline: str
    run: str
    """What this run is called."""

    def cells(self, work: str, number: int, credentials: int) -> Iterator[tuple[Candidate, str]]:
        """Who is measured in one round, in which order, and in which variant."""
        kind = WORKS[work]
        plain = "tls" if self.tls else ""
        asked = [
            candidate
            for candidate in self.candidates
            if kind.is_for(candidate) and number < self._rounds_of(candidate)
        ]
        for candidate in asked if number % 2 == 0 else reversed(asked):
            yield candidate, plain
            if credentials > 1 and kind.many and candidate.name in (GATEWAY.name, self.baseline):
                yield candidate, "callers"

    def _rounds_of(self, candidate: Candidate) -> int:
        if candidate in (*ALWAYS, UNLIMITED) or candidate.name == self.baseline:
            return self.rounds
        return 1 if candidate.slow else self.peer_rounds


async def measure(plan: Plan, bench: Bench, cells: list[Told]) -> None:
    """Add the cells of all rounds."""
    lasted: dict[tuple[str, str, str], float] = {}
    for number in range(plan.rounds):
        for work in plan.works:
            asked = list(plan.cells(work, number, len(bench.setting.callers)))
            expected = sum(lasted.get((candidate.name, work, variant), 0.0) for candidate, variant in asked)
            if time.monotonic() + expected > plan.until:
                continue
            for candidate, variant in asked:
                began = time.monotonic()
                told = await one(bench, bench.started[candidate.name], plan.run, work, variant, number)
                lasted[candidate.name, work, variant] = time.monotonic() - began
                print(_line(told), file=sys.stderr, flush=True)
                cells.append(told)


async def one(bench: Bench, it: Running, run: str, work: str, variant: str, number: int) -> Told:
    """One cell, with what disturbed it or what went wrong."""
    every = tuple(credential for credential, _ in bench.setting.callers)
    cell = Cell(bench, it, every if variant == "callers" else every[:1])
    before, began = machine.Moment.now(), time.monotonic()
    figures: dict[str, float] = {}
    failed = ""
    try:
        async with asyncio.timeout(CELL_DEADLINE_SECONDS):
            figures = await WORKS[work].run(cell)
    except Exception as error:  # noqa: BLE001 - one cell that goes wrong must not cost all others
        failed = str(error) if isinstance(error, Failed) else f"{type(error).__name__} {error}".strip()
    seconds, now = time.monotonic() - began, machine.Moment.now()
    foreign, steal = now.foreign_cpus(before, seconds), now.steal(before)
    if foreign > FOREIGN_CPUS:
        cell.disturbed = f"others used {foreign:.2f} CPU"
    elif steal > STEAL:
        cell.disturbed = f"{100 * steal:.0f} % stolen"
    rounded = {name: float(f"{value:.5g}") for name, value in figures.items()}
    return Told(run, work, variant, it.candidate.name, number, rounded, cell.disturbed, failed)


def _line(told: Told) -> str:
    figures = "  ".join(f"{name} {performance.number(value)}" for name, value in told.figures.items())
    ends = f"FAILED {told.failed}" if told.failed else f"  [{told.disturbed}]" if told.disturbed else ""
    return (
        f"{told.round} {told.work + (told.variant and ' ' + told.variant):20} {told.peer:10} {figures}{ends}"
    )


async def compare(options: argparse.Namespace, candidates: list[Candidate]) -> Measured:
    """Start everything, measure, end everything, also when this process is told to stop."""
    cells: list[Told] = []
    current = asyncio.current_task()
    assert current is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, current.cancel)
    cores = machine.Cores.choose()
    os.sched_setaffinity(0, {cores.others})
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="compare-")))
        make_certificate(directory)
        redis = stack.enter_context(running_redis())
        plain = await stack.enter_async_context(raw_upstream(cpu=cores.others))
        by_tls = await stack.enter_async_context(raw_upstream(cpu=cores.others, certificate=directory))
        given = setting.Setting(
            directory,
            plain,
            by_tls,
            options.tls,
            redis.url,
            redis.pid,
            setting.callers(options.credentials),
            (setting.credential("rival", "subject-0"), "rival"),
        )
        bench = Bench(given, cores, options.peers_dir, options.seconds)
        for candidate in candidates:
            try:
                it = stack.enter_context(running(candidate, given, options.peers_dir, {cores.measured}))
                await bench.warm_up(it, max(WARM_UP, len(given.callers)))
                bench.started[candidate.name] = it
            except (RuntimeError, Failed) as error:
                print(f"{candidate.label} is left out: {error}", file=sys.stderr)
        plan = Plan(
            [candidate for candidate in candidates if candidate.name in bench.started],
            options.work,
            options.rounds,
            options.peer_rounds or options.rounds,
            time.monotonic() + options.minutes * 60,
            options.tls,
            options.baseline,
            f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        )
        try:
            await measure(plan, bench, cells)
        except asyncio.CancelledError:
            print("told to stop: what was measured until now is kept", file=sys.stderr)
    return Measured(
        options.baseline,
        {
            candidate.name: Peer(candidate.label, version(candidate, options.peers_dir), candidate.does)
            for candidate in plan.candidates
        },
        {
            "processor": machine.processor(),
            "cores": f"{cores.measured} (measured), {cores.others} (client, upstream, Redis)",
            "kernel": platform.release(),
            "Python": platform.python_version(),
        },
        tuple(cells),
    )


def chosen(options: argparse.Namespace) -> list[Candidate]:
    """The candidates that are installed, of those that were asked for; who is not is told."""
    found = []
    for candidate in CANDIDATES.values():
        always = candidate in (*ALWAYS, UNLIMITED) or candidate.name == options.baseline
        if not any(WORKS[work].is_for(candidate) for work in options.work):
            continue
        if not always and options.peers and candidate.name not in options.peers:
            continue
        if candidate.find(options.peers_dir) is None:
            line = candidate.install.replace("PEERS", str(options.peers_dir))
            print(f"{candidate.label} is not installed and left out: {line}", file=sys.stderr)
            continue
        found.append(candidate)
    return found


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [name for name in CANDIDATES if CANDIDATES[name] not in ALWAYS]
    parser.add_argument("--peers", nargs="+", choices=names, default=[], help="default: all")
    parser.add_argument(
        "--peers-dir", type=Path, default=Path("build/peers"), help="where peers may be installed"
    )
    parser.add_argument("--work", nargs="+", choices=list(WORKS), default=list(WORKS), help="default: all")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--peer-rounds", type=int, help="for peers other than the baseline; default: the same"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of a work that saturates")
    parser.add_argument("--minutes", type=float, default=24 * 60, help="for all of it")
    parser.add_argument("--tls", action="store_true", help="towards the upstream")
    parser.add_argument("--credentials", type=int, default=1, help="in turn, five to a tenant")
    parser.add_argument("--baseline", choices=names, default="envoy", help="what ratios refer to")
    parser.add_argument("--disturbed-too", action="store_true", help="print what others disturbed as well")
    parser.add_argument("--out", type=Path, help="the file that is added to")
    parser.add_argument("--add", action="store_true", help="keep what the file holds of the same works")
    options = parser.parse_args()
    options.peers_dir = options.peers_dir.resolve()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    measured = asyncio.run(compare(options, chosen(options)))
    if options.out is not None:
        if options.out.exists():
            Measured.load(options.out).with_newer(measured, keep=options.add).save(options.out)
        else:
            measured.save(options.out)
    told = measured.undisturbed() if options.disturbed_too else measured
    for title, lines in (
        ("CPU", performance.costs(told)),
        ("Time", performance.times(told)),
        ("Memory, start, fairness", performance.absolutes(told)),
        ("What must hold", targets.standings(told, measured_alone=True)),
    ):
        print(f"\n## {title}\n", *lines, sep="\n")
    for name in targets.missed(told):
        print(f"missed, and in need of its row in docs/performance.md: {name}", file=sys.stderr)


if __name__ == "__main__":
    main()
