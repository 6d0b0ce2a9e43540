"""A gateway to be measured, as a process of its own on a core of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import orjson

from gateway.bench.processes import end
from gateway.bench.sampling import TURN
from gateway.bench.trial import Subject
from gateway.bench.works import Target

_SERVING = re.compile(r"serving on http://127\.0\.0\.1:(\d+),")
_SEEN = "seen "
_PATIENCE_SECONDS = 30.0
_TIMES_UNDER = 8
"""How many times that under another command, which may take its time with everything."""

_KEPT_LINES = 20


class MeasuredGateway:
    """One that serves."""

    def __init__(self, process: Process, *, credential: str, patience_seconds: float) -> None:
        self._process = process
        self._patience_seconds = patience_seconds
        self._credential = credential
        self._said: list[str] = []
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        # It may say much, and must not wait until somebody wants to know.
        self._listening = asyncio.create_task(self._listen())
        self.subject: Subject

    async def serves(self) -> None:
        """Wait until it says where; OSError with what it said instead, when it does not."""
        while (line := await self._line()) is not None:
            if found := _SERVING.search(line):
                target = Target(port=int(found[1]), credentials=(self._credential,))
                self.subject = Subject(target, self._process.pid)
                return
        said = " ".join(self._said).removeprefix("gateway: ") or "it said nothing"
        raise OSError(f"the gateway that was to be measured did not start: {said}")

    def look(self) -> None:
        """Begin to look where it spends its time."""
        self._process.send_signal(TURN)

    async def seen(self) -> dict[str, int]:
        """End that; how often each area of the code was found at work."""
        self._process.send_signal(TURN)
        while (line := await self._line()) is not None:
            if line.startswith(_SEEN):
                return dict(orjson.loads(line.removeprefix(_SEEN)))
        raise OSError("the gateway that was measured ended")

    async def _line(self) -> str | None:
        async with asyncio.timeout(self._patience_seconds):
            return await self._lines.get()

    async def _listen(self) -> None:
        assert self._process.stderr is not None
        while line := await self._process.stderr.readline():
            said = line.decode("utf-8", "replace").strip()
            if said.startswith("{"):
                said = orjson.loads(said)["message"]
            self._said = [*self._said[-_KEPT_LINES:], said]
            self._lines.put_nowait(self._said[-1])
        self._lines.put_nowait(None)


@asynccontextmanager
async def running(
    settings: dict[str, Any], *, keys_dir: Path, credential: str, core: int | None, under: Sequence[str] = ()
) -> AsyncIterator[tuple[MeasuredGateway, float]]:
    """Start a gateway with these settings; it, and how many seconds passed until it served. Its log goes nowhere.

    `under`: the command that its own is an argument of.
    """
    began = monotonic()
    process = await asyncio.create_subprocess_exec(
        *(*under, sys.executable, "-m", "gateway.cli.bench.measured"),
        stdin=PIPE,
        stdout=DEVNULL,
        stderr=PIPE,
        start_new_session=True,
    )
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        assert process.stdin is not None
        given = {"settings": settings, "keys_dir": str(keys_dir)}
        process.stdin.write(orjson.dumps(given))
        process.stdin.close()
        gateway = MeasuredGateway(
            process,
            credential=credential,
            patience_seconds=_PATIENCE_SECONDS * (_TIMES_UNDER if under else 1),
        )
        await gateway.serves()
        yield gateway, monotonic() - began
    finally:
        await end(process)
