"""The ways upstream: one pool of connections for each origin, and as whom they are used."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from gateway.exchange.upstream_metrics import UpstreamMetrics
from gateway.operations.table import Operation
from gateway.policy.caller import Caller
from gateway.policy.tenants import UpstreamAccess
from gateway.proxy.account_watch import AccountWatch
from gateway.proxy.bites import Turns
from gateway.proxy.identities import Identities
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
        identities: Identities,
        http_proxy: str | None,
        metrics: UpstreamMetrics,
        turns: Turns,
        wheel: Wheel,
        accounts: AccountWatch,
        deployment: Callable[[], bytes],
    ) -> None:
        self.deployment = deployment
        """Our name in CDN-Loop, at any time."""

        self.accounts = accounts
        """Is told what answers say of whose account they come from."""

        self.metrics = metrics
        """What is counted of what becomes of requests and connections."""

        self.identities = identities
        """What opens the ways that no key of the configuration does."""

        self._settings = settings
        self._administration = administration
        self.administers = administration.api_key is not None
        """Whether there is a key for administration: without it those operations are closed."""

        self._http_proxy = http_proxy
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

    async def open(self, access: UpstreamAccess) -> UpstreamPool:
        """The pool of an upstream, made on first use, and called by the name of who uses it first; that of the common
        upstream has its name. Raises SettingsInvalid for a CA file that cannot be used."""
        base_url = access.base_url
        if self._trusted is None and (base_url.startswith("https:") or self._http_proxy):
            trusted = await asyncio.to_thread(trusted_certificates, self._settings.ca_file)
            self._trusted = self._trusted or trusted
        pool = self._pools.get(base_url)
        if pool is None:
            common = self._settings
            name = common.name if base_url == common.base_url else access.name
            pool = self._pools[base_url] = UpstreamPool(
                self._settings,
                name=name,
                base_url=base_url,
                http_proxy=self._http_proxy,
                trusted=self._trusted,
                events=self._events_of(name),
                make_room=self._drop_idle,
                turns=self._turns,
                wheel=self._wheel,
            )
            self._show(name)
        return pool

    def _events_of(self, name: str) -> PoolEvents:
        return PoolEvents(
            connected=partial(self.metrics.connected, name),
            waited=partial(self.metrics.waited, name),
            first=lambda tenant: self.metrics.held.watch(partial(self.held_by, tenant, name), name, tenant),
        )

    def _show(self, name: str) -> None:
        """Let gauges show the connections of the pools of this name: there may be several."""
        metrics = self.metrics
        for state in ("busy", "idle", "waiting"):
            metrics.connections.watch(partial(self._count, name, state), name, state)
        metrics.connections_most.watch(lambda: sum(pool.places.most for pool in self._named(name)), name)

    def _named(self, name: str) -> list[UpstreamPool]:
        return [pool for pool in tuple(self._pools.values()) if pool.name == name]

    def _count(self, name: str, state: str) -> int:
        return sum(pool.counts()[state] for pool in self._named(name))

    def administer(self, administration: UpstreamAccess) -> None:
        """Where administration goes from now on, and with which key."""
        self._administration = administration
        self.administers = administration.api_key is not None

    def access_for(self, operation: Operation, caller: Caller) -> UpstreamAccess:
        """Where an operation goes, and as whom: administration has one place and one key for everybody."""
        if operation.is_administration:
            return self._administration
        access = caller.tenant.access
        if caller.upstream_secret is None:
            return access
        return replace(access, api_key=caller.upstream_secret, identity=None)

    def held_by(self, tenant: str, name: str) -> int:
        """Connections that a tenant's exchanges hold of the pools of this name, for the gauge."""
        return sum(pool.places.held_by(tenant) for pool in self._named(name))

    def _drop_idle(self) -> None:
        """Close what nobody uses: one pool's idle connections must not keep another from connecting."""
        for pool in self._pools.values():
            pool.drop_idle()

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.close()
