"""The instruments of what is done once for all workers: by the one process, or by who looks after several.

Of connections those to the private listener are; where there are several workers, each counts its own clients'.
"""

from __future__ import annotations

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
        self._fetches = Counts(
            "gateway_jwks_fetches",
            "Fetches of other issuers' key sets, by result (new, same, failed).",
            ["issuer", "result"],
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

    def jwks_fetched(self, issuer: str, result: str) -> None:
        """Count one fetch of an issuer's keys."""
        self._fetches.labels(issuer, result).inc()
