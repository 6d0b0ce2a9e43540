"""What becomes of the ways upstream, each by its name in the configuration."""

from __future__ import annotations

import asyncio
from bisect import bisect_left

from gateway.errors import ClientLeft, UpstreamBroken, UpstreamTimeout
from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Spreads, Tallies, Tally
from gateway.exchange.upstream_limits import UpstreamLimits
from gateway.policy.model_names import ModelNames
from gateway.wire.answer_head import Head

# From an embedding that was cached to a long answer that comes whole.
_ANSWER_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# From the same machine to the deadline for connecting.
_CONNECT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# From a crowd that has just gone by to the deadline of who waits.
_WAIT_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


CONNECTED = "connected"
"""The result of an attempt to connect that succeeded."""

_EXACT = frozenset({400, 401, 403, 404, 408, 409, 413, 422, 429, 499, 500, 502, 503, 504, 529})
"""Statuses that say whose fault it is."""

_LOOK_SECONDS = 1.0
"""Between two looks at what is said of the limits of one model."""

_MOST_LOOKED_AT = 512
"""Models of one upstream of which is known when they were looked at: their names are the client's."""

_NO_ANSWER: tuple[tuple[type[BaseException], str], ...] = (
    (UpstreamTimeout, "timeout"),
    (UpstreamBroken, "broken"),
    (ClientLeft, "left"),
    (asyncio.CancelledError, "left"),
)
"""What stands in the place of a status where none came, by why nobody waits any more."""


class UpstreamMetrics:
    """Instruments of the upstream's part: its answers, its limits, and connections to it."""

    def __init__(self, registry: Registry, *, names: ModelNames) -> None:
        self.answers = Tallies(
            "gateway_upstream_answers",
            "Requests to an upstream that it answered, by status: exact where it says whose fault it is, else its "
            "class; and those that it did not (timeout, broken), or whose client left before.",
            ["upstream", "status"],
            registry=registry,
        )
        self.answer_seconds = Spreads(
            "gateway_upstream_answer_seconds",
            "From having been asked until the head of the upstream's answer had come.",
            ["upstream"],
            bounds=_ANSWER_SECONDS,
            registry=registry,
        )
        self.cut = Counts(
            "gateway_upstream_cut_answers",
            "Answers of an upstream that had begun and broke off, or fell silent.",
            ["upstream"],
            registry=registry,
        )
        self.connects = Counts(
            "gateway_upstream_connects",
            "Attempts to connect to an upstream, by result.",
            ["upstream", "result"],
            registry=registry,
        )
        self.connect_seconds = Spreads(
            "gateway_upstream_connect_seconds",
            "How long it took to connect, TLS included, where it succeeded.",
            ["upstream"],
            bounds=_CONNECT_SECONDS,
            registry=registry,
        )
        self.connections = Gauges(
            "gateway_upstream_connections",
            "Connections to an upstream, busy, idle, or waited for.",
            ["upstream", "state"],
            rule=Rule.SUM,
            registry=registry,
        )
        self.connections_most = Gauges(
            "gateway_upstream_connections_most",
            "Connections that an upstream may have at most.",
            ["upstream"],
            rule=Rule.SUM,
            registry=registry,
        )
        self.held = Gauges(
            "gateway_upstream_connections_held",
            "Connections to an upstream that a tenant's exchanges hold.",
            ["upstream", "tenant"],
            rule=Rule.SUM,
            registry=registry,
        )
        self.waits = Counts(
            "gateway_upstream_waits",
            "Exchanges that had to wait for a connection to come free, by result (served, refused, left).",
            ["upstream", "tenant", "result"],
            registry=registry,
        )
        self.wait_seconds = Spreads(
            "gateway_upstream_wait_seconds",
            "How long they waited.",
            ["upstream"],
            bounds=_WAIT_SECONDS,
            registry=registry,
        )
        self.asked_again = Counts(
            "gateway_upstream_asked_again",
            "Requests that were sent a second time, because the connection was closed instead of an answer.",
            ["upstream"],
            registry=registry,
        )
        self.identity_expires = Gauges(
            "gateway_upstream_identity_expires_seconds",
            "Until what a workload identity opens this upstream with expires, unless it is renewed; below 0: since it "
            "has, or since there should have been a first.",
            ["upstream"],
            rule=Rule.MIN,
            registry=registry,
        )
        self.identity_overdue = Gauges(
            "gateway_upstream_identity_overdue_seconds",
            "Since what a workload identity opens this upstream with should have been renewed; 0: it is not due.",
            ["upstream"],
            rule=Rule.MAX,
            registry=registry,
        )
        self.limits = UpstreamLimits(registry, names)
        self._of: dict[str, UpstreamTallies] = {}

    def of(self, upstream: str) -> UpstreamTallies:
        """What is counted of the requests to one upstream, by its name."""
        tallies = self._of.get(upstream)
        if tallies is None:
            tallies = self._of[upstream] = UpstreamTallies(self, upstream)
        return tallies

    def connected(self, upstream: str, result: str, seconds: float) -> None:
        """Count one attempt to connect, and how long it took where it succeeded."""
        self.connects.labels(upstream, result).inc()
        if result == CONNECTED:
            self.connect_seconds.labels(upstream).observe(seconds)

    def waited(self, upstream: str, tenant: str, result: str, seconds: float) -> None:
        """Count one exchange that had to wait for a connection to the upstream."""
        self.waits.labels(upstream, tenant, result).inc()
        self.wait_seconds.labels(upstream).observe(seconds)


