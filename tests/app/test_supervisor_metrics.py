"""How many workers there are, how they fare, and what they take of the machine."""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as read_text

from gateway.app.counted import Counted
from gateway.app.exposition import exposition_of_all
from gateway.app.health import State, WorkerState
from gateway.app.supervisor_metrics import Cause, SupervisorMetrics
from gateway.exchange.instruments import Gauges, Registry, Rule
from gateway.exchange.metrics import Metrics
from tests.kit.waiting import comes_to

Series = dict[tuple[str, str], float]


class Machine:
    """Workers that a test makes up, and the page about them."""

    def __init__(self) -> None:
        self.workers: list[WorkerState] = []
        self.metrics = SupervisorMetrics(lambda: tuple(self.workers))
        self._exposition = exposition_of_all(
            Counted(refused=self.metrics.refused), self.metrics, self._nothing
        )

    async def _nothing(self) -> None:
        pass

    async def page(self) -> Series:
        """Values by name and by the one label that all of these have, or none."""
        page = await self._exposition.page("", "")
        return {
            (sample.name, next(iter(sample.labels.values()), "")): sample.value
            for family in read_text(page.body.decode())
            for sample in family.samples
        }


def worker(index: int, pid: int = 2**22 + 1, state: State = State.READY) -> WorkerState:
    return WorkerState(index, pid, state, 0.0, ready=state is State.READY)


async def test_every_state_and_every_cause_is_there_from_the_start() -> None:
    machine = Machine()
    machine.workers = [worker(0), worker(1), worker(1, state=State.LEAVING)]
    before = await machine.page()
    machine.metrics.restarted(Cause.HUNG)
    machine.workers = [machine.workers[2], worker(0, state=State.HUNG), worker(0)]
    after = await machine.page()

    def states(page: Series) -> dict[str, float]:
        return {state: page["gateway_workers", state] for state in State}

    def restarts(page: Series) -> dict[str, float]:
        return {cause: page["gateway_worker_restarts_total", cause] for cause in Cause}

    assert [before["gateway_worker_places", state] for state in ("served", "empty")] == [2, 0]
    assert states(before) == {"starting": 0, "ready": 2, "hung": 0, "leaving": 1}
    assert states(after) == {"starting": 0, "ready": 1, "hung": 1, "leaving": 1}
    assert [after["gateway_worker_places", state] for state in ("served", "empty")] == [1, 1]
    assert set(restarts(before).values()) == {0}
    assert restarts(after) == {cause: float(cause is Cause.HUNG) for cause in Cause}


BUSY = "import os\nkept = [os.dup(0) for _ in range(40)]\nwhile True: pass\n"


async def test_what_a_process_takes_is_shown_by_its_place_and_what_it_took_stays() -> None:
    machine = Machine()
    busy = await asyncio.create_subprocess_exec(sys.executable, "-c", BUSY)
    machine.workers = [worker(0, busy.pid), worker(1, os.getpid())]

    async def spent_a_while() -> bool:
        page = await machine.page()
        return page["process_cpu_seconds_total", "0"] > 0.05 and page["process_open_fds", "0"] > 40

    await comes_to(True, spent_a_while, within_seconds=20)
    seen = await machine.page()
    busy.kill()
    await busy.wait()
    for _ in range(2):  # it is still on the list when nothing is to be seen of it any more
        assert (await machine.page())["process_cpu_seconds_total", "0"] < 2 * seen[
            "process_cpu_seconds_total", "0"
        ] + 1
    machine.workers = [worker(0), worker(1, os.getpid())]
    later = await machine.page()

    for place in ("0", "1", "supervisor"):
        assert seen["process_resident_memory_bytes", place] > 2**20
        assert seen["process_virtual_memory_bytes", place] >= seen["process_resident_memory_bytes", place]
        assert seen["process_max_fds", place] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert 40 < seen["process_open_fds", "0"] < 60
    assert seen["process_open_fds", "supervisor"] == pytest.approx(
        len(list(Path("/proc/self/fd").iterdir())), abs=5
    )
    assert ("process_open_fds", "0") not in later
    assert later["process_cpu_seconds_total", "0"] >= seen["process_cpu_seconds_total", "0"]
    assert later["process_cpu_seconds_total", "1"] == pytest.approx(time.process_time(), abs=1)
    assert abs(time.time() - later["process_start_time_seconds", ""]) < time.monotonic()


async def test_two_processes_in_one_place_are_added_up() -> None:
    machine = Machine()
    machine.workers = [worker(0, os.getpid())]
    one = await machine.page()
    machine.workers = [worker(0, os.getpid(), State.LEAVING), worker(0, os.getppid())]
    two = await machine.page()

    assert two["process_max_fds", "0"] > one["process_max_fds", "0"]
    assert two["process_cpu_seconds_total", "0"] >= one["process_cpu_seconds_total", "0"]


def test_every_gauge_says_what_several_workers_are_together() -> None:
    with pytest.raises(TypeError):
        Gauges("some", "Some.", registry=Registry())  # type: ignore[call-arg]

    rules = {
        instrument.description.name: instrument.description.rule
        for instrument in Metrics().registry.instruments
        if isinstance(instrument, Gauges)
    }
    assert rules["gateway_exchanges_in_flight"] is Rule.SUM
    assert rules["gateway_configuration_valid"] is Rule.MIN
    assert rules["gateway_revocations_age_seconds"] is Rule.MAX
    assert rules["gateway_event_loop_lag_max_seconds"] is Rule.EACH
