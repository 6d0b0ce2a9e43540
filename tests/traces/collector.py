"""A collector that a test asks what it has been sent: OTLP over HTTP, decoded by OpenTelemetry's own messages."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.proxy.acceptor import listening_sockets


@dataclass
class Collector:
    """What it has been sent."""

    port: int = 0
    requests: list[ExportTraceServiceRequest] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    asked: int = 0
    status: int = 200
    opens: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, nobody gets an answer."""

    @property
    def url(self) -> str:
        """Its endpoint, as operators give it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def spans(self) -> list[Span]:
        """All spans so far."""
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    @property
    def instances(self) -> set[str]:
        """Who sent them."""
        return {
            attribute.value.string_value
            for request in self.requests
            for of_resource in request.resource_spans
            for attribute in of_resource.resource.attributes
            if attribute.key == "service.instance.id"
        }

    async def wait(self, count: int) -> list[Span]:
        """So many spans; fails when they do not come."""
        async with asyncio.timeout(15):
            while len(self.spans) < count:
                await asyncio.sleep(0.02)
        return self.spans

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked += 1
        await self.opens.wait()
        if self.status != 200:
            return web.Response(status=self.status)
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.paths.append(request.path)
        self.requests.append(ExportTraceServiceRequest.FromString(body))
        return web.Response(body=b"", content_type="application/x-protobuf")


@asynccontextmanager
async def running_collector(*, opens: bool = True) -> AsyncIterator[Collector]:
    """Run one; it answers nobody until it opens."""
    collector = Collector()
    if opens:
        collector.opens.set()
    app = web.Application()
    app.router.add_post("/{path:.*}", collector._take)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    for listening in listening_sockets("127.0.0.1", 0, backlog=16):
        await web.SockSite(runner, listening).start()
        collector.port = listening.getsockname()[1]
    try:
        yield collector
    finally:
        collector.opens.set()
        await runner.cleanup()
