"""What gateways have said, as far as rates need it. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

from gateway.app.state import State
from gateway.cli.drawing import shown
from gateway.cli.top.asking import Answer

WINDOW_SECONDS = 10.0
"""Over how long rates are taken: long enough to be read, short enough to be true."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one gateway said last, and what it said some seconds before."""

    now: Answer
    before: State | None = None
    """None while there is nothing to compare with: it has just been asked for the first time, or was restarted."""

    @property
    def state(self) -> State | None:
        """What it said."""
        return self.now.state

    @property
    def seconds(self) -> float:
        """Between both."""
        if self.now.state is None or self.before is None:
            return 0.0
        return self.now.state["time"] - self.before["time"]


class Readings:
    """What each gateway has said, as far as rates need it."""

    def __init__(self) -> None:
        self._kept: dict[str, list[State]] = defaultdict(list)

    def add(self, answers: Iterable[Answer]) -> list[Reading]:
        """What that makes of those, in their order."""
        seen: dict[tuple[str, float], str] = {}
        return [self._read(_once(answer, seen)) for answer in answers]

    def _read(self, answer: Answer) -> Reading:
        state, kept = answer.state, self._kept[answer.url]
        if state is None:
            return Reading(answer)
        if kept and (kept[-1]["started"] != state["started"] or kept[-1]["time"] > state["time"]):
            kept.clear()  # another one, or a clock that was set back
        if kept and kept[-1]["time"] == state["time"]:
            kept.pop()  # it was asked faster than it counts
        kept.append(state)
        while len(kept) > 2 and state["time"] - kept[1]["time"] >= WINDOW_SECONDS:
            del kept[0]
        return Reading(answer, kept[0] if len(kept) > 1 else None)


def _once(answer: Answer, seen: dict[tuple[str, float], str]) -> Answer:
    """An answer, unless the same gateway has given one already, by another of its addresses."""
    if answer.state is None:
        return answer
    url = seen.setdefault((answer.state["instance"], answer.state["started"]), answer.url)
    return (
        answer if url == answer.url else replace(answer, state=None, problem=f"is the same as {shown(url)}")
    )
