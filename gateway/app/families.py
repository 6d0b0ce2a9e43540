"""One instrument of all workers together: its series, what the dead have left of it, and its lines of the page."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import inf, isnan
from typing import assert_never

from gateway.exchange.instruments import Description, Exemplar, Kind, Rule
from gateway.exchange.series_room import SeriesRoom

NOWHERE = -1
"""The place of what is not shown: the last of all places is nobody's."""

_LINES = 1000
"""Lines that are made in one go: some 0.3 ms."""

Names = tuple[str, ...]
Values = tuple[str, ...]


class Layout:
    """How one worker's numbers of an instrument are arranged: labels in the order of their names, as on the page."""

    def __init__(self, description: Description) -> None:
        self.description = description
        is_each = description.rule is Rule.EACH
        names = (*description.labels, "worker") if is_each else description.labels
        self.own_labels = (*description.own_labels, "worker") if is_each else description.own_labels
        """Those that tell one series from another."""

        self._order = sorted(range(len(names)), key=names.__getitem__)
        self.names: Names = tuple(names[place] for place in self._order)

    def ordered(self, values: Values) -> Values:
        """Values of all labels, each at the place of its name."""
        return tuple([values[place] for place in self._order])


class Family:
    """The series of one name. Each number of a series has a place, which it keeps; a histogram has one per bucket.

    Buckets of several layouts stand beside each other: each worker is right in its own, and the counts of one whose
    buckets are wider appear in the next larger of the others'.
    """

    def __init__(self, description: Description, room: SeriesRoom) -> None:
        self.description = description
        self._room = room
        if description.labels or description.rule is Rule.EACH:
            room.keep(description.lines)
        self._places: dict[tuple[Names, Values, float | None], int] = {}
        self._series: list[tuple[Names, Values, float | None]] = []
        self._starts: list[str] = []
        """Each line up to its value, once it has been shown."""

        self._buckets: dict[tuple[Names, Values], dict[float, int]] = {}
        self._departed: list[float] = []
        self._exemplars: dict[int, tuple[float, str]] = {}
        """When the latest exchange ended that is known of a bucket, and what stands behind the line for it."""

    def places(self, layout: Layout, values: Values, worker: str) -> list[int]:
        """Those of the numbers of one series of a worker, made where they are new.

        Where the last label is one of a few each number gets one by `place_of_last`, once it is more than nothing.
        """
        description = layout.description
        if description.last:
            return [NOWHERE] * len(description.last)
        names = layout.names
        values = self._named(layout, values, worker, description.lines)
        if description.kind is not Kind.HISTOGRAM:
            return [self._place(names, values)]
        buckets = {bound: self._place(names, values, bound) for bound in (*description.bounds, inf)}
        known = self._buckets.get((names, values), {})
        if not buckets.keys() <= known.keys():
            if known:
                self._room.taken += len(buckets.keys() - known.keys())
            self._buckets[names, values] = dict(sorted({**known, **buckets}.items()))
        return [*buckets.values(), self._place(names, values)]

    def place_of_last(self, layout: Layout, values: Values, last: str, worker: str) -> int:
        """That of one number of a series of a worker."""
        return self._place(layout.names, self._named(layout, values, worker, 1, last))

    def _named(self, layout: Layout, values: Values, worker: str, lines: int, *last: str) -> Values:
        """The values of all labels by which a series of a worker is known here, if there is room for its lines."""

        def is_there(values: Values) -> bool:
            return (layout.names, layout.ordered((*values, *last)), None) in self._places

        if layout.description.rule is Rule.EACH:
            values = (*values, worker)
        if not is_there(values):
            values = self._room.named(layout.own_labels, values, lines, is_there)
        return layout.ordered((*values, *last))

    def _place(self, names: Names, values: Values, bound: float | None = None) -> int:
        series = names, values, bound
        place = self._places.setdefault(series, len(self._series))
        if place == len(self._series):
            self._series.append(series)
            self._starts.append("")
            self._departed.append(0.0)
        return place

    def exemplify(self, place: int, exemplar: Exemplar) -> None:
        """Know of an exchange that is counted there: of several workers' the latest is shown."""
        exchange, value, time = exemplar
        if time > self._exemplars.get(place, (0.0, ""))[0]:
            text = f' # {{request_id="{_escaped(exchange)}"}} {_shown(value)} {time:.3f}'
            self._exemplars[place] = time, text

    def departs(self, places: Iterable[int], values: Iterable[float]) -> None:
        """Keep what a worker that is gone had counted; what only was, is no more."""
        if self.description.kind is Kind.GAUGE:
            return
        for place, value in zip(places, values, strict=False):
            if place != NOWHERE:
                self._departed[place] += value

    def totals(self, living: Iterable[tuple[Sequence[int], array[float]]]) -> list[float | None]:
        """The numbers of all workers together, by their places; None: there is nothing to show."""
        if self.description.kind is Kind.GAUGE:
            return self._gauged(living)
        totals = [*self._departed, 0.0]
        for places, values in living:
            for place, value in zip(places, values, strict=False):
                totals[place] += value
        totals.pop()
        if self.description.last:
            return [total or None for total in totals]
        return [*totals]

    def _gauged(self, living: Iterable[tuple[Sequence[int], array[float]]]) -> list[float | None]:
        rule = self.description.rule
        totals: list[float | None] = [None] * (len(self._series) + 1)
        for places, values in living:
            for place, value in zip(places, values, strict=False):
                before = totals[place]
                if isnan(value):
                    continue
                if before is None:
                    totals[place] = value
                elif rule is Rule.SUM:
                    totals[place] = before + value
                else:
                    totals[place] = min(before, value) if rule is Rule.MIN else max(before, value)
        totals.pop()
        return totals

    def head(self, *, openmetrics: bool) -> str:
        """The two lines that begin it."""
        description = self.description
        name, text = description.name, description.documentation.replace("\\", r"\\").replace("\n", r"\n")
        if openmetrics:
            text = text.replace('"', r"\"")
        elif description.kind is Kind.COUNTER:
            name += "_total"
        return f"# HELP {name} {text}\n# TYPE {name} {description.kind}\n"

    def lines(self, totals: Sequence[float | None], *, openmetrics: bool = False) -> Iterator[str]:
        """A line for each of these numbers, many at once; only OpenMetrics has room for exemplars."""
        if self.description.kind is Kind.HISTOGRAM:
            lines = self._histogram(totals, self._exemplars if openmetrics else {})
        else:
            lines = self._lines(totals)
        while some := "".join(islice(lines, _LINES)):
            yield some

    def numbers(self, totals: Sequence[float | None]) -> Iterator[tuple[Mapping[str, str], float, float]]:
        """The labels and the number of each of these series; of a histogram how many there were, and their sum."""
        if self.description.kind is not Kind.HISTOGRAM:
            for (names, values, _), value in zip(self._series, totals, strict=False):
                if value is not None:
                    yield dict(zip(names, values, strict=True)), value, value
            return
        for (names, values), buckets in tuple(self._buckets.items()):
            places = (*buckets.values(), self._places.get((names, values, None), len(totals)))
            *counts, total = (totals[place] or 0.0 if place < len(totals) else 0.0 for place in places)
            yield dict(zip(names, values, strict=True)), sum(counts), total

    def _lines(self, totals: Sequence[float | None]) -> Iterator[str]:
        starts = self._starts
        shown = _shown if self.description.kind is Kind.GAUGE else repr
        for place, value in enumerate(totals):
            if value is not None:
                yield f"{starts[place] or self._start(place)}{shown(value)}\n"

    def _histogram(
        self, totals: Sequence[float | None], exemplars: Mapping[int, tuple[float, str]]
    ) -> Iterator[str]:
        starts, name = self._starts, self.description.name
        for (names, values), buckets in tuple(self._buckets.items()):
            sum_place = self._places.get((names, values, None), len(totals))
            if sum_place >= len(totals):
                continue  # heard of after these numbers were added up
            in_all = 0.0
            for place in buckets.values():
                if place < len(totals):
                    in_all += totals[place] or 0.0
                    exemplar = exemplars[place][1] if place in exemplars else ""
                    yield f"{starts[place] or self._start(place)}{in_all!r}{exemplar}\n"
            yield f"{name}_count{_text(names, values)} {in_all!r}\n"
            yield f"{starts[sum_place] or self._start(sum_place)}{totals[sum_place]!r}\n"

    def _start(self, place: int) -> str:
        names, values, bound = self._series[place]
        name = self.description.name
        match self.description.kind:
            case Kind.GAUGE:
                start = name + _text(names, values)
            case Kind.COUNTER:
                start = f"{name}_total{_text(names, values)}"
            case Kind.HISTOGRAM if bound is None:
                start = f"{name}_sum{_text(names, values)}"
            case Kind.HISTOGRAM:
                labels = sorted((*zip(names, values, strict=True), ("le", _shown(bound))))
                start = f"{name}_bucket{_text(*zip(*labels, strict=True))}"
            case never:
                assert_never(never)
        start = self._starts[place] = f"{start} "
        return start


def _text(names: Names, values: Values) -> str:
    if not names:
        return ""
    return (
        "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True)) + "}"
    )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _shown(value: float) -> str:
    return "+Inf" if value == inf else "-Inf" if value == -inf else repr(value)