class UpstreamTallies:
    """What is counted of the requests to one upstream."""

    __slots__ = ("_answers", "_metrics", "_next_look", "_seconds", "asked_again", "name")

    def __init__(self, metrics: UpstreamMetrics, name: str) -> None:
        self.name = name
        self.asked_again = metrics.asked_again.labels(name)
        self._metrics = metrics
        self._seconds = metrics.answer_seconds.labels(name)
        self._answers: dict[int, Tally] = {}
        self._next_look: dict[str | None, float] = {}
        """When the next head is looked into, by the model that was asked for."""

    def answered(self, head: Head, model: str | None, asked_at: float, now: float) -> None:
        """The head of an answer for this model has come `now`; the upstream had been asked at `asked_at`."""
        status, seconds, spread = head.status, now - asked_at, self._seconds
        (self._answers.get(status) or self._so_answered(status)).value += 1
        # In place, not by `observe`: every exchange comes by here.
        spread.counts[bisect_left(spread.bounds, seconds)] += 1
        spread.sum += seconds
        if self._next_look.get(model, 0.0) <= now:
            self._look(model, head, now)

    def _look(self, model: str | None, head: Head, now: float) -> None:
        """See what the head says of the upstream's limits, and look at none of this model for a while."""
        if len(self._next_look) >= _MOST_LOOKED_AT:
            self._next_look.clear()
        self._next_look[model] = now + _LOOK_SECONDS
        self._metrics.limits.said(self.name, model, head, now)

    def gave_up(self, error: BaseException, *, begun: bool) -> None:
        """An exchange has ended with this error, and its answer is not whole; `begun`: its head had come."""
        if begun:
            if isinstance(error, UpstreamTimeout | UpstreamBroken):
                self.cut()
            return
        for kind, result in _NO_ANSWER:
            if isinstance(error, kind):
                self._metrics.answers.labels(self.name, result).value += 1
                return

    def cut(self) -> None:
        """An answer that had begun broke off, or fell silent."""
        self._metrics.cut.labels(self.name).inc()

    def _so_answered(self, status: int) -> Tally:
        word = str(status) if status in _EXACT else f"{status // 100}xx"
        tally = self._answers[status] = self._metrics.answers.labels(self.name, word)
        return tally
