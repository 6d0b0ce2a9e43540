"""What all workers have counted, living and dead: one page for all, on which no counter ever goes back."""

from __future__ import annotations

import logging
import threading
from array import array
from collections.abc import Callable, Iterator, Mapping
from itertools import repeat
from operator import le

from gateway.app.families import NOWHERE, Family, Layout
from gateway.app.snapshots import Part, Snapshot, SnapshotUnreadable, read_snapshot
from gateway.exchange.instruments import Description, Kind
from gateway.exchange.series_room import MOST_SERIES, SeriesRoom

_log = logging.getLogger("gateway.metrics")
_REMEMBERED = 4096
"""Names of the dead that are known as such; each was told in the order of their deaths."""


class _Numbers:
    """Those of one instrument of one worker."""

    __slots__ = ("description", "family", "layout", "places", "unplaced", "values")

    def __init__(self, description: Description, family: Family) -> None:
        self.description = description
        self.family = family
        self.layout = Layout(description)
        self.places: list[int] = []
        self.unplaced: dict[int, tuple[tuple[str, ...], str]] = {}
        """Those whose last label is one of a few, until they are more than nothing: the values of all labels."""

        self.values: array[float] = array("d")

    def named(self, part: Part, worker: str) -> None:
        """Find the places of the series whose names came with this part."""
        width = self.description.width
        if (missing := part.end * width - len(self.places)) > 0:
            self.places.extend(repeat(NOWHERE, missing))
        for series, names in enumerate(part.names, part.end - len(part.names)):
            places = self.family.places(self.layout, names, worker)
            self.places[series * width : (series + 1) * width] = places
            for at, last in enumerate(self.description.last, series * width):
                if last is not None:
                    self.unplaced[at] = names, last
        for number, exemplar in part.exemplars:
            if self.places[number] != NOWHERE:
                self.family.exemplify(self.places[number], exemplar)

    def place_used(self, worker: str) -> None:
        """Find the places of those that are more than nothing by now."""
        values = self.values
        used = [at for at in self.unplaced if at < len(values) and values[at]]
        for at in used:
            names, last = self.unplaced.pop(at)
            self.places[at] = self.family.place_of_last(self.layout, names, last, worker)

    def counted(self, values: array[float]) -> None:
        """Take the latest numbers; of what counts only those that are not less than before."""
        if self.description.kind is not Kind.GAUGE:
            before = self.values
            before.extend(repeat(0.0, len(values) - len(before)))
            values.extend(repeat(0.0, len(before) - len(values)))
            if not all(map(le, before, values)):
                values = array("d", map(max, before, values))
        self.values = values


class _Worker:
    """What has been heard of one."""

    __slots__ = ("index", "number", "numbers", "odd")

    def __init__(self, index: int) -> None:
        self.index = index
        self.number = 0
        self.numbers: dict[str, _Numbers] = {}
        self.odd: set[str] = set()
        """What is not shown of it, as far as that has been said."""


class Counted:
    """Adds up the snapshots of all workers. Heard on one thread, shown on another."""

    def __init__(
        self,
        *,
        refused: Callable[[str], None] = lambda _: None,
        folded: Callable[[], None] = lambda: None,
        most_series: int = MOST_SERIES,
    ) -> None:
        """`refused` is told why something does not count: `unreadable` or `unknown`; `folded` of each series for which
        there is no room, for all together may not have more than one of them.
        """
        self.room = SeriesRoom(most_series)
        self.room.folded = folded
        self._refused = refused
        self._lock = threading.Lock()
        self._families: dict[str, Family] = {}
        self._workers: dict[str, _Worker] = {}
        self._gone: dict[str, None] = {}

    def hear(self, worker: str, index: int, snapshot: bytes) -> None:
        """Take a snapshot of a worker, which is one process for ever; in whatever order they come, and how often.

        What is no snapshot changes nothing and is counted. Nothing is heard of a worker that is gone.
        """
        try:
            read = read_snapshot(snapshot)
        except SnapshotUnreadable as error:
            _log.warning("a snapshot of the metrics of %s cannot be read: %s", worker, error)
            self._refused("unreadable")
            return
        with self._lock:
            if worker in self._gone:
                return
            known = self._workers.setdefault(worker, _Worker(index))
            odd = {*read.unknown, *self._take(known, read)} - known.odd
            known.odd |= odd
        for what in odd:
            _log.warning("of the metrics of %s this one is not shown: %s", worker, what)
            self._refused("unknown")

    def gone(self, worker: str) -> None:
        """This worker is dead, and everything it said has been heard: keep what it had counted."""
        with self._lock:
            self._gone[worker] = None
            if len(self._gone) > _REMEMBERED:
                del self._gone[next(iter(self._gone))]
            if (known := self._workers.pop(worker, None)) is not None:
                for numbers in known.numbers.values():
                    numbers.family.departs(numbers.places, numbers.values)

    def _take(self, known: _Worker, read: Snapshot) -> set[str]:
        """Take it all; returns what is not shown."""
        odd = set[str]()
        latest: dict[str, array[float]] = {}
        for part in read.parts:
            name = part.description.name
            numbers = self._numbers(known, part.description)
            values = latest.setdefault(name, array("d"))
            if numbers is None or len(values) != part.first * part.description.width:
                odd.add(name)
                continue
            numbers.named(part, str(known.index))
            values.extend(part.values)
        if read.number > known.number:
            known.number = read.number
            for name, numbers in known.numbers.items():
                if name in latest and name not in odd:
                    numbers.counted(latest[name])
        for name in latest:
            if (counted := known.numbers.get(name)) is not None and counted.unplaced:
                counted.place_used(str(known.index))
        return odd

    def _numbers(self, known: _Worker, description: Description) -> _Numbers | None:
        """Where a worker's numbers of an instrument are; None where it is not what it was, or what others have."""
        numbers = known.numbers.get(description.name)
        if numbers is None:
            family = self._families.setdefault(description.name, Family(description, self.room))
            if family.description.kind is not description.kind:
                return None
            numbers = known.numbers[description.name] = _Numbers(description, family)
        return numbers if numbers.description == description else None

    def families(self) -> Iterator[tuple[Family, list[float | None]]]:
        """Every instrument with the numbers of all workers together."""
        for name, family in tuple(self._families.items()):
            yield family, self._totals(name, family)

    def numbers(self, name: str) -> Iterator[tuple[Mapping[str, str], float, float]]:
        """The series of one instrument with the numbers of all workers together, as `Family.numbers` has them.

        None where nobody has counted such a thing.
        """
        if (family := self._families.get(name)) is not None:
            yield from family.numbers(self._totals(name, family))

    def _totals(self, name: str, family: Family) -> list[float | None]:
        with self._lock:
            living = [
                (numbers.places, numbers.values)
                for worker in self._workers.values()
                if (numbers := worker.numbers.get(name)) is not None
            ]
            return family.totals(living)
