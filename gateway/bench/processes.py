"""What a process and its children spent, as Linux tells it in /proc, and processes of the bench's own."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from gateway.bench.works import Target, Work

_PROC = Path("/proc")
_STOP_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


def can_measure() -> bool:
    """Whether this system tells what a process spent."""
    return (_PROC / "self" / "task").is_dir()


def family(root: int) -> list[int]:
    """The process and all that descend from it, as far as they live."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, left = [], [root]
    while left:
        process = left.pop()
        found.append(process)
        left += children.get(process, [])
    return found


def cpu_seconds(root: int) -> float:
    """What the process and its children have used of a processor, user and system: the difference of two is a cost.

    Exact to some microseconds where the kernel counts so, else to its ticks. A thread that ends takes its part along.
    """
    return sum(_precise(process) or _ticks(process) for process in family(root))


def resident_bytes(root: int) -> int:
    """Memory that the process and its children occupy; what they share counts once for each."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = 0
    for process in family(root):
        try:
            total += int((_PROC / str(process) / "statm").read_text().split()[1]) * page
        except OSError:
            continue
    return total


def _stat(process: int) -> list[str] | None:
    """The fields of /proc/PID/stat behind the name: state, parent, …"""
    try:
        return (_PROC / str(process) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _precise(process: int) -> float:
    nanoseconds = 0
    try:
        for thread in (_PROC / str(process) / "task").iterdir():
            nanoseconds += int((thread / "schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return nanoseconds / 1e9


def _ticks(process: int) -> float:
    fields = _stat(process)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


class Load:
    """A client in a process of its own."""

    def __init__(self, process: Process) -> None:
        self._process = process
        assert process.stdout is not None
        self._lines = process.stdout
        self._said: dict[str, Any] = {}

    async def steady(self) -> None:
        """Wait until everything runs that was to run, but for what has failed; or all is over."""
        while not self._said:
            await self._listen()

    async def outcomes(self) -> list[dict[str, Any]]:
        """What came of the works, in their order, as `Outcome` has it."""
        while "outcomes" not in self._said:
            await self._listen()
        return list(self._said["outcomes"])

    async def _listen(self) -> None:
        if line := await self._lines.readline():
            self._said |= orjson.loads(line)
            return
        raise OSError("the client ended before it was done; what it said stands above")

    async def left(self) -> None:
        """Wait until it has ended, once it has said all that it had to say."""
        if "outcomes" in self._said:
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_SECONDS):
                    await self._process.wait()

    def stop(self) -> None:
        """Let it end what it does, and say what came of it; nothing where it has."""
        try:
            self._process.send_signal(signal.SIGTERM)
        except ProcessLookupError:
            pass


@asynccontextmanager
async def load(target: Target, *works: Work, cpu: int | None = None, nice: int = 0) -> AsyncIterator[Load]:
    """Start a client on these works; the nicer, the more it lets others go first."""
    async with _process(["load", "--nice", str(nice), *_on(cpu)], stdin=PIPE) as process:
        assert process.stdin is not None
        plan = {"target": asdict(target), "works": [{"kind": work.kind, **asdict(work)} for work in works]}
        process.stdin.write(orjson.dumps(plan))
        process.stdin.close()
        client = Load(process)
        yield client
        await client.left()


@asynccontextmanager
async def raw_upstream(
    *, cpu: int | None = None, certificate: Path | None = None, port: int = 0
) -> AsyncIterator[int]:
    """Start a raw upstream; gives its port."""
    tls = ["--certificate", str(certificate)] if certificate else []
    async with _process(["upstream", "--port", str(port), *_on(cpu), *tls]) as process:
        assert process.stdout is not None
        line = await process.stdout.readline()
        if not line:
            raise OSError("the raw upstream did not start; what it said stands above")
        yield int(orjson.loads(line)["port"])


def _on(cpu: int | None) -> list[str]:
    return [] if cpu is None else ["--cpu", str(cpu)]


@asynccontextmanager
async def _process(arguments: list[str], **options: Any) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.bench", *arguments), stdout=PIPE, start_new_session=True, **options
    )
    try:
        yield process
    finally:
        await end(process)


async def end(process: Process) -> None:
    """End a process: asked first, then made to."""
    if process.returncode is not None:
        return
    try:
        process.terminate()
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except ProcessLookupError:
        pass
    except TimeoutError:
        process.kill()
        await process.wait()


def end_with_parent() -> None:
    """Let the system end this process when its parent ends, however that comes."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
