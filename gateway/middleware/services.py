"""What handling exchanges needs in one process: made once by `app`, handed to each link by name."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from gateway.credentials.trust import Trust
from gateway.exchange.exchange import Exchange, Times
from gateway.exchange.metrics import Metrics
from gateway.exchange.slowest import Slowest
from gateway.limits.limiter import Limiter
from gateway.objects.registry import Registry
from gateway.operations.table import OperationTable
from gateway.policy.tenants import TenantBook
from gateway.proxy.body_memory import BodyMemory
from gateway.proxy.lifecycle import Lifecycle
from gateway.proxy.model_lists import ModelLists
from gateway.proxy.reading import Reading
from gateway.settings.settings import Settings
from gateway.traces.tracing import Tracing
from gateway.usage.guesses import Guesses
from gateway.usage.late_register import LateRegister
from gateway.usage.ledger import UsageLedger
from gateway.wire.cors import Cors


@dataclass(frozen=True, slots=True)
class Services:
    """Everything beside the exchange itself. Whoever serves one part of it takes that part only."""

    settings: Settings
    table: OperationTable
    trust: Trust
    tenants: TenantBook
    limiter: Limiter
    ledger: UsageLedger
    late: LateRegister | None
    """Who made what reports its usage later; None where several workers have no store in common."""

    registry: Registry | None
    """Whose what is that upstreams store; None: there is no Redis to keep it in."""

    guesses: Guesses
    metrics: Metrics
    log: Callable[[Exchange, Times], bool]
    lifecycle: Lifecycle
    slowest: Slowest
    """The exchanges that took longest of the last minutes."""

    reading: Reading
    memory: BodyMemory
    model_lists: ModelLists
    cors: Cors | None
    """Which pages of browsers may read answers; None: that is the upstream's affair."""

    tracing: Tracing | None
    """Who records exchanges in traces; None: nobody."""

    administers: Callable[[], bool]
    """Whether the operator has opened administration."""

    file_bytes: Callable[[Exchange, str], Awaitable[int | None]]
    """The size of a file that the upstream has stored, by its id; None when it does not say."""

    file_pieces: Callable[[Exchange, str], AsyncGenerator[bytes, None]]
    """What stands in it."""
