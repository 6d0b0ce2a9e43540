"""The raw upstream, or the client, as a process of its own.

    python -m gateway.bench upstream [--port 0] [--cpu N] [--nice N] [--certificate DIR]
    python -m gateway.bench load [--cpu N] [--nice N] < PLAN

The upstream says {"port": …} when it listens, and ends at SIGTERM. PLAN is JSON, {"target": {…}, "works":
[{"kind": …}]}, as `gateway.bench.works` describes them. The client says {"steady": true} once everything runs
that is to run, and at the end {"outcomes": […]}, one for each work; SIGTERM makes it end what it does.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from pathlib import Path
from typing import Any

import orjson
import uvloop

from gateway.bench.certificate import served_with
from gateway.bench.measuring import Measuring
from gateway.bench.processes import end_with_parent
from gateway.bench.upstream import RawUpstream
from gateway.bench.works import Target, work_from


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway.bench", description=__doc__)
    roles = parser.add_subparsers(dest="role", required=True)
    upstream = roles.add_parser("upstream", help="answer")
    upstream.add_argument("--port", type=int, default=0)
    upstream.add_argument("--certificate", type=Path, help="speak TLS with what make_certificate wrote there")
    load = roles.add_parser("load", help="ask; the plan is read from standard input")
    for role in (upstream, load):
        role.add_argument("--cpu", type=int, help="stay on this core")
        role.add_argument("--nice", type=int, default=0, help="let others go first")
    options = parser.parse_args()
    if options.cpu is not None:
        os.sched_setaffinity(0, {options.cpu})
    os.nice(options.nice)
    end_with_parent()
    gc.disable()  # a pause of the measure would look like one of what is measured
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(
            _serve(options) if options.role == "upstream" else _ask(orjson.loads(sys.stdin.buffer.read()))
        )


def _say(data: dict[str, Any]) -> None:
    sys.stdout.buffer.write(orjson.dumps(data) + b"\n")
    sys.stdout.buffer.flush()


async def _serve(options: argparse.Namespace) -> None:
    certificate = served_with(options.certificate) if options.certificate else None
    server = await RawUpstream().listen(options.port, certificate)
    _say({"port": server.sockets[0].getsockname()[1]})
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()


async def _ask(plan: dict[str, Any]) -> None:
    target = plan["target"]
    target["credentials"] = tuple(target.get("credentials", ()))
    measuring = Measuring([work_from(work) for work in plan["works"]], Target(**target))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, measuring.stop)
    _say({"outcomes": await measuring.run(lambda: _say({"steady": True}))})


if __name__ == "__main__":
    main()
