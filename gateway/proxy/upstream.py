"""The ways upstream: one pool of connections for each origin, and as whom they are used."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace

from gateway.operations.table import Operation
from gateway.policy.caller import Caller
from gateway.policy.tenants import UpstreamAccess
from gateway.proxy.account_watch import AccountWatch
from gateway.proxy.bites import Turns
from gateway.proxy.pool import PoolEvents, UpstreamPool
from gateway.proxy.wheel import Wheel
from gateway.settings.certificates import trusted_certificates
from gateway.settings.upstream import Upstream as UpstreamSettings


class Upstreams:
    """The pools of one process, by base URL, and what opens each upstream."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        administration: UpstreamAccess,
        http_proxy: str | None,
        events: PoolEvents,
        turns: Turns,
        wheel: Wheel,
        accounts: AccountWatch,
        deployment: Callable[[], bytes],
    ) -> None:
        self.deployment = deployment
        """Our name in CDN-Loop, at any time."""

        self.accounts = accounts
        """Is told what answers say of whose account they come from."""

        self._settings = settings
        self._administration = administration
        self.administers = administration.api_key is not None
        """Whether there is a key for administration: without it those operations are closed."""

        self._http_proxy = http_proxy
        self._events = events
        self._turns = turns
        self._wheel = wheel
        self._pools: dict[str, UpstreamPool] = {}
        self._trusted: ssl.SSLContext | None = None

    def trust(self, trusted: ssl.SSLContext) -> None:
        """Believe these certificates, and no others, for every connection that is made from now on."""
        if trusted is self._trusted:
            return  # as before
        self._trusted = trusted
        for pool in self._pools.values():
            pool.trust(trusted)

    async def open(self, base_url: str) -> UpstreamPool:
        """The pool of an upstream, made on first use. Raises SettingsInvalid for a CA file that cannot be used."""
        if self._trusted is None and (base_url.startswith("https:") or self._http_proxy):
            trusted = await asyncio.to_thread(trusted_certificates, self._settings.ca_file)
            self._trusted = self._trusted or trusted
        pool = self._pools.get(base_url)
        if pool is None:
            pool = self._pools[base_url] = UpstreamPool(
                self._settings,
                base_url=base_url,
                http_proxy=self._http_proxy,
                trusted=self._trusted,
                events=self._events,
                make_room=self._drop_idle,
                turns=self._turns,
                wheel=self._wheel,
            )
        return pool

    def opened(self, base_url: str) -> UpstreamPool | None:
        """The pool of an upstream, if it has been used before."""
        return self._pools.get(base_url)

    def administer(self, administration: UpstreamAccess) -> None:
        """Where administration goes from now on, and with which key."""
        self._administration = administration
        self.administers = administration.api_key is not None

    def access_for(self, operation: Operation, caller: Caller) -> UpstreamAccess:
        """Where an operation goes, and as whom: administration has one place and one key for everybody."""
        if operation.is_administration:
            return self._administration
        access = caller.tenant.access
        return access if caller.upstream_secret is None else replace(access, api_key=caller.upstream_secret)

    def counts(self) -> dict[str, int]:
        """Connections by state, for the gauge."""
        counts = {"busy": 0, "idle": 0, "waiting": 0}
        for pool in tuple(self._pools.values()):
            for state, count in pool.counts().items():
                counts[state] += count
        return counts

    def held_by(self, tenant: str) -> int:
        """Connections that a tenant's exchanges hold, for the gauge."""
        return sum(pool.places.held_by(tenant) for pool in tuple(self._pools.values()))

    def _drop_idle(self) -> None:
        """Close what nobody uses: one pool's idle connections must not keep another from connecting."""
        for pool in self._pools.values():
            pool.drop_idle()

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.close()
