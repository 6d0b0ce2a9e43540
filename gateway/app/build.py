"""All wiring: from settings to something that serves. Used by production and tests alike."""

from __future__ import annotations

import asyncio
import math
import resource
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aiohttp import web

from gateway.app.own_paths import own_paths
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.trust import Trust
from gateway.exchange.exchange import Exchange
from gateway.exchange.log import LogWriter, access_record, encode
from gateway.exchange.metrics import Metrics
from gateway.limits.limiter import Limiter
from gateway.limits.memory_buckets import MemoryBuckets
from gateway.limits.redis_buckets import RedisBuckets
from gateway.limits.store import BucketStore
from gateway.middleware import build_middlewares, compose
from gateway.middleware.record import unseen
from gateway.middleware.services import Lifecycle, Services
from gateway.operations.own import GROUP
from gateway.operations.table import OperationTable
from gateway.policy.tenants import TenantBook, UpstreamAccess, tenant_policies
from gateway.proxy.edge import EdgeServer
from gateway.proxy.http import forward, relay_answer
from gateway.proxy.request import EXCHANGE, Handler
from gateway.proxy.sockets import forward_socket
from gateway.proxy.stored_files import file_bytes
from gateway.proxy.upstream import Upstreams
from gateway.settings.reloading import Configuration
from gateway.settings.section import revealed
from gateway.settings.settings import Settings, waiting_for_restart
from gateway.usage.ledger import UsageLedger
from gateway.usage.memory_usage import MemoryUsage
from gateway.usage.redis_usage import RedisUsage

_POLL_SECONDS = 0.05


class App:
    """One gateway process: what handles an exchange, and what must be started and closed around it."""

    def __init__(
        self,
        services: Services,
        upstreams: Upstreams,
        *,
        close_log: Callable[[], None],
        read_settings: Callable[[], Settings] | None = None,
        settings_file: Path | None = None,
    ) -> None:
        self.services = services
        self.configuration: Configuration | None = None
        if read_settings is not None:
            self.configuration = Configuration(
                read=read_settings, file=settings_file, take=self._take, loaded=self._settings_loaded
            )
        self.upstreams = upstreams
        self.server: EdgeServer | None = None
        self._close_log = close_log
        answer = relay_answer(services.settings, services.metrics)
        http = forward(upstreams, services.settings, answer)
        socket = forward_socket(upstreams, services, answer)

        own = own_paths(services)

        async def dispatch(request: web.BaseRequest) -> web.StreamResponse:
            if request[EXCHANGE].operation.group == GROUP:
                return await own(request)
            if request[EXCHANGE].head_upgrades:
                return await socket(request)
            return await http(request)

        self.handler: Handler = compose(build_middlewares(services), dispatch)
        services.metrics.in_flight.set_function(lambda: services.lifecycle.in_flight)
        services.metrics.connections.set_function(lambda: self.server.open_connections if self.server else 0)
        trust = services.trust
        services.metrics.revocations_age.set_function(trust.revocations_age_seconds)
        services.metrics.revocations.set_function(lambda: len(trust.revocations))
        self._bind_jwks_ages(services.settings)
        for state in ("busy", "idle", "waiting"):
            services.metrics.upstream_connections.labels(state).set_function(_count(upstreams, state))
        services.metrics.watch_limiter(services.limiter.state)
        services.metrics.usage_waiting.set_function(lambda: services.ledger.waiting)

    async def start(self) -> EdgeServer:
        """Open the pool and make the server that connections are handed to."""
        services = self.services
        for policy in services.tenants.policies.values():
            await self.upstreams.open(policy.access.base_url)
        await services.limiter.start()
        await services.ledger.start()
        await services.trust.start()
        edge = services.settings.edge
        self.server = EdgeServer(
            self.handler,
            unseen=unseen(services),
            max_connections=edge.max_connections or _half_of_file_limit(),
            max_header_bytes=edge.max_header_bytes,
            header_timeout_seconds=edge.header_timeout_seconds,
            write_idle_seconds=edge.write_idle_timeout_seconds,
            keepalive_seconds=edge.keepalive_seconds,
        )
        if self.configuration is not None:
            await self.configuration.start(services.settings)
        services.lifecycle.ready = True
        return self.server

    def _bind_jwks_ages(self, settings: Settings) -> None:
        for name, issuer in settings.issuers.items():
            if issuer.jwks_url is not None:
                self.services.metrics.jwks_age.labels(name).set_function(_age(self.services.trust, name))

    def _take(self, settings: Settings) -> list[str]:
        """Put the tenants of new settings in force; name what else has changed. Raises SettingsInvalid."""
        services = self.services
        policies = tenant_policies(settings, services.table)
        services.trust.reload(settings.credentials, settings.issuers)
        self._bind_jwks_ages(settings)
        services.tenants.policies = policies
        return waiting_for_restart(services.settings, settings)

    def _settings_loaded(self, well: bool) -> None:
        metrics = self.services.metrics
        metrics.configuration_loads.labels("loaded" if well else "failed").inc()
        metrics.configuration_valid.set(int(well))

    async def drain(self, seconds: float) -> None:
        """Let what runs finish, for at most `seconds`; nothing new is accepted any more.

        WebSockets are closed with 1001 at once: their clients reconnect elsewhere.
        """
        lifecycle = self.services.lifecycle
        lifecycle.ready = False
        lifecycle.draining = True
        if self.server is not None:
            self.server.draining = True
        for session in tuple(lifecycle.sessions):
            session.end_politely(1001, "the gateway is restarting")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while lifecycle.in_flight and loop.time() < deadline:
            if self.server is not None:
                self.server.close_idle()
            await asyncio.sleep(_POLL_SECONDS)

    async def close(self) -> None:
        """Close what `start` opened, and write the last lines."""
        if self.configuration is not None:
            await self.configuration.close()
        await self.services.limiter.close()
        await self.services.ledger.close()
        await self.services.trust.close()
        await self.upstreams.close()
        await asyncio.to_thread(self._close_log)


