"""A proxy that buffers on purpose: the build against which every promise about streaming must be seen broken.

It forwards everything, but takes each request body whole before it asks the upstream, takes each answer
whole before it begins its own, and passes WebSocket messages on two at a time.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from io import BytesIO
from typing import Self

import aiohttp
from aiohttp import web

_OF_ONE_CONNECTION = frozenset({"connection", "content-length", "host", "transfer-encoding", "upgrade"})

Socket = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class BufferingProxy:
    """Listens on a free port of 127.0.0.1, in front of an upstream given as host and port."""

    def __init__(self, upstream: str) -> None:
        self._upstream = f"http://{upstream}"
        self._stack = AsyncExitStack()
        self.host = "127.0.0.1"
        self.port = 0

    async def __aenter__(self) -> Self:
        self._session = await self._stack.enter_async_context(aiohttp.ClientSession())
        app = web.Application(client_max_size=sys.maxsize)
        app.router.add_route("*", "/{path:.*}", self._serve)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, self.host, 0).start()
        self.port = runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        url = self._upstream + request.raw_path
        if request.headers.get("Upgrade") == "websocket":
            return await self._converse(request, url)
        passed = {name: value for name, value in request.headers.items() if _passes(name)}
        body = BytesIO(await request.read())
        async with self._session.request(request.method, url, data=body, headers=passed) as answer:
            whole = await answer.read()
            headers = {name: value for name, value in answer.headers.items() if _passes(name)}
            return web.Response(status=answer.status, body=whole, headers=headers)

    async def _converse(self, request: web.Request, url: str) -> web.StreamResponse:
        async with self._session.ws_connect(url) as upstream:
            client = web.WebSocketResponse()
            await client.prepare(request)
            directions = {
                asyncio.create_task(_pass_pairs(client, upstream)),
                asyncio.create_task(_pass_pairs(upstream, client)),
            }
            try:
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for direction in directions:
                    direction.cancel()
            return client


async def _pass_pairs(source: Socket, sink: Socket) -> None:
    held: aiohttp.WSMessage | None = None
    async for message in source:
        if held is None:
            held = message
            continue
        for due in (held, message):
            if due.type is aiohttp.WSMsgType.TEXT:
                await sink.send_str(due.data)
            else:
                await sink.send_bytes(due.data)
        held = None


def _passes(name: str) -> bool:
    return name.lower() not in _OF_ONE_CONNECTION
