"""Something that is called again and again, exactly: an event loop's own timers count whole milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from time import CLOCK_MONOTONIC, monotonic_ns

_ABSOLUTE = 1
_SLOT_NS = 250_000


class _Times(ctypes.Structure):
    """The C library's itimerspec."""

    _fields_ = (
        ("every_seconds", ctypes.c_long),
        ("every_nanoseconds", ctypes.c_long),
        ("first_seconds", ctypes.c_long),
        ("first_nanoseconds", ctypes.c_long),
    )


class Beat:
    """Calls from `first_ns` on (of the monotonic clock), every so many nanoseconds, until it is closed.

    Beats that were missed are one call.
    """

    def __init__(self, first_ns: int, every_ns: int, call: Callable[[], None]) -> None:
        self._call = call
        library = ctypes.CDLL(None, use_errno=True)
        self._descriptor = library.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), "the system has no timer to give")
        times = _Times(*divmod(every_ns, 10**9), *divmod(first_ns, 10**9))
        library.timerfd_settime(self._descriptor, _ABSOLUTE, ctypes.byref(times), None)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._beat)

    def _beat(self) -> None:
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return
        self._call()

    def close(self) -> None:
        """Call no more."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1


class Schedule:
    """Calls that are due, looked at four times a millisecond: thousands of streams share one timer."""

    def __init__(self) -> None:
        self._slots: dict[int, list[Callable[[], None]]] = {}
        self._next = 0
        self._beat: Beat | None = None

    def at(self, due_ns: int, call: Callable[[], None]) -> None:
        """Call at this moment of the monotonic clock, or up to a quarter of a millisecond later."""
        slot = due_ns // _SLOT_NS + 1
        if self._beat is None:
            self._next = slot
            self._beat = Beat(slot * _SLOT_NS, _SLOT_NS, self._turn)
        self._slots.setdefault(max(slot, self._next), []).append(call)

    def _turn(self) -> None:
        now = monotonic_ns() // _SLOT_NS
        first, self._next = self._next, now + 1
        for slot in range(first, now + 1):
            for call in self._slots.pop(slot, ()):
                call()
        if not self._slots:
            self.close()

    def close(self) -> None:
        """Forget what was due."""
        self._slots.clear()
        if self._beat is not None:
            self._beat.close()
            self._beat = None
