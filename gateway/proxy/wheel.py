"""Deadlines by the thousand: one timer for all of them, and nothing to cancel for each piece that arrives.

Whoever has a deadline says when it is due at the earliest, is asked then, and says when to be asked again: a stream
that goes on only notes when its last piece came.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

STEP_SECONDS = 0.05
"""How much later than it is due somebody may be asked."""

_FAR_SECONDS = 20.0
_FAR_STEPS = 20
"""Deadlines so far away are kept in steps of so many: they are many, and hardly any is ever reached."""


class Timed(Protocol):
    """Something that may take too long. `due_step` is written by the wheel alone."""

    due_step: int | None

    def due(self, now: float) -> float | None:
        """Asked at `now` (loop time): end what took too long, or say when to ask again; None: never."""


class Wheel:
    """The deadlines of one loop."""

    __slots__ = ("_loop", "_steps", "_timer", "_timer_step")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._steps: dict[int, dict[Timed, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_step = 0

    def ask(self, timed: Timed, at: float) -> None:
        """Ask `timed` at `at` (loop time), or a little later; replaces what was said before."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        step = int(at / STEP_SECONDS) + 1
        if at - self._loop.time() > _FAR_SECONDS:
            step += -step % _FAR_STEPS
        if timed.due_step == step:
            return
        if timed.due_step is not None:
            self.forget(timed)
        timed.due_step = step
        due = self._steps.get(step)
        if due is None:
            due = self._steps[step] = {}
            if self._timer is None or step < self._timer_step:
                self._set_timer(step)
        due[timed] = None

    def forget(self, timed: Timed) -> None:
        """Ask it no more; nothing for one that is not asked."""
        step, timed.due_step = timed.due_step, None
        if step is None:
            return
        due = self._steps.get(step)
        if due is not None:
            due.pop(timed, None)
            if not due:
                del self._steps[step]

    def _set_timer(self, step: int) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer_step = step
        self._timer = self._loop.call_at(step * STEP_SECONDS, self._turn)

    def _turn(self) -> None:
        """Ask everybody who is due."""
        self._timer = None
        assert self._loop is not None
        now = self._loop.time()
        for step in sorted(step for step in self._steps if step * STEP_SECONDS <= now):
            for timed in self._steps.pop(step):
                if timed.due_step != step:
                    continue  # somebody who was due before it has had it forgotten
                timed.due_step = None
                again = timed.due(now)
                if again is not None:
                    self.ask(timed, again)
        if self._steps:
            self._set_timer(min(self._steps))
