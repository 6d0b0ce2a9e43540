"""What metering costs, in instructions: of a small JSON request, and of an event of a stream.

    python -m tests.benchmarks.metering
    cd OTHER && PYTHONPATH=. python PATH/tests/benchmarks/metering.py

A metered tenant without limits asks two gateways, of which one neither reads what was used nor counts it: of a request
the difference is metering's, to a few percent of all. Of an event that would say nothing, since one that is known to be
like the others also passes faster. So beside it stands what reading one more takes, of small answers and of the events
of a long stream, which is exact. Valgrind counts, the kernel left out,
so that the figures of two checkouts can be compared on any machine; the second line measures another one by this file.
It takes about two minutes.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from gateway.bench.processes import raw_upstream
from gateway.bench.works import Outcome, Requests
from gateway.cli.bench.process import running
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import ensure_ring
from gateway.settings.settings import Credentials
from tests.benchmarks.stick import SCOPES, Counted, Measure, counting

METERED = (sys.executable, str(Path(__file__).with_name("metered.py")))
SEEDED = {"PYTHONHASHSEED": "0"}
"""Else dictionaries differ from one process to the next, and what they cost."""

FEW, MANY = 1_000, 5_000
"""How many are read: what one more costs is the difference."""


def _finished(outcome: Outcome) -> float:
    return outcome.finished


REQUEST = Measure("a small JSON request", Requests(connections=8, count=200), _finished)


@asynccontextmanager
async def gateway(upstream: int, *, metered: bool) -> AsyncIterator[Counted]:
    """One of the two, under Valgrind."""
    settings = {
        "listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "drain_notice_seconds": 0.0,
        "drain_seconds": 1.0,
        "upstream": {"base_url": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-of-the-stick"},
        "tenants": {"acme": {"metering": True}},
    }
    with tempfile.TemporaryDirectory(prefix="gateway-metering-") as directory:
        folder, keys_dir = Path(directory), Path(directory) / "keys"
        ring, _ = ensure_ring(keys_dir)
        credential = issue(
            ring, Credentials(), tenant="acme", subject="stick", scopes=SCOPES, ttl_seconds=3600
        ).credential
        under = (*counting(folder), *METERED, "with" if metered else "without")
        async with running(settings, keys_dir=keys_dir, credential=credential, core=None, under=under) as (
            found,
            _,
        ):
            yield Counted(found.subject.target, found.subject.pid, folder)


async def request_cost(upstream: int, *, metered: bool) -> float:
    """Instructions of a request."""
    async with gateway(upstream, metered=metered) as asked:
        await asked.warm_up()
        return await asked.cost(REQUEST)


async def read(what: str, count: int) -> int:
    """Instructions of a process that reads so many."""
    with tempfile.TemporaryDirectory(prefix="gateway-metering-") as directory:
        command = (
            *("valgrind", "--tool=callgrind", "--quiet", f"--callgrind-out-file={directory}/all"),
            *METERED,
        )
        process = await asyncio.create_subprocess_exec(*command, what, str(count))
        if await process.wait():
            raise OSError("the reader of events did not come to its end")
        return totals(Path(directory, "all").read_text())


async def measure() -> None:
    async with raw_upstream() as upstream:
        whole = await request_cost(upstream, metered=True)
        metering = whole - await request_cost(upstream, metered=False)
    answer, event = [
        (await read(what, MANY) - await read(what, FEW)) / (MANY - FEW) for what in ("answers", "events")
    ]
    print(f"metering a small JSON request takes {metering:,.0f} instructions of {whole:,.0f}")
    print(f"reading its answer takes {answer:,.0f}, reading an event {event:,.0f}")


def totals(written: str) -> int:
    """What Valgrind has counted in all."""
    found = re.findall(r"^(?:totals|summary): (\d+)", written, re.MULTILINE)
    return int(found[-1])


if __name__ == "__main__":
    os.environ.update(SEEDED)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure())
