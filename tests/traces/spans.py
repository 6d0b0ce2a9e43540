"""Spans of a gateway under test, in memory, by OpenTelemetry's own exporter for that."""

from __future__ import annotations

import asyncio

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gateway.exchange.exchange import Exchange
from gateway.exchange.span import Span
from gateway.traces.otlp import export_by
from gateway.traces.said import Said, said_of
from gateway.wire.trace_context import SAMPLED, TraceContext

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECORDED = f"traceparent: 00-{TRACE}-{CALLER}-01\r\n"
PASSED_OVER = f"traceparent: 00-{TRACE}-{CALLER}-00\r\n"


class Memory:
    """What a gateway has recorded."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.export = export_by(self._exporter, {"service.name": "gateway"})

    async def wait(self, count: int = 1) -> list[ReadableSpan]:
        """The first `count` spans; fails when they do not come."""
        async with asyncio.timeout(10):
            while len(self.spans) < count:
                await asyncio.sleep(0.02)
        return self.spans

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have come."""
        return list(self._exporter.get_finished_spans())


def ids(span: ReadableSpan) -> tuple[str, str, str | None]:
    """Its trace, itself and its parent, in hexadecimal."""
    assert span.context is not None
    parent = None if span.parent is None else f"{span.parent.span_id:016x}"
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


def a_span(record: Exchange) -> Said:
    """What is said of an exchange that was made by hand."""
    span = Span(TraceContext(TRACE, CALLER, SAMPLED), parent_id=None, state=b"")
    return said_of(record, span, record.started_at + 1.0)
