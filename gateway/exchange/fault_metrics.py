"""Whose fault it is: errors of the gateway's own by their code, credentials by what is wrong with them, and Redis."""

from __future__ import annotations

from gateway.exchange.instruments import Counts, Gauges, Registry, Rule, Spreads

# From a server on the same machine to the longest that anybody waits for one.
_REDIS_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)


class FaultMetrics:
    """Instruments that tell a client's mistakes, a tenant's, and those of what stands behind the gateway apart."""

    def __init__(self, registry: Registry) -> None:
        self.errors = Counts(
            "gateway_errors",
            "Errors of the gateway's own, as answers, within sessions, or where an answer had to be cut.",
            ["tenant", "code"],
            registry=registry,
        )
        self.credential_refusals = Counts(
            "gateway_credential_refusals",
            "Credentials that were not accepted, by what is wrong with them.",
            ["reason"],
            registry=registry,
        )
        self.redis_seconds = Spreads(
            "gateway_redis_seconds",
            "How long a round trip to a Redis server took.",
            ["server"],
            bounds=_REDIS_SECONDS,
            registry=registry,
        )
        self.redis_up = Gauges(
            "gateway_redis_up",
            "1: this Redis server answers; 0: it does not.",
            ["server"],
            rule=Rule.MIN,
            registry=registry,
        )
        self.store_policy = Gauges(
            "gateway_limit_store_policy",
            "1: what decides while Redis is away.",
            ["policy"],
            rule=Rule.MAX,
            registry=registry,
        )
