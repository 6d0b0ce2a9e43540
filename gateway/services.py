"""What the middlewares and handlers of one process share: made once by `app.build_app`, then only read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from gateway.credentials import Verifier
from gateway.exchange import Exchange
from gateway.key_ring import KeyRing
from gateway.limiter import Limiter
from gateway.limits import Quota
from gateway.metrics import Metrics
from gateway.operations import OperationTable
from gateway.settings import Settings, Tenant


@dataclass(frozen=True, slots=True)
class TenantPolicy:
    """A tenant's settings, made ready for the hot path."""

    id: str
    tenant: Tenant
    scopes: frozenset[str]
    """The most that a credential may use here, patterns expanded."""

    quotas: tuple[Quota, ...]


class EndsPolitely(Protocol):
    """Something long-lived that can be told to come to an end."""

    def end_politely(self, code: int, reason: str) -> None:
        """Close both sides with this WebSocket close code and reason."""


class Keys:
    """The keys in force; replaced whole when the key directory changes."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring


class Lifecycle:
    """Whether this process is still meant to get work, and which sessions would outlast a drain."""

    def __init__(self) -> None:
        self.ready = False
        """Load balancers may send new connections."""

        self.draining = False
        """No new connections are accepted; what runs may finish."""

        self.in_flight = 0
        self.sessions: set[EndsPolitely] = set()


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that handling an exchange needs beside the exchange itself."""

    settings: Settings
    table: OperationTable
    keys: Keys
    verifier: Verifier
    tenants: Mapping[str, TenantPolicy]
    limiter: Limiter
    metrics: Metrics
    log: Callable[[Exchange, float], None]
    lifecycle: Lifecycle
