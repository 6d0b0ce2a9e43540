"""What the gateway costs by a stick that never changes: processor time as a ratio to that of a bare relay.

    python -m tests.benchmarks.stick [--record]

A small JSON request, an event and a megabyte through a gateway with everything on (credential, limits in Redis, usage
read, log, metrics), and through `relay`, in turn, in several short rounds. What all rounds cost together is compared
with the ratios in `stick.json`: a change of 10 % or more is said, and is no failure. `--record` writes what was found
as what is expected from then on. It takes about half a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import orjson
import uvloop

from gateway.bench import canned
from gateway.bench.measuring import Measuring
from gateway.bench.processes import cpu_seconds, end, raw_upstream
from gateway.bench.works import Outcome, Requests, Streams, Target, Work
from gateway.cli.bench.process import running
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import ensure_ring
from gateway.settings.settings import Credentials
from tests.kit.redis import running_redis

RECORDED = Path(__file__).with_name("stick.json")
CHANGE = 0.1
"""What is told as a change: what a busy machine does to the figures is about half of it."""

ROUNDS, LEAST_ROUNDS, MOST_SECONDS = 8, 3, 30.0
"""A machine that is slow, or shared, has fewer rounds."""

MANY = 10**9
SCOPES = ("chat.completions:write", "audio.speech:write")
_SETTLE_SECONDS = 0.1
_MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Measure:
    """One kind of work, and how much of it there is in what came of it."""

    words: str
    work: Work
    units: Callable[[Outcome], float]
    every: int = 1
    """Rounds from one to the next."""


MEASURES = {
    "request": Measure(
        "a small JSON request", Requests(seconds=0.4, connections=16), lambda outcome: outcome.finished
    ),
    "event": Measure(
        "an event of a stream",
        Streams(streams=100, events=50, every_seconds=0.02, ramp_seconds=0.2),
        lambda outcome: outcome.events,
        every=2,
    ),
    "megabyte": Measure(
        "a megabyte of audio",
        Requests(
            path=canned.SPEECH,
            body=canned.speech(10 * _MEGABYTE),
            connections=2,
            count=6,
            answer_bytes=10 * _MEGABYTE,
        ),
        lambda outcome: outcome.answer_bytes / _MEGABYTE,
    ),
}


@dataclass(frozen=True)
class Measured:
    """A process that is asked."""

    target: Target
    pid: int

    async def cost(self, measure: Measure) -> float:
        """Processor seconds per unit."""
        before = cpu_seconds(self.pid)
        [outcome] = await Measuring([measure.work], self.target).run()
        await asyncio.sleep(_SETTLE_SECONDS)
        if outcome.errors:
            raise OSError(f"{measure.words}: {outcome.errors} {outcome.first_error}")
        return (cpu_seconds(self.pid) - before) / measure.units(outcome)


@asynccontextmanager
async def bare_relay(upstream: int, core: int | None) -> AsyncIterator[Measured]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.benchmarks.relay", str(upstream)), stdin=PIPE, stdout=PIPE
    )
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        assert process.stdout is not None
        yield Measured(Target(port=int(await process.stdout.readline())), process.pid)
    finally:
        await end(process)


@asynccontextmanager
async def whole_gateway(upstream: int, redis_url: str, core: int | None) -> AsyncIterator[Measured]:
    settings = {
        "listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "drain_notice_seconds": 0.0,
        "drain_seconds": 1.0,
        "redis_url": redis_url,
        "upstream": {"base_url": f"http://127.0.0.1:{upstream}/v1", "api_key": "sk-of-the-stick"},
        "tenants": {"acme": {"limits": {"max_requests_per_1_minute": MANY, "max_tokens_per_1_minute": MANY}}},
    }
    with tempfile.TemporaryDirectory(prefix="gateway-stick-") as directory:
        keys_dir = Path(directory) / "keys"
        ring, _ = ensure_ring(keys_dir)
        credential = issue(
            ring, Credentials(), tenant="acme", subject="stick", scopes=SCOPES, ttl_seconds=3600
        ).credential
        async with running(settings, keys_dir=keys_dir, credential=credential, core=core) as (gateway, _):
            yield Measured(gateway.subject.target, gateway.subject.pid)


@dataclass
class Found:
    """Processor seconds per unit, round by round."""

    gateway: list[float] = field(default_factory=list)
    relay: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return sum(self.gateway) / sum(self.relay)

    @property
    def rounds(self) -> list[float]:
        return [mine / bare for mine, bare in zip(self.gateway, self.relay, strict=True)]


async def measure_all() -> dict[str, Found]:
    """Every measure, through the gateway and through the relay."""
    first, *others = sorted(os.sched_getaffinity(0))
    core = others[-1] if others else None
    if others:
        os.sched_setaffinity(0, {first})  # the client, and with it Redis
    found = {name: Found() for name in MEASURES}
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis())
        upstream = await stack.enter_async_context(raw_upstream(cpu=first))
        gateway = await stack.enter_async_context(whole_gateway(upstream, redis.url, core))
        relay = await stack.enter_async_context(bare_relay(upstream, core))
        for measured in (gateway, relay):
            await measured.cost(MEASURES["request"])
        began = monotonic()
        for number in range(ROUNDS):
            if number >= LEAST_ROUNDS and monotonic() - began > MOST_SECONDS:
                break
            for name, measure in MEASURES.items():
                if number % measure.every == 0:
                    found[name].gateway.append(await gateway.cost(measure))
                    found[name].relay.append(await relay.cost(measure))
    return found


def said(words: str, found: Found, recorded: float | None) -> str:
    """One line: what it costs, and whether that has changed."""
    line = (
        f"{words} costs {found.ratio:.2f} × a bare relay's ({min(found.rounds):.2f}–{max(found.rounds):.2f})"
    )
    if recorded is None:
        return f"{line}; nothing is recorded"
    change = found.ratio / recorded - 1
    if abs(change) < CHANGE:
        return f"{line}, as recorded ({recorded:.2f})"
    return f"{line}: {abs(change):.0%} {'MORE' if change > 0 else 'less'} than recorded ({recorded:.2f})"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--record", action="store_true", help="expect from now on what is found")
    record = arguments.parse_args().record
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(measure_all())
    recorded = orjson.loads(RECORDED.read_bytes()) if RECORDED.exists() else {}
    for name, measured in found.items():
        print(said(MEASURES[name].words, measured, recorded.get(name)))
    if record:
        new = {name: round(measured.ratio, 2) for name, measured in found.items()}
        RECORDED.write_bytes(orjson.dumps(new, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    main()
