"""All wiring: from settings to something that serves. Used by production and tests alike."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Mapping

from aiohttp import web

from gateway.credentials import Verifier
from gateway.edge import EXCHANGE, EdgeServer, Handler
from gateway.exchange import Exchange
from gateway.key_ring import KeyRing
from gateway.limiter import Limiter
from gateway.limits import BucketStore, Dimension, OnStoreFailure, Quota, account_key
from gateway.logs import LogWriter, access_record, encode
from gateway.memory_buckets import MemoryBuckets
from gateway.metrics import Metrics
from gateway.middleware import build_middlewares, compose
from gateway.middleware.record import unseen
from gateway.operations import UNLISTED_READ, UNLISTED_WRITE, OperationTable
from gateway.proxy import forward, relay_answer
from gateway.redis_buckets import RedisBuckets
from gateway.scopes import ScopeProblem, expand
from gateway.services import Keys, Lifecycle, Services, TenantPolicy
from gateway.settings import Problem, Settings, SettingsInvalid, Tenant, resolve_secret
from gateway.sockets import forward_socket
from gateway.upstream import UpstreamPool

_POLL_SECONDS = 0.05
_DIMENSIONS = {dimension.value: dimension for dimension in Dimension}


def known_scopes(table: OperationTable) -> frozenset[str]:
    """Every scope that an operation can need."""
    return frozenset(operation.scope for operation in table) | {UNLISTED_READ.scope, UNLISTED_WRITE.scope}


def tenant_policies(settings: Settings, table: OperationTable) -> dict[str, TenantPolicy]:
    """The tenants made ready for the hot path. Raises SettingsInvalid with every problem."""
    scopes = known_scopes(table)
    policies = {}
    problems = []
    for tenant_id, tenant in settings.tenants.items():
        try:
            granted = expand(tenant.scopes, scopes)
        except ScopeProblem as problem:
            problems += [Problem(f"tenants.{tenant_id}.scopes", text) for text in problem.problems]
            continue
        policies[tenant_id] = TenantPolicy(tenant_id, tenant, granted, _quotas(settings, tenant_id, tenant))
    if problems:
        raise SettingsInvalid(problems)
    return policies


def _quotas(settings: Settings, tenant_id: str, tenant: Tenant) -> tuple[Quota, ...]:
    limits = settings.limits_of(tenant).model_dump(exclude_none=True)
    key = account_key(tenant_id)
    return tuple(
        Quota(_DIMENSIONS[name], capacity, key, OnStoreFailure(settings.on_store_failure))
        for name, capacity in limits.items()
    )


class App:
    """One gateway process: what handles an exchange, and what must be started and closed around it."""

    def __init__(self, services: Services, pool: UpstreamPool, close_log: Callable[[], None]) -> None:
        self.services = services
        self.pool = pool
        self.server: EdgeServer | None = None
        self._close_log = close_log
        answer = relay_answer(services.settings, services.metrics)
        http = forward(pool, services.settings, answer)
        socket = forward_socket(pool, services, answer)

        async def dispatch(request: web.BaseRequest) -> web.StreamResponse:
            if request[EXCHANGE].head_upgrades:
                return await socket(request)
            return await http(request)

        self.handler: Handler = compose(build_middlewares(services), dispatch)
        services.metrics.in_flight.set_function(lambda: services.lifecycle.in_flight)
        services.metrics.connections.set_function(lambda: self.server.open_connections if self.server else 0)
        for state in ("busy", "idle", "waiting"):
            services.metrics.upstream_connections.labels(state).set_function(_count(pool, state))

    async def start(self) -> EdgeServer:
        """Open the pool and make the server that connections are handed to."""
        await self.pool.start()
        services = self.services
        await services.limiter.start()
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
        services.lifecycle.ready = True
        return self.server

    async def drain(self, seconds: float) -> None:
        """Let what runs finish, for at most `seconds`; nothing new is accepted any more.

        WebSockets are closed with 1001 at once: their clients reconnect elsewhere.
        """
        lifecycle = self.services.lifecycle
        lifecycle.ready = False
        lifecycle.draining = True
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
        await self.services.limiter.close()
        await self.pool.close()
        await asyncio.to_thread(self._close_log)


def build_app(
    settings: Settings,
    *,
    ring: KeyRing,
    environ: Mapping[str, str] | None = None,
    log_descriptor: int = 1,
    store: BucketStore | None = None,
) -> App:
    """Wire one gateway process. Raises SettingsInvalid for what only shows when things are put together."""
    environ = os.environ if environ is None else environ
    table = OperationTable.load()
    metrics = Metrics()
    writer = LogWriter(log_descriptor, dropped=metrics.log_lines_dropped.inc)
    upstream = settings.upstream
    api_key = resolve_secret(upstream.api_key, environ) or environ.get("OPENAI_API_KEY") or None
    pool = UpstreamPool(
        upstream,
        base_url=upstream.resolved_base_url(environ),
        api_key=api_key,
        admin_api_key=resolve_secret(upstream.admin_api_key, environ),
        connected=lambda result: metrics.upstream_connects.labels(result).inc(),
    )
    if store is None:
        redis_url = resolve_secret(settings.redis_url, environ)
        store = RedisBuckets(redis_url) if redis_url else MemoryBuckets()
    accepted = settings.credentials
    services = Services(
        settings=settings,
        table=table,
        keys=Keys(ring),
        verifier=Verifier(
            ring,
            issuer=accepted.issuer,
            audience=accepted.audience,
            leeway_seconds=accepted.leeway_seconds,
            max_lifetime_seconds=accepted.max_lifetime_seconds,
            max_bytes=accepted.max_bytes,
            cache_size=accepted.cache_size,
        ),
        tenants=tenant_policies(settings, table),
        limiter=Limiter(store),
        metrics=metrics,
        log=_log(writer),
        lifecycle=Lifecycle(),
    )
    return App(services, pool, writer.close)


def _log(writer: LogWriter) -> Callable[[Exchange, float], None]:
    def log(exchange: Exchange, now: float) -> None:
        writer.write(encode(access_record(exchange, now=now)))

    return log


def _count(pool: UpstreamPool, state: str) -> Callable[[], float]:
    return lambda: pool.counts()[state]


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
