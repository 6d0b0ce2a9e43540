"""One instrument of all workers together: its series, what the dead have left of it, and its lines of the page."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import inf, isnan

from gateway.exchange.instruments import Description, Kind, Rule

Labels = tuple[tuple[str, str], ...]
"""Names and values, by name."""

NOWHERE = -1
"""The place of what is not shown: the last of all places is nobody's."""

_LINES = 1000
"""Lines that are made in one go: some 0.3 ms."""


class Family:
    """The series of one name. Each number of a series has a place, which it keeps; a histogram has one per bucket.

    Buckets of several layouts stand beside each other: each worker is right in its own, and the counts of one whose
    buckets are wider appear in the next larger of the others'.
    """

    def __init__(self, description: Description) -> None:
        self.description = description
        self._places: dict[tuple[Labels, float | None], int] = {}
        self._starts: list[str] = []
        """Each line up to its value; of a histogram's bucket that of the line."""

        self._buckets: dict[Labels, dict[float, int]] = {}
        self._departed: list[float] = []

    def places(self, description: Description, values: Sequence[str], worker: str) -> list[int]:
        """Those of the numbers of one series of a worker, made where they are new."""
        pairs = dict(zip(description.labels, values, strict=False))
        if description.rule is Rule.EACH:
            pairs["worker"] = worker
        if description.kind is Kind.HISTOGRAM:
            labels = _labels(pairs)
            return [self._bucket(labels, bound) for bound in (*description.bounds, inf)] + [
                self._place(labels, None, f"{self.description.name}_sum{_text(labels)} ")
            ]
        if not description.last:
            return [self._plain(pairs)]
        label = description.labels[-1]
        return [NOWHERE if last is None else self._plain(pairs | {label: last}) for last in description.last]

    def _plain(self, pairs: dict[str, str]) -> int:
        labels = _labels(pairs)
        total = "_total" if self.description.kind is Kind.COUNTER else ""
        return self._place(labels, None, f"{self.description.name}{total}{_text(labels)} ")

    def _bucket(self, labels: Labels, bound: float) -> int:
        shown = "+Inf" if bound == inf else repr(bound)
        text = _text(_labels({**dict(labels), "le": shown}))
        place = self._place(labels, bound, f"{self.description.name}_bucket{text} ")
        buckets = self._buckets.get(labels, {})
        if bound not in buckets:
            self._buckets[labels] = dict(sorted((*buckets.items(), (bound, place))))
        return place

    def _place(self, labels: Labels, bound: float | None, start: str) -> int:
        place = self._places.setdefault((labels, bound), len(self._starts))
        if place == len(self._starts):
            self._starts.append(start)
            self._departed.append(0.0)
        return place

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
        totals: list[float | None] = [None] * (len(self._starts) + 1)
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

    def lines(self, totals: Sequence[float | None]) -> Iterator[str]:
        """A line for each of these numbers, many at once."""
        lines = self._histogram(totals) if self.description.kind is Kind.HISTOGRAM else self._lines(totals)
        while some := "".join(islice(lines, _LINES)):
            yield some

    def _lines(self, totals: Sequence[float | None]) -> Iterator[str]:
        shown = _shown if self.description.kind is Kind.GAUGE else repr
        for start, value in zip(self._starts, totals, strict=False):
            if value is not None:
                yield f"{start}{shown(value)}\n"

    def _histogram(self, totals: Sequence[float | None]) -> Iterator[str]:
        starts = self._starts
        for labels, buckets in tuple(self._buckets.items()):
            in_all = 0.0
            sum_place = self._places.get((labels, None), len(totals))
            if sum_place >= len(totals):
                continue  # heard of after these numbers were added up
            for place in buckets.values():
                if place < len(totals):
                    in_all += totals[place] or 0.0
                    yield f"{starts[place]}{in_all!r}\n"
            yield f"{self.description.name}_count{_text(labels)} {in_all!r}\n"
            yield f"{starts[sum_place]}{totals[sum_place]!r}\n"


def _labels(pairs: dict[str, str]) -> Labels:
    return tuple(sorted(pairs.items()))


def _text(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _shown(value: float) -> str:
    return "+Inf" if value == inf else "-Inf" if value == -inf else repr(value)
