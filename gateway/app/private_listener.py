"""The private listener: health and metrics, on a thread of its own so that rendering delays nobody."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from gateway.proxy.lifecycle import Lifecycle

PRIVATE_CONNECTIONS = 16


class PrivateListener:
    """Serves /livez, /readyz and /metrics. Keep it off the public network: it asks nobody who they are."""

    def __init__(self, host: str, port: int, *, registry: CollectorRegistry, lifecycle: Lifecycle) -> None:
        self._host = host
        self._port = port
        self._registry = registry
        self._lifecycle = lifecycle
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Listen; returns the port. Raises OSError when the address is taken."""
        listening: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening)), name="gateway-private", daemon=True
        )
        self._thread.start()
        return listening.result()

    def stop(self) -> None:
        """Stop listening and wait for the thread."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()

    async def _serve(self, listening: Future[int]) -> None:
        stop = asyncio.Event()
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, self._host, self._port).start()
        except OSError as error:
            await runner.cleanup()
            listening.set_exception(error)
            return
        self._loop, self._stop = asyncio.get_running_loop(), stop
        listening.set_result(int(runner.addresses[0][1]))
        await stop.wait()
        await runner.cleanup()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="live\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        if self._lifecycle.ready:
            return web.Response(text="ready\n")
        return web.Response(status=503, text="draining\n" if self._lifecycle.draining else "not ready\n")

    async def _metrics(self, request: web.Request) -> web.Response:
        render, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=render(self._registry), headers={"Content-Type": content_type})
