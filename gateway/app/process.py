"""One gateway process: what is started and closed around the handler of exchanges, and how it drains."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import web

from gateway.middleware.record import unseen
from gateway.middleware.services import Services
from gateway.proxy.bites import Turns
from gateway.proxy.edge import EdgeServer
from gateway.proxy.request import Handler
from gateway.proxy.upstream import Upstreams
from gateway.settings.reloading import Configuration

_POLL_SECONDS = 0.05


class App:
    """What serves exchanges, from start to close."""

    def __init__(
        self,
        services: Services,
        upstreams: Upstreams,
        handler: Handler,
        *,
        turns: Turns,
        configuration: Configuration | None,
        close_log: Callable[[], None],
    ) -> None:
        """`configuration` follows the settings' files where there are any."""
        self.services = services
        self.handler = handler
        self.configuration = configuration
        self.server: EdgeServer | None = None
        self._upstreams = upstreams
        self._turns = turns
        self._close_log = close_log
        self._started = AsyncExitStack()

    @property
    def open_connections(self) -> int:
        """Clients' connections."""
        return 0 if self.server is None else self.server.open_connections

    async def start(self) -> EdgeServer:
        """Start everything that lives as long as the process; return what connections are handed to."""
        services = self.services
        edge = services.settings.edge
        async with AsyncExitStack() as started:
            started.push_async_callback(asyncio.to_thread, self._close_log)
            started.push_async_callback(self._upstreams.close)
            for tenant in services.tenants.policies.values():
                await self._upstreams.open(tenant.access.base_url)
            for part in (services.trust, services.ledger, services.limiter):
                await part.start()
                started.push_async_callback(part.close)
            if self.configuration is not None:
                await self.configuration.start(services.settings)
                started.push_async_callback(self.configuration.close)
            self.server = EdgeServer(
                self.handler,
                unseen=unseen(metrics=services.metrics, log=services.log),
                max_connections=edge.max_connections or _half_of_file_limit(),
                max_header_bytes=edge.max_header_bytes,
                header_timeout_seconds=edge.header_timeout_seconds,
                write_idle_seconds=edge.write_idle_timeout_seconds,
                keepalive_seconds=edge.keepalive_seconds,
                turns=self._turns,
            )
            self._started = started.pop_all()
        services.lifecycle.ready = True
        return self.server

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
        """Close what `start` opened, last first, and write the last lines."""
        await self._started.aclose()


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
