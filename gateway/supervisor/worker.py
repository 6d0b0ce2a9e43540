"""One worker, as its supervisor sees it: a process, what it says, and what it is told."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from time import monotonic

from gateway.app.health import Reason, State, WorkerState
from gateway.app.inherited import bequeath
from gateway.app.messages import Message, Messages
from gateway.app.place import Place
from gateway.supervisor.listeners import Listeners

SILENT_SECONDS = 1.0
"""Without a beat for so long its loop counts as not turning; it beats four times as often."""

START_SECONDS = 60.0
_STARTED = Reason("starting", "It has not come up yet.")

Says = Callable[["Worker", Message, bytes], None]


class Worker:
    """A process that serves from the sockets of one slot.

    `says` hears what it says that is not an answer, nor about itself.
    """

    def __init__(self, place: Place, name: str, *, says: Says) -> None:
        self.place = place
        self.name = name
        """No other worker of this supervisor has it, or will."""

        self.pid = 0
        self.settings_number = 0
        """Which settings it works by."""

        self.is_leaving = False
        self.is_outdated = False
        """Whether it could not take what is in force, and is to be replaced."""

        self.is_hung = False
        """Whether it was ended for not turning its loop."""

        self.was_killed = False
        """Whether its supervisor has ended it."""

        self.problems: list[str] = []
        """Why it could not start, in its own words."""

        loop = asyncio.get_running_loop()
        self.came_up: asyncio.Future[bool] = loop.create_future()
        """Whether it ever served; known once it does, or is gone."""

        self.gone: asyncio.Future[int] = loop.create_future()
        """Its exit code, once it has ended."""

        self._says = says
        self._messages = Messages(self._hears, lambda: None)
        self._turned_at = monotonic()
        self._beat: Message = {}

    async def start(self, listeners: Listeners, settings: bytes, number: int) -> None:
        """Begin its life, with these settings. Raises OSError, and RuntimeError where no thread can be had."""
        ours, its = socket.socketpair()
        with its:
            ours.setblocking(False)
            await asyncio.get_running_loop().create_unix_connection(lambda: self._messages, sock=ours)
            try:
                process = await self._process(its, listeners)
            except BaseException:
                self._messages.close()  # so one that was born, and cannot be watched, goes
                raise
        self.pid, self.settings_number = process.pid, number
        self._turned_at = monotonic()
        self.say("settings", settings, number=number)
        self._end_awaited = asyncio.create_task(self._await_end(process))

    async def _process(self, control: socket.socket, listeners: Listeners) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *sys.orig_argv[1:],
            stdin=asyncio.subprocess.DEVNULL,
            pass_fds=[control.fileno(), *(one.fileno() for one in listeners)],
            env=os.environ | bequeath(self.place, control.fileno(), listeners.slots),
            # What a terminal sends to its foreground is the supervisor's to deal with.
            start_new_session=True,
        )

    async def _await_end(self, process: asyncio.subprocess.Process) -> None:
        code = await process.wait()
        # What it said last may still lie in the socket.
        await self._messages.over()
        if not self.came_up.done():
            self.came_up.set_result(False)
        self.gone.set_result(code)

    # What it is told

    def say(self, what: str, rest: bytes = b"", /, **members: object) -> None:
        """Tell it something; lost where it is gone."""
        self._messages.say(what, rest, **members)

    async def ask(self, what: str, rest: bytes = b"", /, **members: object) -> Message:
        """Ask it something. Raises OtherEndGone."""
        return await self._messages.ask(what, rest, **members)

    def answer(self, question: Message, **members: object) -> None:
        """Answer what it asked."""
        self._messages.answer(question, **members)

    def leave(self) -> None:
        """Have it finish what it serves and go: its successor accepts from now on."""
        self.is_leaving = True
        self.say("leave")

    def kill(self) -> None:
        """End it, whatever it does."""
        self.was_killed = True
        self._send(signal.SIGKILL)

    def dump(self) -> None:
        """Have it write down where its threads are."""
        self._send(signal.SIGUSR1)

    def _send(self, number: signal.Signals) -> None:
        if not self.gone.done():
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass  # its end is just being heard of

    # What is known of it

    @property
    def is_up(self) -> bool:
        """Whether it has come up and has not been heard to end."""
        return self.came_up.done() and self.came_up.result() and not self.gone.done()

    @property
    def turned_seconds_ago(self) -> float:
        """Since its loop was last heard to turn."""
        return monotonic() - self._turned_at

    def excuse(self, seconds: float) -> None:
        """It could not be heard for so long."""
        self._turned_at = min(self._turned_at + seconds, monotonic())

    @property
    def turns(self) -> bool:
        """Whether it serves, as far as can be told."""
        return self.is_up and self.turned_seconds_ago < SILENT_SECONDS

    @property
    def state(self) -> WorkerState:
        """What load balancers and metrics are told."""
        return WorkerState(
            index=self.place.index,
            pid=self.pid,
            state=self._stage,
            turned_seconds_ago=self.turned_seconds_ago,
            ready=self.turns and bool(self._beat.get("ready")),
            reasons=tuple(_reasons(self._beat)) if self.is_up else (_STARTED,),
        )

    @property
    def _stage(self) -> State:
        if not self.is_up:
            return State.STARTING
        if self.turned_seconds_ago >= SILENT_SECONDS:
            return State.HUNG
        return State.LEAVING if self.is_leaving else State.READY

    def _hears(self, message: Message, rest: bytes) -> None:
        self._turned_at = monotonic()
        match message["say"]:
            case "beat":
                self._beat = message
            case "ready":
                if not self.came_up.done():
                    self.came_up.set_result(True)
            case "failed":
                self.problems = message["problems"]
            case _:
                self._says(self, message, rest)


def _reasons(beat: Mapping[str, object]) -> list[Reason]:
    told = beat.get("reasons", [])
    assert isinstance(told, list)
    return [Reason(code, message) for code, message in told]
