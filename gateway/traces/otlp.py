"""Spans as OpenTelemetry has them, and its exporter: the one module that imports it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.trace.status import Status, StatusCode

from gateway import __version__
from gateway.traces.said import Said
from gateway.traces.writer import Export

_SCOPE = InstrumentationScope("gateway", __version__)
_SEND_SECONDS = 5.0
"""For one batch, attempts included."""


def otlp(endpoint: str) -> SpanExporter:
    """What sends by OTLP over HTTP. Headers, a certificate and compression are its own variables' affair."""
    # It has a line for each attempt; the writer says once what becomes of them.
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL + 1)
    return OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_SECONDS)


def export_by(exporter: SpanExporter, about: Mapping[str, str | int]) -> Export:
    """Have an exporter of OpenTelemetry's send spans; `about` is what all have in common."""
    resource = Resource.create(dict(about))

    def export(spans: Sequence[Said]) -> str | None:
        result = exporter.export([_span(span, resource) for span in spans])
        return None if result is SpanExportResult.SUCCESS else "the collector did not take them"

    return export


def _span(said: Said, resource: Resource) -> ReadableSpan:
    state = _state(said.state) if said.state else None
    trace_id, flags = int(said.trace_id, 16), TraceFlags(said.flags)
    context = SpanContext(trace_id, int(said.span_id, 16), False, flags, state)
    parent = None
    if said.parent_id is not None:
        parent = SpanContext(trace_id, int(said.parent_id, 16), True, flags, state)
    return ReadableSpan(
        said.name,
        context,
        parent,
        resource,
        said.attributes,
        () if said.first_byte is None else (Event("first_byte", timestamp=said.first_byte),),
        kind=SpanKind.CLIENT if said.asks else SpanKind.SERVER,
        status=Status() if said.failure is None else Status(StatusCode.ERROR, said.failure),
        start_time=said.began,
        end_time=said.ended,
        instrumentation_scope=_SCOPE,
    )


@lru_cache(maxsize=64)
def _state(kept: bytes) -> TraceState:
    return TraceState.from_header([kept.decode("ascii")])