def build_app(
    settings: Settings,
    *,
    ring: KeyRing,
    keys_dir: Path | None = None,
    log_descriptor: int = 1,
    store: BucketStore | None = None,
    read_settings: Callable[[], Settings] | None = None,
    settings_file: Path | None = None,
) -> App:
    """Wire one gateway process. Raises SettingsInvalid for what only shows when things are put together.

    With `read_settings` tenants and issuers follow the configuration while the process runs; with
    `keys_dir`, where `ring` came from, keys and revocations follow that folder.
    """
    table = OperationTable.load()
    metrics = Metrics()
    writer = LogWriter(log_descriptor, dropped=metrics.log_lines_dropped.inc)
    upstreams = Upstreams(
        settings.upstream,
        administration=UpstreamAccess(
            settings.upstream.base_url,
            revealed(settings.upstream.admin_api_key),
        ),
        http_proxy=revealed(settings.upstream.http_proxy),
        connected=lambda result: metrics.upstream_connects.labels(result).inc(),
    )
    redis_url = revealed(settings.redis_url)
    if store is None:
        store = RedisBuckets(redis_url) if redis_url else MemoryBuckets()
    trust = Trust(
        settings.credentials,
        settings.issuers,
        ring=ring,
        known_scopes=table.scopes,
        keys_dir=keys_dir,
        redis_url=redis_url,
        jwks_fetched=lambda issuer, result: metrics.jwks_fetches.labels(issuer, result).inc(),
        ring_loaded=lambda result: metrics.key_ring_loads.labels(result).inc(),
    )
    services = Services(
        settings=settings,
        table=table,
        trust=trust,
        tenants=TenantBook(tenant_policies(settings, table)),
        limiter=Limiter(store, expected_replicas=settings.expected_replicas),
        ledger=UsageLedger(
            RedisUsage(redis_url) if redis_url else MemoryUsage(), lost=metrics.usage_lost.inc
        ),
        metrics=metrics,
        log=_log(writer),
        lifecycle=Lifecycle(),
        file_bytes=partial(file_bytes, upstreams),
    )
    return App(
        services,
        upstreams,
        close_log=writer.close,
        read_settings=read_settings,
        settings_file=settings_file,
    )


def _log(writer: LogWriter) -> Callable[[Exchange, float], None]:
    def log(exchange: Exchange, now: float) -> None:
        writer.write(encode(access_record(exchange, now=now)))

    return log


def _age(trust: Trust, name: str) -> Callable[[], float]:
    return lambda: trust.jwks_ages().get(name, math.inf)


def _count(upstreams: Upstreams, state: str) -> Callable[[], float]:
    return lambda: upstreams.counts()[state]


class GatewayRunner(web.BaseRunner):
    """Starts and ends an App around aiohttp's server, with production's settings."""

    __slots__ = ("_app",)

    def __init__(self, app: App) -> None:
        # What outlives the drain time is cancelled at once: it has had its time.
        super().__init__(handle_signals=False, shutdown_timeout=0.5)
        self._app = app

    async def shutdown(self) -> None:
        """Nothing: `App.drain` has done it."""

    async def _make_server(self) -> web.Server:
        return await self._app.start()

    async def _cleanup_server(self) -> None:
        await self._app.close()


def make_runner(app: App) -> GatewayRunner:
    """The runner that production and tests share; add sites to it, or hand it sockets."""
    return GatewayRunner(app)


def _half_of_file_limit() -> int:
    """Each client connection needs another one upstream, and the rest of the process some files too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, (soft - 64) // 2 - 1)
