"""Where a process spends its time: looked at every few milliseconds of processor time, counted by area of the code.

An area is what the innermost known module on the stack belongs to; what its functions call, system calls included, is
its own. Looking costs the process about a hundredth.
"""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Mapping
from types import FrameType

TURN = signal.SIGRTMIN
"""Of the signals that have a name a gateway uses its own."""

_EVERY_SECONDS = 0.001
NOWHERE = "event loop"
"""No known module was on the stack."""


def area_of(frame: FrameType | None, areas: Mapping[str, str]) -> str:
    """The area of a stack; `areas` are by the beginning of a module's name, and the longest counts."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        while name:
            area = areas.get(name)
            if area is not None:
                return area
            name = name.rpartition(".")[0]
        frame = frame.f_back
    return NOWHERE


class Sampler:
    """Begins to look at one TURN, and tells `found` what it saw at the next. For the main thread."""

    def __init__(self, areas: Mapping[str, str], found: Callable[[dict[str, int]], None]) -> None:
        self._areas = areas
        self._found = found
        self._seen: Counter[str] = Counter()
        self._looking = False

    def install(self) -> None:
        """Take both signals of this process."""
        signal.signal(signal.SIGPROF, self._look)
        signal.signal(TURN, self._turn)

    def _turn(self, _number: int, _frame: FrameType | None) -> None:
        self._looking = not self._looking
        signal.setitimer(signal.ITIMER_PROF, *((_EVERY_SECONDS,) * 2 if self._looking else (0.0, 0.0)))
        if not self._looking:
            seen, self._seen = self._seen, Counter()
            self._found(dict(seen))

    def _look(self, _number: int, frame: FrameType | None) -> None:
        self._seen[area_of(frame, self._areas)] += 1
