"""What one process tells of itself when somebody looks at the state: which exchanges are old, and which were slow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import attrgetter
from time import monotonic, time

from gateway.app.seldom import Seldom
from gateway.app.state import (
    MOST_EXCHANGES,
    MOST_TENANTS,
    SLOWEST_SECONDS,
    CommonTold,
    Ended,
    Running,
    TenantTold,
    Told,
)
from gateway.exchange.exchange import Exchange
from gateway.exchange.slowest import Slow
from gateway.middleware.services import Services
from gateway.policy.tenants import TenantPolicy

_LOOKED_AT = 2000
"""Of what runs, oldest first but for a moment: it stands in the order in which callers became known. Some 0.3 ms."""

_SPARE = 20
"""So many more of a transport than are told are put in order, for that moment's sake."""

_BITE = 50
"""Tenants that are told of in one turn of the loop: some 0.1 ms."""

_MOST_LETTERS = 200


class OwnState:
    """Tells it, a bite at a turn of the loop, and holds nothing of an exchange that is over."""

    def __init__(self, services: Services, *, connections: Callable[[], int], index: int) -> None:
        self._services = services
        self._connections = connections
        self._index = index
        self._seldom = Seldom(ledger=services.ledger, trust=services.trust)

    async def tell(self, *, common: bool, busiest: Sequence[str]) -> Told:
        """How it is now; with `common` also what all workers know alike, of no more tenants than are shown.

        Of `busiest` first, where there are more.
        """
        services = self._services
        told: Told = {
            "in_flight": services.lifecycle.in_flight,
            "connections": self._connections(),
            "oldest": self._oldest(),
            "slowest": [self._ended(slow) for slow in services.slowest.since(time() - SLOWEST_SECONDS)],
            "common": None,
        }
        if common:
            await asyncio.sleep(0)
            told["common"] = await self._common(busiest)
        return told

    async def close(self) -> None:
        """Read nothing more."""
        await self._seldom.close()

    def _oldest(self) -> list[Running]:
        """Those of each transport: sessions may be many and old, and nothing be wrong with them."""
        lifecycle = self._services.lifecycle
        by_socket: list[Exchange] = []
        by_http: list[Exchange] = []
        most = MOST_EXCHANGES + _SPARE
        sessions = min(most, len(lifecycle.sessions))
        for one in islice(lifecycle.running.values(), _LOOKED_AT):
            exchange = one.exchange
            found = by_socket if exchange.is_socket else by_http
            if len(found) < most:
                found.append(exchange)
            elif len(by_http) == most and len(by_socket) >= sessions:
                break
        now = monotonic()
        return [
            self._running(exchange, now)
            for found in (by_http, by_socket)
            for exchange in sorted(found, key=attrgetter("started_at"))[:MOST_EXCHANGES]
        ]

    def _running(self, exchange: Exchange, now: float) -> Running:
        return {
            "request_id": exchange.id,
            "tenant": exchange.caller.tenant.id,
            "operation": exchange.operation.id,
            "model": _short(exchange.model),
            "upstream": exchange.upstream,
            "age_seconds": round(now - exchange.started_at, 3),
            "worker": self._index,
            "bytes_out": exchange.bytes_out,
            "transport": "websocket" if exchange.is_socket else "http",
        }

    def _ended(self, slow: Slow) -> Ended:
        return {
            "request_id": slow.id,
            "tenant": slow.tenant,
            "operation": slow.operation,
            "model": _short(slow.model),
            "upstream": slow.upstream,
            "age_seconds": round(slow.seconds, 3),
            "worker": self._index,
            "bytes_out": slow.bytes_out,
            "transport": "http",
            "ended": round(slow.ended, 3),
            "status": slow.status or None,
            "ending": slow.ending,
        }

    async def _common(self, busiest: Sequence[str]) -> CommonTold:
        policies, seldom = self._services.tenants.policies, self._seldom
        chosen = list(islice(_first(busiest, policies), MOST_TENANTS))
        await seldom.look(chosen)
        tenants: list[TenantTold] = []
        for at, tenant in enumerate(chosen):
            if at % _BITE == _BITE - 1:
                await asyncio.sleep(0)
            tenants.append(self._tenant(policies[tenant]))
        return {
            "tenants": tenants,
            "tenants_in_all": len(policies),
            "credentials": seldom.credentials,
            "more_credentials": seldom.more_credentials,
        }

    def _tenant(self, policy: TenantPolicy) -> TenantTold:
        return {
            "tenant": policy.id,
            "name": _short(policy.settings.name),
            "enabled": policy.settings.enabled,
            "limits": {quota.dimension.value: quota.capacity for quota in policy.quotas},
            "used": self._seldom.used(policy.id),
        }


def _first(busiest: Iterable[str], known: Iterable[str]) -> Iterable[str]:
    """Those that are known, each once, the busiest first."""
    all_of_them = dict.fromkeys(known)
    return dict.fromkeys((*(one for one in busiest if one in all_of_them), *all_of_them))


def _short(text: str | None) -> str | None:
    """What somebody else chose to call something; half of a surrogate pair could not be written anywhere."""
    if text is None:
        return None
    return text[:_MOST_LETTERS].encode("utf-8", "replace").decode("utf-8")
