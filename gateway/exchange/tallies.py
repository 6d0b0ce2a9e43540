"""Counters and histograms that every exchange adds to: in place, by one thread, without a lock.

They stand in a registry beside prometheus_client's own instruments, and are read as these are; its children take a
lock and half a dozen calls for each addition.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tally:
    """One series of a counter. Whoever has it adds to `value`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Tallies(Collector):
    """A counter: its series by the values of its labels, each there from its first use on."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], *, registry: CollectorRegistry
    ) -> None:
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(labels)
        self._series: dict[tuple[str, ...], Tally] = {}
        registry.register(self)

    def labels(self, *values: str) -> Tally:
        """The series with these labels."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = Tally()
        return series

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What a scrape sees; asked on other threads."""
        family = CounterMetricFamily(self.name, self.documentation, labels=self.label_names)
        for values, series in tuple(self._series.items()):
            family.add_metric(values, series.value)
        yield family


class Spread:
    """One series of a histogram."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How many were at most as large as each bound and larger than the one before; last, those beyond all."""

        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.sum += value


class Spreads(Collector):
    """A histogram: its series by the values of its labels, each there from its first use on."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        bounds: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(labels)
        self._bounds = tuple(map(float, bounds))
        self._series: dict[tuple[str, ...], Spread] = {}
        registry.register(self)

    def labels(self, *values: str) -> Spread:
        """The series with these labels."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = Spread(self._bounds)
        return series

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What a scrape sees; asked on other threads."""
        family = HistogramMetricFamily(self.name, self.documentation, labels=self.label_names)
        names = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, series in tuple(self._series.items()):
            in_all, buckets = 0, []
            for bound, count in zip(names, tuple(series.counts), strict=True):
                in_all += count
                buckets.append((bound, in_all))
            family.add_metric(values, buckets, series.sum)
        yield family
