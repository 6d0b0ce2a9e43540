"""The instruments of what is done once for all workers: by the one process, or by who looks after several.

Of connections those to the private listener are; where there are several workers, each counts its own clients'.
"""

from __future__ import annotations

import time

from gateway.exchange.instruments import Counts, Gauges, Registry, Rule


class CommonMetrics:
    """How the configuration is followed, keys of other issuers are fetched, and who is not let in."""

    def __init__(self, registry: Registry) -> None:
        self._loads = Counts(
            "gateway_configuration_loads",
            "Attempts to reload the configuration, by result (loaded, failed).",
            ["result"],
            registry=registry,
        )
        self._valid = Gauges(
            "gateway_configuration_valid",
            "1: what the files say is in force; 0: they are wrong, and what was in force before still is.",
            rule=Rule.MIN,
            registry=registry,
        )
        self._valid.set(1)
        self._loaded = Gauges(
            "gateway_configuration_loaded_timestamp_seconds",
            "When what is in force was read, in seconds since 1970.",
            rule=Rule.MAX,
            registry=registry,
        )
        self._loaded.set(time.time())
        self.refused_operators = Counts(
            "gateway_operator_refusals",
            "Requests for the private listener's page and state that were refused, by reason (no_key, wrong_key, "
            "too_many, cross_site).",
            ["reason"],
            registry=registry,
        )
        self._fetches = Counts(
            "gateway_jwks_fetches",
            "Fetches of other issuers' key sets, by result (new, same, failed).",
            ["issuer", "result"],
            registry=registry,
        )
        self._identities_asked = Counts(
            "gateway_upstream_identity_exchanges",
            "Times that what a workload identity opens was asked for, by result: granted, refused by the endpoint, "
            "failed, or no_subject where its file had nothing to show.",
            ["upstream", "result"],
            registry=registry,
        )
        self.refused_connections = Counts(
            "gateway_refused_connections",
            "Clients' connections that were not let in, by reason (full, peer_share, private, and where TLS is "
            "served handshake, plain_http), and half seconds in which nobody could be (no_files, not_accepted).",
            ["reason"],
            registry=registry,
        )

    def configuration_loaded(self, well: bool) -> None:
        """Count one attempt to reload the configuration."""
        self._loads.labels("loaded" if well else "failed").inc()
        self._valid.set(int(well))
        if well:
            self._loaded.set(time.time())

    def identity_asked(self, upstream: str, result: str) -> None:
        """Count one time that an endpoint was asked what an identity opens."""
        self._identities_asked.labels(upstream, result).inc()

    def jwks_fetched(self, issuer: str, result: str) -> None:
        """Count one fetch of an issuer's keys."""
        self._fetches.labels(issuer, result).inc()
