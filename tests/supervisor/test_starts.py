"""Workers that the system does not let start: for want of files or memory, or while the interpreter is replaced."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import until
from tests.kit.workers import Workers, running_workers

BEFORE_THE_PAIR, BEFORE_THE_PROCESS = 0, 2
"""Files that are too few for the pair of sockets, and for the process."""


@pytest.mark.parametrize("spare", [BEFORE_THE_PAIR, BEFORE_THE_PROCESS])
async def test_worker_that_could_not_be_started_is_tried_again_and_it_is_said_why(
    spare: int, tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    async with running_workers(tmp_path, upstream.base_url, redis) as workers:
        one, other = await workers.pids()
        with few_files(workers, spare):
            os.kill(one, signal.SIGKILL)
            await workers.command.says("worker 0 did not come up: [Errno 24] Too many open files")

        await workers.all_ready(2, but=(one,))
        assert other in await workers.pids()
        assert not [
            line for line in workers.command.stderr if "Traceback" in line or "never retrieved" in line
        ]


async def test_restart_whose_first_worker_cannot_be_started_has_failed_and_the_next_one_can_be_done(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    async with running_workers(tmp_path, upstream.base_url, redis) as workers:
        before = tuple(await workers.pids())
        with few_files(workers, BEFORE_THE_PROCESS):
            workers.signal(signal.SIGUSR2)
            await workers.command.says("restart failed: ")

        _, document = await workers.page("/livez")
        assert document["restart"]["outcome"] == "failed"
        assert "Too many open files" in document["restart"]["reason"]
        assert document["restart"]["reason"].endswith("; everything is as it was")
        assert tuple(await workers.pids()) == before

        workers.signal(signal.SIGUSR2)
        await workers.all_ready(2, but=before)
        await until(lambda: any("all workers have been replaced" in line for line in workers.command.stderr))


@contextmanager
def few_files(workers: Workers, spare: int) -> Iterator[None]:
    """Have the supervisor open no more than so many files for a while."""
    soft, hard = resource.prlimit(workers.supervisor, resource.RLIMIT_NOFILE)
    used = {int(file.name) for file in Path(f"/proc/{workers.supervisor}/fd").iterdir()}
    least = [number for number in range(len(used) + spare + 1) if number not in used][spare]
    resource.prlimit(workers.supervisor, resource.RLIMIT_NOFILE, (least, hard))
    try:
        yield
    finally:
        resource.prlimit(workers.supervisor, resource.RLIMIT_NOFILE, (soft, hard))
