"""How long it takes from one piece of a stream to the next, for the gauge of how smoothly models write.

An event passes in a few microseconds, so nothing may be done for each. While few streams run every one is watched;
of many one in eight is, and counts for eight. A long silence is seen in every stream, and counts once: the wheel looks
for it, and only the piece that ends it is looked at.
"""

from __future__ import annotations

from bisect import bisect_left
from time import monotonic

from gateway.exchange.instruments import Spread
from gateway.proxy.reply import Reply
from gateway.proxy.wheel import Wheel

_FEW = 4
"""Streams at once, of one process, all of which are watched."""

_ONE_IN = 8

LONG_SECONDS = 2.5
"""What is counted in every stream."""

_LOOK_SECONDS = 1.0
"""After how much silence a stream is looked at whose gaps nobody watches, so that none that becomes long is missed."""

_TOGETHER_SECONDS = 0.5
"""Streams are looked at together, for each look by itself would wake the process."""


class PieceGaps:
    """Chooses the streams of one process that are watched."""

    def __init__(self, gaps: Spread, wheel: Wheel) -> None:
        self._gaps = gaps
        self._wheel = wheel
        self._running = 0
        self._turn = 0

    def watch(self, reply: Reply) -> Pace:
        """The pace of the stream that comes from there; whoever has it ends it."""
        self._running += 1
        weight = 1
        if self._running > _FEW:
            self._turn = (self._turn + 1) % _ONE_IN
            weight = 0 if self._turn else _ONE_IN
        pace = Pace(self._gaps, reply, weight)
        if not weight:
            self._wheel.ask(pace, _look_after(reply.taken_at))
        return pace

    def ended(self, pace: Pace) -> None:
        """That stream is over."""
        self._running -= 1
        self._wheel.forget(pace)


class Pace:
    """The pace of one stream."""

    __slots__ = ("_before", "_gaps", "_reply", "due_step", "weight")

    def __init__(self, gaps: Spread, reply: Reply, weight: int) -> None:
        self.due_step: int | None = None
        self.weight = weight
        """For how many gaps like it one counts that is not long; 0: nobody looks at those."""

        self._gaps = gaps
        self._reply = reply
        self._before: float | None = None
        """When the last piece came, where that is known and matters."""

    def came(self) -> None:
        """A piece has come; told of each where they are watched, else of some."""
        now, before, weight = monotonic(), self._before, self.weight
        self._before = now if weight else None
        if before is None:
            return
        gap = now - before
        if gap >= LONG_SECONDS:
            weight = 1
        gaps = self._gaps
        gaps.counts[bisect_left(gaps.bounds, gap)] += weight
        gaps.sum += gap * weight

    def due(self, now: float) -> float:
        """Have the next piece looked at where there is silence."""
        reply = self._reply
        if now < reply.taken_at + _LOOK_SECONDS:
            return _look_after(reply.taken_at)
        if self._before is None and not (reply.held or reply.surplus):
            self._before = reply.taken_at
            reply.look_again()
        return _look_after(now)


def _look_after(since: float) -> float:
    """When a stream is looked at that has been silent since then."""
    return ((since + _LOOK_SECONDS) // _TOGETHER_SECONDS + 1) * _TOGETHER_SECONDS
