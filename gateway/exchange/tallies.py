"""Counters and histograms that every exchange adds to: in place, by one thread, without a lock.

They stand in a registry beside prometheus_client's own instruments, and are read as these are; its children take a
lock and half a dozen calls for each addition.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from gateway.endings import Ending


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


class Sums(Collector):
    """A counter whose last label is one of a few: all series of the other labels are added to at once.

    A series is there once it is more than nothing.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        *,
        of: Sequence[str | None],
        registry: CollectorRegistry,
    ) -> None:
        """`of`: the values of the last label, in the order in which they are added; None: that one is not shown."""
        self.name = name
        self.documentation = documentation
        self.label_names = tuple(labels)
        self._of = tuple(of)
        self._series: dict[tuple[str, ...], list[float]] = {}
        registry.register(self)

    def labels(self, *values: str) -> list[float]:
        """The series with these labels and each of the last. Whoever has them adds to them in place."""
        return self._series.setdefault(values, [0.0] * len(self._of))

    def collect(self) -> Iterator[CounterMetricFamily]:
        """What a scrape sees; asked on other threads."""
        family = CounterMetricFamily(self.name, self.documentation, labels=self.label_names)
        for values, sums in tuple(self._series.items()):
            for last, value in zip(self._of, sums, strict=True):
                if value and last is not None:
                    family.add_metric((*values, last), value)
        yield family


class Spread:
    """One series of a histogram. Whoever has it adds to a count and to the sum, as `observe` does."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How many were at most as large as each bound and larger than the one before; last, those beyond all."""

        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Add one."""
        self.counts[bisect_left(self.bounds, value)] += 1
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


class Families(Protocol):
    """The instruments to which exchanges add."""

    exchanges: Tallies
    decisions: Tallies
    exchange_seconds: Tallies
    bytes: Sums
    duration: Spreads
    first_byte: Spreads
    overhead: Spreads
    usage: Sums
    usage_estimated: Tallies


class ExchangeTallies:
    """What the exchanges of one tenant and operation add to; a series of what has not happened yet is not there."""

    __slots__ = (
        "_families",
        "_labels",
        "bytes",
        "duration",
        "ended",
        "first_byte",
        "granted",
        "overhead",
        "seconds",
        "usage",
    )

    def __init__(self, families: Families, tenant: str, operation: str) -> None:
        self._families = families
        self._labels = tenant, operation
        self.seconds = families.exchange_seconds.labels(tenant, operation)
        self.duration = families.duration.labels(operation)
        self.overhead = families.overhead.labels(operation)
        self.bytes = families.bytes.labels(tenant, operation)
        """Body bytes, in and out."""

        self.usage = families.usage.labels(tenant, operation)
        """In the order of `Usage`."""

        self.ended: dict[tuple[int | None, Ending | None], Tally] = {}
        """Exchanges by status and ending, as far as `so_ended` has been asked for them."""

        self.first_byte: Spread | None = None
        """None until `first_byte_began` has been asked for it."""

        self.granted: Tally | None = None
        """What the limiter granted; None until `was_granted` has been asked for it."""

    def was_granted(self) -> Tally:
        """What the limiter granted the tenant, whatever the operation."""
        tally = self.granted = self._families.decisions.labels(self._labels[0], "granted", "none")
        return tally

    def so_ended(self, status: int | None, ending: Ending | None) -> Tally:
        """Those with this status that ended so."""
        labels = *self._labels, status_class(status), str(ending or Ending.FAILED)
        tally = self.ended[status, ending] = self._families.exchanges.labels(*labels)
        return tally

    def first_byte_began(self) -> Spread:
        """Until the first byte of an answer's body."""
        spread = self.first_byte = self._families.first_byte.labels(self._labels[1])
        return spread

    @property
    def estimated(self) -> Tally:
        """Those whose usage was estimated."""
        return self._families.usage_estimated.labels(*self._labels)


def status_class(status: int | None) -> str:
    """`2xx` for 200, and so on; `none` where no answer was sent."""
    return "none" if status is None else f"{status // 100}xx"
