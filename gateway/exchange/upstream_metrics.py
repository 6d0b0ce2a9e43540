"""What becomes of the ways upstream, each by its name in the configuration."""

from __future__ import annotations

from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Spreads, Tallies

# From an embedding that was cached to a long answer that comes whole.
_ANSWER_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# From the same machine to the deadline for connecting.
_CONNECT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
# From a crowd that has just gone by to the deadline of who waits.
_WAIT_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class UpstreamMetrics:
    """Instruments of the upstream's part: its answers, its limits, and connections to it."""

    def __init__(self, registry: Registry) -> None:
        self.answers = Tallies(
            "gateway_upstream_answers",
            "Answers of an upstream, by their status: exact where it says whose fault it is, else its class.",
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
        self.limit_remaining = Gauges(
            "gateway_upstream_limit_remaining",
            "What an upstream says is left of a limit of its own; gone when it has not said so for a while.",
            ["upstream", "model", "dimension"],
            rule=Rule.MIN,
            registry=registry,
        )
        self.limit = Gauges(
            "gateway_upstream_limit",
            "That limit, as the upstream says it.",
            ["upstream", "model", "dimension"],
            rule=Rule.MIN,
            registry=registry,
        )

    def waited(self, upstream: str, tenant: str, result: str, seconds: float) -> None:
        """Count one exchange that had to wait for a connection to the upstream."""
        self.waits.labels(upstream, tenant, result).inc()
        self.wait_seconds.labels(upstream).observe(seconds)
