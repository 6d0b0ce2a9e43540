"""`python -m gateway` as a process of its own: what an operator runs and sees."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.kit.said import in_words
from tests.kit.waiting import until

_SERVING = re.compile(
    r"serving on https?://(?P<host>[^:/ ]+):(?P<port>\d+), metrics on http://(?:[^:/ ]+|\[[^\]]+\]):(?P<admin>\d+)/"
)

END_OF_GREETING = "Below, one line per exchange. Ctrl-C ends it."
"""What a demo says last, before its log."""


@dataclass(frozen=True)
class Completed:
    """What a command left behind."""

    code: int
    stdout: str
    stderr: str


async def run_command(*arguments: str, module: str = "gateway", **environ: str) -> Completed:
    """Run a command to its end, with nothing but `environ` in its environment."""
    # In a thread: uvloop does not hear of every end of a process that is short.
    done = await asyncio.to_thread(
        subprocess.run,
        words(arguments, module),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        env=environment(environ),
        timeout=60,  # on a machine that others use, too
    )
    said = [text for line in done.stderr.decode().splitlines() for text in in_words(line)]
    return Completed(done.returncode, done.stdout.decode(), "".join(f"{text}\n" for text in said))


_FIRST_CREDENTIAL = re.compile(r"a first credential, .*, which only you can read: (?P<file>.+)")


@dataclass
class RunningCommand:
    """A command that serves."""

    process: Process
    stdout: list[str] = field(default_factory=list)
    """Its lines so far, without their ends."""

    stderr: list[str] = field(default_factory=list)
    """The same of what it says there, in words."""

    log: list[str] = field(default_factory=list)
    """Those of standard error, as they are."""

    host: str = ""
    port: int = 0
    admin_port: int = 0

    @property
    def base_url(self) -> str:
        """What an SDK takes as its base URL."""
        return f"http://{self.host}:{self.port}/v1"

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Ask it to stop."""
        self.process.send_signal(number)

    async def says(self, text: str, within_seconds: float = 5.0) -> None:
        """Wait until a line of its standard error has this in it; fails when that takes longer."""
        await until(lambda: any(text in line for line in self.stderr), within_seconds)

    @property
    def first_credential(self) -> str | None:
        """The credential that it made with its first key; None: there was a key."""
        named = _FIRST_CREDENTIAL.search("\n".join(self.stderr))
        return Path(named["file"]).read_text().strip() if named else None

    async def exit_code(self, within_seconds: float = 10.0) -> int:
        """Wait for its end."""
        return await asyncio.wait_for(self.process.wait(), within_seconds)


def running_command(
    *arguments: str, module: str = "gateway", **environ: str
) -> AbstractAsyncContextManager[RunningCommand]:
    """Start a command that serves, and wait until it says where; it is gone afterwards, whatever happened.

    `module` is what runs it, where that is not `python -m gateway` itself.
    """
    return _running(_start(arguments, environ, module))


@asynccontextmanager
async def running_demo(*options: str) -> AsyncIterator[RunningCommand]:
    """`gateway demo` on free ports, once it has printed all that it has to say."""
    async with running_command(
        "demo", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *options
    ) as demo:
        await until(lambda: END_OF_GREETING in demo.stdout)
        yield demo


def exported(text: str) -> dict[str, str]:
    """The variables that a demo says to export."""
    return dict(re.findall(r"^export (\w+)=(\S+)$", text, re.MULTILINE))


def running_with_files(
    files: tuple[int, int], *arguments: str, **environ: str
) -> AbstractAsyncContextManager[RunningCommand]:
    """The same, where it may open so many files, and may allow itself so many."""
    return _running(_start(arguments, environ, files=files))


@asynccontextmanager
async def _running(starting: Awaitable[Process]) -> AsyncIterator[RunningCommand]:
    process = await starting
    assert process.stdout is not None
    assert process.stderr is not None
    running = RunningCommand(process)
    collecting = [
        asyncio.create_task(_collect(process.stdout, running.stdout)),
        asyncio.create_task(_collect_said(process.stderr, running)),
    ]
    try:
        async with asyncio.timeout(20):
            while not (said := _SERVING.search("\n".join(running.stderr))):
                assert process.returncode is None, running.stderr
                await asyncio.sleep(0.01)
        running.host, running.port, running.admin_port = said["host"], int(said["port"]), int(said["admin"])
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await asyncio.gather(*collecting)


async def _start(
    arguments: tuple[str, ...],
    environ: dict[str, str],
    module: str = "gateway",
    files: tuple[int, int] | None = None,
) -> Process:
    return await asyncio.create_subprocess_exec(
        *words(arguments, module),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
        env=environment(environ),
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_NOFILE, files) if files else None,
    )


def words(arguments: tuple[str, ...], module: str = "gateway") -> tuple[str, ...]:
    """What the system is asked to run."""
    return (sys.executable, "-m", module, *arguments)


def environment(more: dict[str, str]) -> dict[str, str]:
    """All that a command finds in its environment."""
    # What says that this is a container: one worker then, wherever tests run, unless a test says how many.
    # An upstream under test is asked by its test alone, unless that says otherwise.
    quiet = {"GATEWAY_UPSTREAM__MODEL_LIST_SECONDS": "0"}
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "container": "tests"} | quiet | more


async def _collect_said(stream: asyncio.StreamReader, running: RunningCommand) -> None:
    while read := await stream.readline():
        line = read.decode().rstrip("\n")
        running.log.append(line)
        running.stderr += in_words(line)


async def _collect(stream: asyncio.StreamReader, lines: list[str]) -> None:
    while line := await stream.readline():
        lines.append(line.decode().rstrip("\n"))
