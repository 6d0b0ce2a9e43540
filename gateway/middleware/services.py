"""What the middlewares and handlers of one process share: made once by `app.build_app`, then only read."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.credentials.trust import Trust
from gateway.exchange.exchange import Exchange
from gateway.exchange.metrics import Metrics
from gateway.limits.limiter import Limiter
from gateway.operations.table import OperationTable
from gateway.policy.tenants import TenantBook
from gateway.settings.settings import Settings
from gateway.usage.ledger import UsageLedger


class EndsPolitely(Protocol):
    """Something long-lived that can be told to come to an end."""

    def end_politely(self, code: int, reason: str) -> None:
        """Close both sides with this WebSocket close code and reason."""


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
    trust: Trust
    tenants: TenantBook
    limiter: Limiter
    ledger: UsageLedger
    metrics: Metrics
    log: Callable[[Exchange, float], None]
    lifecycle: Lifecycle
    file_bytes: Callable[[Exchange, str], Awaitable[int | None]]
    """The size of a file that the upstream has stored, by its id; None when it does not say."""
