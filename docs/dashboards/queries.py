"""PromQL made of the registry's instruments: a metric, a label or a value that is not there fails where it is written.

Every query obeys what its dashboard lets a reader choose, as far as its series have the labels for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from docs.instruments import instruments
from gateway.endings import Ending
from gateway.exchange.instruments import Kind
from gateway.usage.reported import KINDS, Known

NOW = "$__rate_interval"
WHOLE = "$__range"
"""The time that a dashboard shows."""

EVERYWHERE = ("job", "instance")
"""What Prometheus adds to every series, and every dashboard lets its reader choose."""

OF_PROMETHEUS = {
    "up": (),
    "scrape_duration_seconds": (),
    "scrape_samples_scraped": (),
    "ALERTS": ("alertname", "alertstate", "severity", "fault", "tenant", "upstream"),
}
"""What Prometheus itself knows of the gateway: gauges, by name, with their labels."""

WITH_EXEMPLARS = frozenset(
    {"gateway_first_byte_seconds", "gateway_overhead_seconds", "gateway_generation_first_byte_seconds"}
)
"""Histograms whose buckets name a request."""

VALUES: dict[str, frozenset[str]] = {
    "ending": frozenset(Ending),
    "kind": frozenset(KINDS),
    "known": frozenset(Known),
    "moment": frozenset({"reserved", "settled"}),
    "decision": frozenset({"granted", "refused", "unavailable"}),
    "direction": frozenset({"in", "out"}),
}
"""What a label can be, where that is a closed set known to the code."""

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "gateway.rules.yml"


@dataclass(frozen=True)
class But:
    """All values of a label but these."""

    values: tuple[str, ...]


Wanted = str | tuple[str, ...] | But
"""One value, one of several (`.` stands for any character), or all but some."""


def but(*values: str) -> But:
    """All values but these."""
    return But(values)


class Unanswerable(ValueError):
    """No series of the gateway could answer."""


@dataclass(frozen=True)
class Query:
    """An expression, and what is known of its answer."""

    text: str
    labels: tuple[str, ...] = ()
    """What tells the series of the answer apart."""

    ignores: frozenset[str] = frozenset()
    """What a reader can choose by and this cannot: its series, or some of them, lack the label."""

    called: str = ""
    """What it is called among others."""

    has_exemplars: bool = False
    loose: bool = False
    """Whether it needs brackets where something stands beside it."""

    def __truediv__(self, other: Query | float) -> Query:
        return self._with("/", other)

    def __add__(self, other: Query | float) -> Query:
        return self._with("+", other)

    def __sub__(self, other: Query | float) -> Query:
        return self._with("-", other)

    def __mul__(self, other: Query | float) -> Query:
        return self._with("*", other)

    def above(self, other: Query | float) -> Query:
        """Those of its series that are more."""
        return self._with(">", other)

    def is_equal(self, number: float) -> Query:
        """Those of its series that are this."""
        return self._with("==", number)

    def where(self, other: Query) -> Query:
        """Those of its series for which the other has one."""
        return self._with("and", other)

    def named(self, name: str) -> Query:
        """The same under a name."""
        return replace(self, called=name)

    def or_zero(self) -> Query:
        """0 where nothing has been counted, and that is the truth."""
        if self.labels:
            raise Unanswerable(f"a zero without labels beside {self.labels}")
        return replace(self, text=f"{self._inner} or vector(0)", loose=True)

    def or_else(self, other: Query) -> Query:
        """The other where this has nothing."""
        return self._with("or", other)

    def top(self, number: int = 10) -> Query:
        """The largest of its series."""
        return replace(self, text=f"topk({number}, {self.text})", loose=False)

    def lowest(self, number: int = 10) -> Query:
        """The smallest of its series."""
        return replace(self, text=f"bottomk({number}, {self.text})", loose=False)

    def at_most(self, number: float) -> Query:
        """No more than this, whatever it is."""
        return replace(self, text=f"clamp_max({self.text}, {number:g})", loose=False)

    def how_many(self) -> Query:
        """The number of its series; nothing where there is none."""
        return replace(self, text=f"count({self.text})", labels=(), loose=False)

    def most(self, *by: str) -> Query:
        """The largest value by some of its labels."""
        return self._over("max", by)

    def least(self, *by: str) -> Query:
        """The smallest value by some of its labels."""
        return self._over("min", by)

    def total(self, *by: str) -> Query:
        """The sum by some of its labels."""
        return self._over("sum", by)

    def _over(self, how: str, by: tuple[str, ...]) -> Query:
        if set(by) - set(self.labels):
            raise Unanswerable(f"{by} of {self.labels}")
        return replace(self, text=f"{how}{_by(by)} ({self.text})", labels=by, loose=False)

    @property
    def _inner(self) -> str:
        return f"({self.text})" if self.loose else self.text

    def _with(self, operator: str, other: Query | float) -> Query:
        if isinstance(other, Query):
            beside = _beside(self, operator, other)
            return replace(
                self,
                text=f"{self._inner} {operator} {beside}{other._inner}",
                ignores=self.ignores | other.ignores,
                loose=True,
            )
        return replace(self, text=f"{self._inner} {operator} {other:.10g}", loose=True)


def _beside(left: Query, operator: str, right: Query) -> str:
    """How the series of two answers find one another."""
    if set(left.labels) == set(right.labels):
        return ""
    if not set(right.labels) < set(left.labels) or operator == "or":
        raise Unanswerable(f"{left.labels} {operator} {right.labels}")
    on = f"on ({', '.join(right.labels)}) "
    return on if operator == "and" else on + "group_left () "


def _by(labels: Iterable[str]) -> str:
    listed = ", ".join(labels)
    return f" by ({listed})" if listed else ""


class Ask:
    """The queries of one dashboard."""

    def __init__(self, *choices: str) -> None:
        """`choices`: the labels that its reader can choose by, beside those of every dashboard."""
        self.choices = (*EVERYWHERE, *choices)

    def rate(self, name: str, *by: str, **wanted: Wanted) -> Query:
        """How much a counter grows per second."""
        return self.rates([(name, wanted)], *by)

    def rates(self, of: Sequence[tuple[str, Mapping[str, Wanted]]], *by: str) -> Query:
        """How much several counters, or series of one, grow per second together; none of them counts twice."""
        return self._sum("rate", NOW, of, by)

    def grown(self, name: str, *by: str, over: str = NOW, **wanted: Wanted) -> Query:
        """By how much a counter has grown."""
        return self._sum("increase", over, [(name, wanted)], by)

    def sum(self, name: str, *by: str, **wanted: Wanted) -> Query:
        """The sum of a gauge."""
        return self._gauge("sum", name, by, wanted)

    def max(self, name: str, *by: str, **wanted: Wanted) -> Query:
        """The most of a gauge."""
        return self._gauge("max", name, by, wanted)

    def min(self, name: str, *by: str, **wanted: Wanted) -> Query:
        """The least of a gauge."""
        return self._gauge("min", name, by, wanted)

    def quantile(self, share: float, name: str, *by: str, **wanted: Wanted) -> Query:
        """What this share of the values of a histogram did not exceed."""
        buckets = self.buckets(name, *by, **wanted)
        return replace(
            buckets,
            text=f"histogram_quantile({share:g}, {buckets.text})",
            labels=by,
        )

    def buckets(self, name: str, *by: str, **wanted: Wanted) -> Query:
        """How much each bucket of a histogram grows per second."""
        selected, labels, ignores = self._selected(name, Kind.HISTOGRAM, wanted, "_bucket")
        _known(name, by, labels)
        return Query(
            f"sum{_by(('le', *by))} (rate({selected}[{NOW}]))",
            ("le", *by),
            ignores,
            has_exemplars=name in WITH_EXEMPLARS,
        )

    def count(self, name: str, *by: str, **wanted: Wanted) -> Query:
        """How many values a histogram gets per second."""
        selected, labels, ignores = self._selected(name, Kind.HISTOGRAM, wanted, "_count")
        _known(name, by, labels)
        return Query(f"sum{_by(by)} (rate({selected}[{NOW}]))", by, ignores)

    def mean(self, name: str, *by: str, **wanted: Wanted) -> Query:
        """The mean of what a histogram got."""
        selected, labels, ignores = self._selected(name, Kind.HISTOGRAM, wanted, "_sum")
        _known(name, by, labels)
        whole = Query(f"sum{_by(by)} (rate({selected}[{NOW}]))", by, ignores)
        return whole / self.count(name, *by, **wanted)

    def age(self, name: str, *by: str, **wanted: Wanted) -> Query:
        """The seconds since the moment that a gauge tells."""
        moment = self.max(name, *by, **wanted)
        return replace(moment, text=f"time() - {moment.text}", loose=True)

    def recorded(self, name: str) -> Query:
        """What a recording rule of deploy/prometheus/ has worked out, summed by nothing."""
        labels = recorded_rules().get(name)
        if labels is None:
            raise Unanswerable(f"no rule records {name}")
        return Query(f"{name}{{{self._chosen(labels)}}}", labels, frozenset(self.choices) - set(labels))

    def seen(self, name: str, *of: str) -> str:
        """The query of a variable whose choices are the values of a label; narrowed by those before it."""
        _, labels = _instrument(name)
        *before, wanted = of
        _known(name, of, labels)
        matchers = ", ".join(f'{label}=~"${label}"' for label in before)
        return (
            f"label_values({name}{{{matchers}}}, {wanted})" if before else f"label_values({name}, {wanted})"
        )

    def _gauge(self, how: str, name: str, by: tuple[str, ...], wanted: Mapping[str, Wanted]) -> Query:
        selected, labels, ignores = self._selected(name, Kind.GAUGE, wanted)
        _known(name, by, labels)
        return Query(f"{how}{_by(by)} ({selected})", by, ignores)

    def _sum(
        self, how: str, over: str, of: Sequence[tuple[str, Mapping[str, Wanted]]], by: tuple[str, ...]
    ) -> Query:
        parts, ignored = [], []
        for name, wanted in of:
            selected, labels, ignores = self._selected(name, Kind.COUNTER, wanted)
            _known(name, by, labels)
            parts.append(f"{how}({selected}[{over}])")
            ignored.append(ignores)
        alike = {name: _instrument(name)[1] for name, _ in of}
        if len(set(alike.values())) < len(alike):
            raise Unanswerable(f"one of {list(alike)} would hide the other")
        return Query(f"sum{_by(by)} ({' or '.join(parts)})", by, frozenset.union(*ignored))

    def _selected(
        self, name: str, kind: Kind, wanted: Mapping[str, Wanted], suffix: str = ""
    ) -> tuple[str, tuple[str, ...], frozenset[str]]:
        """A selector, the labels of what it selects, and the choices that it cannot go by."""
        actual, labels = _instrument(name)
        if actual != kind:
            raise Unanswerable(f"{name} is a {actual}, not a {kind}")
        _known(name, wanted, labels)
        # What a query asks for by itself is not a reader's choice.
        chosen = self._chosen(label for label in labels if label not in wanted)
        matchers = [chosen, *(_matcher(label, value) for label, value in wanted.items())]
        return (
            f"{name}{suffix}{{{', '.join(filter(None, matchers))}}}",
            labels,
            frozenset(self.choices) - set(labels),
        )

    def _chosen(self, labels: Iterable[str]) -> str:
        return ", ".join(f'{label}=~"${label}"' for label in labels if label in self.choices)


def _matcher(label: str, wanted: Wanted) -> str:
    values: tuple[str, ...]
    match wanted:
        case str():
            values, operator = (wanted,), "="
        case But(values=values):
            operator = "!=" if len(values) == 1 else "!~"
        case _:
            values, operator = wanted, "=~"
    unknown = {value for value in values if not re.fullmatch(r"[\w.:-]+", value)} | (
        set(values) - VALUES.get(label, frozenset(values))
    )
    if unknown:
        raise Unanswerable(f"{label} is never {sorted(unknown)}")
    return f'{label}{operator}"{"|".join(values)}"'


def _known(name: str, asked: Iterable[str], labels: tuple[str, ...]) -> None:
    unknown = set(asked) - set(labels)
    if unknown:
        raise Unanswerable(f"{name} has no label {sorted(unknown)}")


@cache
def _all() -> dict[str, tuple[Kind, tuple[str, ...]]]:
    known = {shown.name: (Kind(shown.kind), (*EVERYWHERE, *shown.labels)) for shown in instruments()}
    return known | {name: (Kind.GAUGE, (*EVERYWHERE, *labels)) for name, labels in OF_PROMETHEUS.items()}


def _instrument(name: str) -> tuple[Kind, tuple[str, ...]]:
    try:
        return _all()[name]
    except KeyError:
        raise Unanswerable(f"no instrument is called {name}") from None


@cache
def recorded_rules() -> dict[str, tuple[str, ...]]:
    """What recording rules there are, by name, with the labels by which their expressions sum."""
    found = {}
    text = RULES.read_text("utf-8")
    for name, expression in re.findall(r"- record: (\S+)\n(.*?)(?=\n +- |\Z)", text, re.DOTALL):
        grouped = set(re.findall(r"\bby \(([^)]*)\)", expression))
        if len(grouped) <= 1:  # else its labels are not to be read off
            found[name] = tuple(label.strip() for group in grouped for label in group.split(","))
    return found
