"""What the gateway costs by a stick that never changes: as a ratio to what a bare relay does.

    python -m tests.benchmarks.stick [--record]

A small JSON request, an event and a megabyte through a gateway with everything on (credential, limits in Redis, usage
read, log, metrics), and through `relay`. Of requests and events Valgrind counts the instructions, the kernel's left
out: processor time of such small work depends on whatever else the machine does, by a third and more. Of megabytes,
which the kernel moves, it is processor time, in several rounds. What is found is compared with the ratios in
`stick.json`: a change of 10 % or more is said, and is no failure. `--record` writes what was found as what is expected
from then on. It takes about a minute.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

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
"""What is told as a change: twice and more what differs from one time to the next."""

MANY = 10**9
SCOPES = ("chat.completions:write", "audio.speech:write")
_SETTLE_SECONDS = 0.3
_MEGABYTE = 1_000_000
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)$", re.MULTILINE)


@dataclass(frozen=True)
class Measure:
    """One kind of work, and how much of it there is in what came of it."""

    words: str
    work: Work
    units: Callable[[Outcome], float]
    rounds: int = 1
    """More than one: processor time is measured."""


MEASURES = {
    "request": Measure(
        "a small JSON request", Requests(connections=8, count=400), lambda outcome: outcome.finished
    ),
    "event": Measure(
        "an event of a stream",
        # So few at a time that each comes alone, however slow the machine is under Valgrind.
        Streams(streams=20, events=30, every_seconds=0.3, ramp_seconds=0.3),
        lambda outcome: outcome.events,
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
        rounds=8,
    ),
}
_WARM_UP = Requests(connections=8, count=100)


@dataclass(frozen=True)
class Asked:
    """A process that is measured."""

    target: Target
    pid: int

    async def cost(self, measure: Measure) -> float:
        """Processor seconds per unit."""
        before = cpu_seconds(self.pid)
        units = await self._do(measure)
        return (cpu_seconds(self.pid) - before) / units

    async def warm_up(self) -> None:
        """Let it do what it does only at first."""
        await Measuring([_WARM_UP], self.target).run()

    async def _do(self, measure: Measure) -> float:
        [outcome] = await Measuring([measure.work], self.target).run()
        await asyncio.sleep(_SETTLE_SECONDS)
        if outcome.errors:
            raise OSError(f"{measure.words}: {outcome.errors} {outcome.first_error}")
        return measure.units(outcome)


@dataclass(frozen=True)
class Counted(Asked):
    """One under Valgrind, which writes into the folder what it has counted."""

    folder: Path

    async def cost(self, measure: Measure) -> float:
        """Instructions per unit."""
        await self._tell("instrumentation on", "zero")
        units = await self._do(measure)
        await self._tell("dump", "instrumentation off")
        return self._counted() / units

    async def _tell(self, *commands: str) -> None:
        for command in commands:
            telling = await asyncio.create_subprocess_exec(
                *("vgdb", f"--pid={self.pid}", *command.split()), stdout=DEVNULL, stderr=DEVNULL
            )
            if await telling.wait():
                raise OSError(f"Valgrind was told to {command}, and did not")

    def _counted(self) -> int:
        newest = max(self.folder.glob("counted.*"), key=lambda path: path.stat().st_mtime_ns)
        *_, last = _TOTALS.findall(newest.read_text())
        newest.unlink()
        return int(last)


def counting(folder: Path) -> tuple[str, ...]:
    """The command under which instructions are counted, from when it is told so."""
    return (
        *("valgrind", "--tool=callgrind", "--quiet", "--instr-atstart=no"),
        *(f"--callgrind-out-file={folder}/counted.%p", f"--log-file={folder}/said.%p"),
    )


@asynccontextmanager
async def bare_relay(upstream: int, *, counted: bool) -> AsyncIterator[Asked]:
    with tempfile.TemporaryDirectory(prefix="gateway-stick-") as directory:
        folder = Path(directory)
        process = await asyncio.create_subprocess_exec(
            *(*(counting(folder) if counted else ()), sys.executable),
            *("-m", "tests.benchmarks.relay", str(upstream)),
            stdin=PIPE,
            stdout=PIPE,
        )
        try:
            assert process.stdout is not None
            target = Target(port=int(await process.stdout.readline()))
            yield Counted(target, process.pid, folder) if counted else Asked(target, process.pid)
        finally:
            await end(process)


@asynccontextmanager
async def whole_gateway(upstream: int, redis_url: str, *, counted: bool) -> AsyncIterator[Asked]:
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
        folder, keys_dir = Path(directory), Path(directory) / "keys"
        ring, _ = ensure_ring(keys_dir)
        credential = issue(
            ring, Credentials(), tenant="acme", subject="stick", scopes=SCOPES, ttl_seconds=3600
        ).credential
        under = counting(folder) if counted else ()
        async with running(settings, keys_dir=keys_dir, credential=credential, core=None, under=under) as (
            gateway,
            _,
        ):
            target, pid = gateway.subject.target, gateway.subject.pid
            yield Counted(target, pid, folder) if counted else Asked(target, pid)


@dataclass
class Found:
    """What a unit costs, round by round."""

    gateway: list[float] = field(default_factory=list)
    relay: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return median(mine / bare for mine, bare in zip(self.gateway, self.relay, strict=True))


async def measure_all() -> dict[str, Found]:
    """Every measure, through the gateway and through the relay."""
    if shutil.which("valgrind") is None or shutil.which("vgdb") is None:
        raise OSError("valgrind is not installed, which counts the instructions")
    found = {name: Found() for name in MEASURES}
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis())
        upstream = await stack.enter_async_context(raw_upstream())
        for counted in (True, False):
            async with (
                whole_gateway(upstream, redis.url, counted=counted) as gateway,
                bare_relay(upstream, counted=counted) as relay,
            ):
                await gateway.warm_up()
                await relay.warm_up()
                for name, measure in MEASURES.items():
                    for _ in range(measure.rounds if counted is (measure.rounds == 1) else 0):
                        found[name].gateway.append(await gateway.cost(measure))
                        found[name].relay.append(await relay.cost(measure))
    return found


def said(words: str, found: Found, recorded: float | None) -> str:
    """One line: what it costs, and whether that has changed."""
    line = f"{words} costs {found.ratio:.2f} × a bare relay's"
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
