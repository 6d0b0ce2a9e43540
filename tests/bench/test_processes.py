"""What a process spends is told while it runs, and the bench's own processes end with their measurement."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from gateway.bench import processes
from gateway.bench.spread import Spread
from gateway.bench.works import Requests, Silent, Target

BUSY = "import subprocess, sys; n = 3\nwhile n < 10**7: n += 1\nprint(flush=True); sys.stdin.read()"


def test_a_family_is_charged_for_what_its_children_spend() -> None:
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", parent, BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        members = processes.family(process.pid)
        assert len(members) == 2
        assert processes.cpu_seconds(process.pid) > processes.cpu_seconds(members[1]) > 0.05
        assert processes.resident_bytes(process.pid) > processes.resident_bytes(members[1]) > 2**20


def test_what_this_process_spends_is_what_it_measures_itself() -> None:
    assert processes.can_measure()
    before, own = processes.cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - own < 0.2:
        pass
    assert processes.cpu_seconds(os.getpid()) - before > 0.15


def test_who_is_gone_spends_nothing() -> None:
    with subprocess.Popen(["/bin/true"]) as process:
        process.wait()
    assert processes.cpu_seconds(process.pid) == 0
    assert processes.resident_bytes(process.pid) == 0


async def test_client_and_upstream_run_as_processes_of_their_own_and_end() -> None:
    async with processes.raw_upstream() as port:
        async with processes.load(Target(port=port), Requests(count=100, connections=4)) as load:
            await load.steady()
            [outcome] = await load.outcomes()
        assert (outcome["ok"], outcome["errors"]) == (100, {})
        assert outcome["latency_us"]["count"] == 100
        async with processes.load(Target(port=port), Silent(streams=3, ramp_seconds=0.0)) as load:
            await load.steady()
            load.stop()
            [outcome] = await load.outcomes()
        assert outcome["events"] == 3
    assert len(processes.family(os.getpid())) == 1


def test_percentiles_are_those_of_the_ordered_values() -> None:
    spread = Spread.of(1000 * n for n in reversed(range(101)))
    assert spread == Spread(count=101, mean=50.0, p50=50.0, p90=90.0, p99=99.0, most=100.0)
    assert Spread.of([]) == Spread()
