"""Every instrument of the gateway, declared once, on its own registry.

`tenant` is a label of counters and of gauges that are bounded; histograms have the operation and no tenant. All
labels come from closed sets: tenants are those of the configuration or `other`, operations those of the table,
a status is its class. Series appear on first use.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

from gateway import __version__
from gateway.exchange.common_metrics import CommonMetrics
from gateway.exchange.exchange import Exchange, Times
from gateway.exchange.fault_metrics import FaultMetrics
from gateway.exchange.in_flight import InFlight
from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Spreads, Sums, Tallies
from gateway.exchange.limit_metrics import LimitMetrics
from gateway.exchange.model_metrics import ModelMetrics
from gateway.exchange.object_metrics import ObjectMetrics
from gateway.exchange.process_metrics import ProcessMetrics
from gateway.exchange.tallies import ExchangeTallies
from gateway.exchange.upstream_metrics import UpstreamMetrics
from gateway.usage.reported import KINDS, NUMBERS, Known, Usage

_KNOWN_AT = {known: at for at, known in enumerate(Known)}

# From a cached embedding to a ten-minute reasoning answer.
_DURATION_SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
# What the gateway itself costs: tens of microseconds to a stalled store.
_OVERHEAD_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25)


class Metrics:
    """All instruments of one gateway process."""

    def __init__(self) -> None:
        registry = self.registry = Registry()
        Gauges(
            "gateway_build_info", "Version of the gateway.", ["version"], rule=Rule.MAX, registry=registry
        ).set(1, __version__)
        self.exchanges = Tallies(
            "gateway_exchanges",
            "Exchanges ended, by status class (none: no answer was sent) and by how they ended.",
            ["tenant", "operation", "status", "ending"],
            registry=registry,
        )
        self.exchange_seconds = Tallies(
            "gateway_exchange_seconds",
            "Seconds that exchanges took in all.",
            ["tenant"],
            registry=registry,
        )
        self.bytes = Sums(
            "gateway_body_bytes",
            "Body bytes relayed, in from clients and out to clients.",
            ["tenant", "direction"],
            of=("in", "out"),
            registry=registry,
        )
        self.in_flight = InFlight(registry)
        self.duration = Spreads(
            "gateway_exchange_duration_seconds",
            "From the request's first byte to the last of its answer.",
            ["operation"],
            bounds=_DURATION_SECONDS,
            registry=registry,
        )
        self.first_byte = Spreads(
            "gateway_first_byte_seconds",
            "From the request's first byte to that of the answer's body.",
            ["operation"],
            bounds=_DURATION_SECONDS,
            registry=registry,
        )
        self.overhead = Spreads(
            "gateway_overhead_seconds",
            "What the gateway itself added before the upstream was asked, its being busy with others included.",
            ["operation"],
            bounds=_OVERHEAD_SECONDS,
            registry=registry,
        )
        self.decisions = Tallies(
            "gateway_limiter_decisions",
            "Decisions of the limiter; dimension names the limit that refused.",
            ["tenant", "decision", "dimension"],
            registry=registry,
        )
        self.limits = LimitMetrics(registry)
        self.faults = FaultMetrics(registry)
        self.models = ModelMetrics(registry)
        self.objects = ObjectMetrics(registry)
        self.upstream = UpstreamMetrics(registry, names=self.models.names)
        self.process = ProcessMetrics(registry)
        self.usage = Sums(
            "gateway_usage",
            "Usage, reported or estimated: LLM tokens (cached_input is part of input, and so on), images, seconds.",
            ["tenant", "tier", "kind"],
            of=[kind if kind in KINDS else None for kind in Usage._fields[:NUMBERS]],
            registry=registry,
        )
        self.limited = Sums(
            "gateway_limited_llm_tokens",
            "LLM tokens of exchanges that a limit counts: reserved at admission, settled when they had ended.",
            ["tenant", "moment"],
            of=("reserved", "settled"),
            registry=registry,
        )
        self.usage_exchanges = Sums(
            "gateway_usage_exchanges",
            "Exchanges that used something, by what is known of it; what is unreported is missing from the usage.",
            ["tenant", "known"],
            of=[known.value for known in Known],
            registry=registry,
        )
        self.usage_waiting = Gauges(
            "gateway_usage_waiting",
            "Exchanges that the store of usage counters has not confirmed yet.",
            rule=Rule.SUM,
            registry=registry,
        )
        self.usage_lost = Counts(
            "gateway_usage_lost",
            "Exchanges that will be missing from the usage counters.",
            registry=registry,
        ).labels()
        self.late_work_waiting = Gauges(
            "gateway_late_work_waiting",
            "Objects made, or seen to be done, of which the store that remembers them has not been told yet.",
            rule=Rule.SUM,
            registry=registry,
        )
        self.late_work_lost = Counts(
            "gateway_late_work_lost",
            "Objects of which it will never be told: what they used may be counted for who asks, or not at all.",
            registry=registry,
        ).labels()
        self.mistaken_accounts = Gauges(
            "gateway_mistaken_accounts",
            "Tenants on one upstream account, by what it answers, of whom one counts as having it alone.",
            rule=Rule.MAX,
            registry=registry,
        )
        self.refused_requests = Counts(
            "gateway_refused_requests",
            "Requests answered before they could be understood, by status.",
            ["status"],
            registry=registry,
        )
        self.health_checks = Counts(
            "gateway_health_checks",
            "Health checks answered on the public listener, which are no exchanges.",
            ["check", "status"],
            registry=registry,
        )
        common = CommonMetrics(registry)
        self.refused_connections = common.refused_connections
        self.refused_operators = common.refused_operators
        self.configuration_loaded = common.configuration_loaded
        """Count one attempt to reload the configuration, and whether it went well."""

        self.jwks_fetched = common.jwks_fetched
        self.identity_asked = common.identity_asked
        self.credential_expires = Gauges(
            "gateway_credential_expires_seconds",
            "Until the first credential of a tenant expires of those shown in the last ten minutes that expire within "
            "seven days.",
            ["tenant"],
            rule=Rule.MIN,
            registry=registry,
        )
        self.jwks_stale_in = Gauges(
            "gateway_jwks_stale_in_seconds",
            "Until the key set of an issuer counts no more, unless it is confirmed before.",
            ["issuer"],
            rule=Rule.MIN,
            registry=registry,
        )
        self.jwks_age = Gauges(
            "gateway_jwks_age_seconds",
            "Since the key set of an issuer was last confirmed; +Inf: never.",
            ["issuer"],
            rule=Rule.MAX,
            registry=registry,
        )
        self.certificate_expires = Gauges(
            "gateway_tls_certificate_expires_seconds",
            "Until the certificate expires by which TLS is served; without TLS not shown.",
            rule=Rule.MIN,
            registry=registry,
        )
        self.key_ring_loads = Counts(
            "gateway_key_ring_loads",
            "Loads of the key directory, by result (loaded, failed).",
            ["result"],
            registry=registry,
        )
        self.revocations = Gauges(
            "gateway_revocations", "Revocations in force.", rule=Rule.MAX, registry=registry
        )
        self.revocations_age = Gauges(
            "gateway_revocations_age_seconds",
            "Since the revocations were last confirmed by their store; +Inf: never.",
            rule=Rule.MAX,
            registry=registry,
        )
        self.of = lru_cache(maxsize=8192)(self._of)
        """What the exchanges of a tenant and an operation, by their ids, add to."""

    def _of(self, tenant: str, operation: str) -> ExchangeTallies:
        return ExchangeTallies(self, tenant, operation)

    def ended(self, exchange: Exchange, times: Times, is_logged: bool) -> None:
        """Record one exchange that has ended. Exemplars name it where it has a line in the log: who follows one would
        find nothing else.
        """
        standing, usage = exchange.standing, exchange.usage
        tallies = self._tallies(exchange) if standing is None else standing.tallies
        seconds, first_byte, _, overhead = times
        how = exchange.status, exchange.ending
        (tallies.ended.get(how) or tallies.so_ended(*how)).value += 1
        tallies.seconds.value += seconds
        # In place, not by `observe`: every exchange comes by here.
        spread = tallies.duration
        spread.counts[bisect_left(spread.bounds, seconds)] += 1
        spread.sum += seconds
        ended_time = exchange.started_time + seconds
        spread = tallies.overhead
        bucket = bisect_left(spread.bounds, overhead)
        spread.counts[bucket] += 1
        spread.sum += overhead
        if is_logged:
            spread.exemplars[bucket] = exchange.id, overhead, ended_time
        if first_byte is not None:
            spread = tallies.first_byte or tallies.first_byte_began()
            bucket = bisect_left(spread.bounds, first_byte)
            spread.counts[bucket] += 1
            spread.sum += first_byte
            if is_logged:
                spread.exemplars[bucket] = exchange.id, first_byte, ended_time
        relayed = tallies.bytes
        relayed[0] += exchange.bytes_in
        relayed[1] += exchange.bytes_out
        known = exchange.known
        if known is not None:
            tallies.known[_KNOWN_AT[known]] += 1
        if exchange.is_socket:
            return  # what a session uses is counted as it goes on
        if usage is not None:
            tallies.used(usage, exchange.model)
        if exchange.last_piece_at is not None and exchange.spent and exchange.operation.counts_usage:
            self._streamed(exchange, first_byte, exchange.id if is_logged else None, ended_time)
        reserved = exchange.reserved
        if reserved is not None and exchange.spent:
            limited = tallies.limited or tallies.limited_began()
            limited[0] += reserved
            limited[1] += 0 if usage is None or exchange.operation.repeats_usage else usage.total

    def _streamed(
        self, exchange: Exchange, first_byte: float | None, named: str | None, ended_time: float
    ) -> None:
        """Record how what a model wrote went by; its speed only where the upstream says how much that was."""
        usage, began, ended = exchange.usage, exchange.first_byte_at, exchange.last_piece_at
        if first_byte is None or began is None or ended is None:
            return
        self.models.began(exchange.model, first_byte, named, ended_time)
        if usage is not None and usage.output and exchange.known is Known.REPORTED:
            self.models.wrote(exchange.model, usage.output, ended - began)

    def _tallies(self, exchange: Exchange) -> ExchangeTallies:
        """Those of an exchange whose caller is not known, or was refused."""
        return self.of(exchange.caller.tenant.id, exchange.operation.id)

    def decided(self, tenant: str, decision: str, dimension: str = "none") -> None:
        """Count one decision of the limiter."""
        self.decisions.labels(tenant, decision, dimension).value += 1
