"""What counts: counters, histograms and gauges on a registry, added to in place and read by snapshots.

An addition is an addition: no lock, no call, on the one thread that serves exchanges. What other threads add to is a
`Count`, which has a lock. Every series keeps its place for the life of the process, so that a snapshot is its numbers
in their order, and a name has to be told but once.
"""

from __future__ import annotations

import logging
import threading
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from math import isnan, nan
from typing import Generic, Protocol, TypeVar

from gateway.exchange.series_room import MOST_SERIES, SeriesRoom

_log = logging.getLogger("gateway.metrics")
_Cell = TypeVar("_Cell")


class Kind(StrEnum):
    """What a number means."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Rule(StrEnum):
    """What several workers' values of one series are together."""

    SUM = "sum"
    MAX = "max"
    MIN = "min"
    EACH = "each"
    """Nothing: each worker has a series of its own, by the label `worker`."""


@dataclass(frozen=True, slots=True)
class Description:
    """What one instrument is, whoever reads it: also a process of another version."""

    name: str
    kind: Kind
    documentation: str
    labels: tuple[str, ...] = ()
    rule: Rule = Rule.SUM
    last: tuple[str | None, ...] = ()
    """Of a counter whose last label is one of a few: those; None is never shown."""

    bounds: tuple[float, ...] = ()
    """Of a histogram: the largest value in each bucket but the last."""

    @property
    def width(self) -> int:
        """How many numbers one series has."""
        if self.kind is Kind.HISTOGRAM:
            return len(self.bounds) + 2
        return len(self.last) or 1

    @property
    def lines(self) -> int:
        """How many series one of these is at most, as Prometheus counts them."""
        if self.kind is Kind.HISTOGRAM:
            return len(self.bounds) + 3
        return sum(last is not None for last in self.last) or 1

    @property
    def own_labels(self) -> tuple[str, ...]:
        """Those that tell one series from another."""
        return self.labels[:-1] if self.last else self.labels


Exemplar = tuple[str, float, float]
"""One exchange of those in a bucket: its id, its value, and when it ended, in unix seconds."""


class Instrument(Protocol):
    """One instrument, as it is read."""

    description: Description

    def shown(self) -> int:
        """How many series this is by now, as Prometheus counts them."""

    def names(self) -> list[tuple[str, ...]]:
        """The values of the labels of every series so far, in an order to which new ones are only appended."""

    def values(self, first: int, end: int) -> array[float]:
        """The numbers of the series from `first` to before `end`, each series' together."""

    def exemplars(self, first: int, end: int) -> list[tuple[int, int, Exemplar]]:
        """Of these series the last exchange in each bucket since they were asked for it: series, bucket, exemplar."""


class Registry:
    """The instruments of one process, each under a name of its own, and the room for their series."""

    def __init__(self, most_series: int = MOST_SERIES) -> None:
        self.instruments: list[Instrument] = []
        self.room = SeriesRoom(most_series, recount=self._shown)

    def register(self, instrument: Instrument) -> None:
        """Add one."""
        name = instrument.description.name
        assert all(name != other.description.name for other in self.instruments), name
        self.instruments.append(instrument)
        if instrument.description.labels:
            self.room.keep(instrument.description.lines)

    def _shown(self) -> int:
        return sum(instrument.shown() for instrument in self.instruments)


class _Series(Generic[_Cell]):
    """The series of one instrument by the values of their labels, each there from its first use on."""

    def __init__(self, description: Description, registry: Registry) -> None:
        self.description = description
        self._series: dict[tuple[str, ...], _Cell] = {}
        self._room = registry.room
        registry.register(self)

    def labels(self, *values: str) -> _Cell:
        """The series with these labels; where there is no room for one more, that which stands for others."""
        cell = self._series.get(values)
        if cell is None:
            # Not to be made twice, on two threads at once: one of them would be lost.
            cell = self._series.setdefault(self._named(values), self._new())
        return cell

    def shown(self) -> int:
        return len(self._series) * self.description.lines

    def _named(self, values: tuple[str, ...]) -> tuple[str, ...]:
        description = self.description
        return self._room.named(description.own_labels, values, description.lines, self._series.__contains__)

    def _new(self) -> _Cell:
        raise NotImplementedError

    def names(self) -> list[tuple[str, ...]]:
        return list(self._series)

    def values(self, first: int, end: int) -> array[float]:
        values: array[float] = array("d")
        for cell in list(self._series.values())[first:end]:
            values.extend(self._numbers(cell))
        return values

    def exemplars(self, first: int, end: int) -> list[tuple[int, int, Exemplar]]:  # noqa: ARG002
        return []

    def _numbers(self, cell: _Cell) -> Sequence[float]:
        raise NotImplementedError


class Tally:
    """One series of a counter. Whoever has it adds to `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Tallies(_Series[Tally]):
    """A counter that the thread which serves exchanges adds to."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str], *, registry: Registry) -> None:
        super().__init__(Description(name, Kind.COUNTER, documentation, tuple(labels)), registry)

    def _new(self) -> Tally:
        return Tally()

    def values(self, first: int, end: int) -> array[float]:
        return array("d", [tally.value for tally in list(self._series.values())[first:end]])


