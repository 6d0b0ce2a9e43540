"""How a process itself fares: its loop, what it holds, who waits for it, and what it could not say."""

from __future__ import annotations

from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Spreads

# From a turn of the loop that nobody feels to one that everybody does.
_LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)

FOLDED = (
    "How often a series was wanted for which there is no room: it is counted in one whose labels say `other`."
)


class ProcessMetrics:
    """Instruments of one process that serves."""

    def __init__(self, registry: Registry) -> None:
        self.loop_lag = Spreads(
            "gateway_event_loop_lag_seconds",
            "By how much a timer that is due every 20 ms came too late: nobody was served meanwhile.",
            bounds=_LAG_SECONDS,
            rule=Rule.EACH,
            registry=registry,
        ).labels()
        self.loop_lag_max = Gauges(
            "gateway_event_loop_lag_max_seconds",
            "The longest such lag of the last minute or two.",
            rule=Rule.EACH,
            registry=registry,
        )
        self.oldest_exchange = Gauges(
            "gateway_oldest_exchange_seconds",
            "How long the oldest exchange has been running, by what it came over.",
            ["transport"],
            rule=Rule.MAX,
            registry=registry,
        )
        self.buffered = Gauges(
            "gateway_buffered_bytes",
            "What waits in memory for clients or upstreams that do not keep up, or to be written to the log.",
            ["where"],
            rule=Rule.SUM,
            registry=registry,
        )
        self.connections = Gauges(
            "gateway_client_connections", "Client connections open now.", rule=Rule.SUM, registry=registry
        )
        self.closed_connections = Counts(
            "gateway_closed_connections",
            "Clients' connections that had to make way for others, by what they were (idle, head).",
            ["reason"],
            registry=registry,
        )
        self.body_memory = Gauges(
            "gateway_body_memory_bytes",
            "Memory that request bodies occupy (held), and may occupy at most (most).",
            ["state"],
            rule=Rule.SUM,
            registry=registry,
        )
        self.body_memory_held = Gauges(
            "gateway_body_memory_held_bytes",
            "Memory that the request bodies of a tenant occupy.",
            ["tenant"],
            rule=Rule.SUM,
            registry=registry,
        )
        self.body_memory_refusals = Counts(
            "gateway_body_memory_refusals",
            "Requests whose body found no room in memory: in all (full), in the share of its tenant, or never.",
            ["tenant", "reason"],
            registry=registry,
        )
        self.json_waiting = Gauges(
            "gateway_json_waiting",
            "Large JSON documents that wait for one of the processes that read them.",
            rule=Rule.SUM,
            registry=registry,
        )
        self.json_readers_lost = Counts(
            "gateway_json_readers_lost",
            "Processes that read large JSON documents and died, or were ended because they took too long.",
            registry=registry,
        ).labels()
        self.observer_failures = Counts(
            "gateway_observer_failures",
            "Stream observers dropped because they raised.",
            registry=registry,
        ).labels()
        self.log_lines_dropped = Counts(
            "gateway_log_lines_dropped",
            "Access log lines dropped because standard output did not keep up.",
            registry=registry,
        ).labels()
        self.log_lines_withheld = Counts(
            "gateway_log_lines_withheld",
            "Access log lines that were not written, as the configuration has it.",
            ["reason"],
            registry=registry,
        )
        self.spans_lost = Counts(
            "gateway_spans_lost",
            "Spans that never reached the collector.",
            registry=registry,
        ).labels()
        self.series_folded = Counts(
            "gateway_series_folded",
            FOLDED,
            registry=registry,
        ).labels()
        registry.room.folded = self.series_folded.inc
