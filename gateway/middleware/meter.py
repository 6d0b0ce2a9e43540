"""What was used: reads usage from the answer as it goes by."""

from __future__ import annotations

from aiohttp import web

from gateway.edge import EXCHANGE, Handler, Middleware
from gateway.exchange import Exchange, Head
from gateway.services import Services
from gateway.usage_reader import UsageReader


def meter(services: Services) -> Middleware:  # noqa: ARG001 (every middleware is made alike)
    """Watch the answers of operations that report usage; what they reported is known when they end."""

    async def middleware(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        if exchange.operation.usage_location.startswith("none") or exchange.head_upgrades:
            return await handler(request)
        watcher = _UsageWatcher(exchange)
        exchange.observers.append(watcher)
        try:
            return await handler(request)
        finally:
            watcher.finish()

    return middleware


class _UsageWatcher:
    """A StreamObserver that reads a successful answer's usage."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._reader: UsageReader | None = None

    def opened(self, head: Head) -> None:
        """The head says whether there is anything to read, and how."""
        if 200 <= head.status < 300:
            self._reader = UsageReader(head.get(b"content-type"), head.get(b"content-encoding"))

    def request_piece(self, piece: bytes) -> None:
        """Nothing: what was asked for is not what was used."""

    def answer_piece(self, piece: bytes) -> None:
        """Read on."""
        if self._reader is not None:
            self._reader.feed(piece)

    def finish(self) -> None:
        """Note what has been reported."""
        if self._reader is not None:
            self._exchange.usage = self._reader.finish()