class Count:
    """One series of a counter that any thread may add to."""

    __slots__ = ("_lock", "value")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.value = 0.0

    def inc(self, amount: float = 1) -> None:
        """Add to it."""
        with self._lock:
            self.value += amount


class Counts(_Series[Count]):
    """A counter of what happens seldom, on whatever thread; without labels it is there from the start."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, registry: Registry
    ) -> None:
        super().__init__(Description(name, Kind.COUNTER, documentation, tuple(labels)), registry)

    def _new(self) -> Count:
        return Count()

    def _numbers(self, cell: Count) -> Sequence[float]:
        return (cell.value,)


class Sums(_Series[list[float]]):
    """A counter whose last label is one of a few: all series of the other labels are added to at once.

    A series is shown once it is more than nothing.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        of: Sequence[str | None],
        registry: Registry,
    ) -> None:
        """`of`: the values of the last label, in the order in which they are added; None: that one is not shown."""
        super().__init__(
            Description(name, Kind.COUNTER, documentation, tuple(labels), last=tuple(of)), registry
        )

    def shown(self) -> int:
        lasts = self.description.last
        return sum(
            bool(value) and last is not None
            for cell in list(self._series.values())
            for last, value in zip(lasts, cell, strict=True)
        )

    def _new(self) -> list[float]:
        """One number for each value of the last label. Whoever has them adds to them in place."""
        return [0.0] * len(self.description.last)

    def values(self, first: int, end: int) -> array[float]:
        return array("d", chain.from_iterable(list(self._series.values())[first:end]))


class Spread:
    """One series of a histogram. Whoever has it adds to a count and to the sum, as `observe` does."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How many were at most as large as each bound and larger than the one before; last, those beyond all."""

        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}
        """The last of each bucket where whoever adds says which exchange it is, until they are read."""

    def observe(self, value: float) -> None:
        """Add one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def observe_exchange(self, value: float, exchange: str | None, ended_time: float) -> None:
        """Add one of an exchange that ended then (unix seconds), and name it by its id, if there is one."""
        bucket = bisect_left(self.bounds, value)
        self.counts[bucket] += 1
        self.sum += value
        if exchange is not None:
            self.exemplars[bucket] = exchange, value, ended_time


class Spreads(_Series[Spread]):
    """A histogram."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str] = (),
        *,
        bounds: Sequence[float],
        rule: Rule = Rule.SUM,
        registry: Registry,
    ) -> None:
        super().__init__(
            Description(
                name,
                Kind.HISTOGRAM,
                documentation,
                tuple(labels),
                rule,
                bounds=tuple(map(float, bounds)),
            ),
            registry,
        )

    def _new(self) -> Spread:
        return Spread(self.description.bounds)

    def exemplars(self, first: int, end: int) -> list[tuple[int, int, Exemplar]]:
        found = []
        for series, cell in enumerate(list(self._series.values())[first:end], first):
            if cell.exemplars:
                exemplars, cell.exemplars = cell.exemplars, {}
                found += [(series, bucket, exemplar) for bucket, exemplar in list(exemplars.items())]
        return found

    def _numbers(self, cell: Spread) -> Sequence[float]:
        return (*cell.counts, cell.sum)


class Gauges(_Series[Callable[[], float]]):
    """What is now, and is asked for when somebody looks; NaN: there is nothing to show.

    What several workers' values are together is for each gauge to say: nothing goes without saying.
    """

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, rule: Rule, registry: Registry
    ) -> None:
        super().__init__(Description(name, Kind.GAUGE, documentation, tuple(labels), rule), registry)
        self._has_failed = False
        self._others: dict[tuple[str, ...], Callable[[], float]] = {}
        """What is asked for the one series that stands for others."""

    def watch(self, read: Callable[[], float], *labels: str) -> None:
        """Let the series with these labels show what `read` says, on whatever thread it is asked."""
        if labels in self._others:
            self._others[labels] = read
            return
        named = labels if labels in self._series else self._named(labels)
        if named != labels:
            self._others[labels] = read
            read = self._of_others
        self._series[named] = read

    def set(self, value: float, *labels: str) -> None:
        """Let it show this."""
        self.watch(lambda: value, *labels)

    def _of_others(self) -> float:
        values = [value for read in list(self._others.values()) if not isnan(value := read())]
        if not values:
            return nan
        rule = self.description.rule
        return sum(values) if rule is Rule.SUM else min(values) if rule is Rule.MIN else max(values)

    def _numbers(self, cell: Callable[[], float]) -> Sequence[float]:
        try:
            return (cell(),)
        except Exception:  # noqa: BLE001 (whatever is wrong with one, all others are still to be seen)
            if not self._has_failed:
                self._has_failed = True
                _log.exception("%s cannot be read", self.description.name)
            return (nan,)
