"""Ten thousand clients leave in every way there is, and nothing is left behind.

    python -m tests.benchmarks.exits [count]

Prints what was there before and after: tasks, descriptors, connections, memory. Exits with 1 when anything
but memory has grown.
"""

from __future__ import annotations

import resource
import sys
from itertools import cycle, islice, product
from pathlib import Path
from time import monotonic

import uvloop

from tests.kit.client import RawClient
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.upstream import ScriptedUpstream
from tests.promises.leaving import WAYS, all_of, leave, settled, stream_for_ever

WARM_UP = 500


async def leave_in_all_ways(gateway: Gateway, count: int) -> None:
    """`count` clients come, get as far as they get, and leave by FIN or RST."""
    credential = gateway.credential()

    async def one(way: object, by: str) -> None:
        client = await RawClient.connect(gateway.host, gateway.port, credential)
        assert callable(way)
        await way(client)
        await leave(client, by)

    ways = islice(cycle(product(WAYS, ("fin", "rst"))), count)
    await all_of((one(way, by) for way, by in ways), width=40)


async def weigh(gateway: Gateway, upstream: ScriptedUpstream) -> dict[str, int]:
    """What there is, once nothing moves any more."""
    await upstream.all_closed(within_seconds=5)
    upstream.requests.clear()  # the test's own records are not the gateway's weight
    tasks, descriptors = await settled()
    assert gateway.app.server is not None
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return {
        "tasks": tasks,
        "descriptors": descriptors,
        "client connections": gateway.app.server.state.clients.open,
        "upstream connections": sum(
            gateway.upstream_connections(state) for state in ("busy", "idle", "waiting")
        ),
        "exchanges in flight": gateway.app.services.lifecycle.in_flight,
        "KiB of memory": pages * resource.getpagesize() // 1024,
    }


async def main(count: int) -> int:
    """Run, print, and tell by the exit code."""
    async with ScriptedUpstream() as upstream:
        upstream.plays(stream_for_ever)
        async with running_gateway(upstream={"base_url": upstream.base_url, "api_key": "sk-up"}) as gateway:
            await leave_in_all_ways(gateway, WARM_UP)
            before = await weigh(gateway, upstream)
            began = monotonic()
            await leave_in_all_ways(gateway, count)
            seconds = monotonic() - began
            after = await weigh(gateway, upstream)
            lines = len(gateway.lines.raw)
    print(f"{count} exits in {seconds:.1f} s, {lines} log lines")
    for name, was in before.items():
        print(f"{name:>22}: {was:>8} {after[name]:>8}")
    return int(any(after[name] > was for name, was in before.items() if "memory" not in name))


if __name__ == "__main__":
    raise SystemExit(uvloop.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)))
