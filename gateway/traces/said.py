"""What the span of an exchange says: by the conventions for HTTP, and where a model works by those for GenAI.

https://opentelemetry.io/docs/specs/semconv/. No body is in it, no credential, no key, no query, and nobody's name.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.endings import Ending
from gateway.exchange.exchange import Exchange
from gateway.exchange.span import Span
from gateway.operations.operation import FETCHES
from gateway.usage.reported import Usage

Attributes = dict[str, str | int | float | bool]

_USAGE = {
    "input": "gen_ai.usage.input_tokens",
    "cached_input": "gen_ai.usage.cache_read.input_tokens",
    "cache_write": "gen_ai.usage.cache_write.input_tokens",
    "output": "gen_ai.usage.output_tokens",
    "reasoning": "gen_ai.usage.reasoning.output_tokens",
    "input_audio": "gen_ai.usage.audio.input_tokens",
    "output_audio": "gen_ai.usage.audio.output_tokens",
}
"""The kinds of usage that the conventions have a name for."""

_MOST_CHARACTERS = 256
_MOST_STATE_BYTES = 512
"""Of what others keep with a trace, which is theirs to choose: so many of these spans wait, and go in one message. Up
it goes as it came."""

_LARGEST = 2**53
"""Upstreams may report any number; what a span cannot say would lose all that are sent with it."""


class Said(NamedTuple):
    """One span, as it is told. Times are nanoseconds of the unix clock."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    state: bytes
    flags: int
    asks: bool
    """Whether it is that of who asks a model (CLIENT), and else of who serves (SERVER)."""

    began: int
    first_byte: int | None
    ended: int
    failure: str | None
    """What went wrong, for whoever reads; None where nothing did."""

    attributes: Attributes


def said_of(exchange: Exchange, span: Span, now: float) -> Said:
    """What its span says of an exchange that ends now, in seconds of `time.monotonic`."""
    operation = exchange.operation
    called = operation.gen_ai
    model = _model(exchange)
    first_byte = exchange.first_byte_at
    error_type = _error_type(exchange)
    attributes: Attributes = {
        "http.request.method": exchange.method[:32] or "_OTHER",
        "gateway.request_id": exchange.id,
        "gateway.operation": operation.id,
        "gateway.ending": str(exchange.ending or Ending.FAILED),
    }
    if operation.path:
        attributes["http.route"] = operation.path
    if exchange.status is not None:
        attributes["http.response.status_code"] = exchange.status
    tenant = exchange.caller.principal.tenant
    if tenant:
        attributes["gateway.tenant"] = tenant
    if exchange.upstream is not None:
        attributes["gateway.upstream"] = exchange.upstream
    if called is not None:
        attributes["gen_ai.operation.name"] = called
        attributes["gen_ai.provider.name"] = "openai"
        if operation.api_type is not None:
            attributes["openai.api.type"] = operation.api_type
    if model is not None:
        attributes["gen_ai.request.model"] = model
    if called is not None and span.server is not None:
        attributes["server.address"] = span.server.host.decode("ascii").strip("[]")
        attributes["server.port"] = int(span.server.port)
    streams = exchange.facts.fields is not None and exchange.facts.fields.stream
    if streams:
        attributes["gen_ai.request.stream"] = True
        if first_byte is not None and exchange.forwarded_at is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = max(0.0, first_byte - exchange.forwarded_at)
    if exchange.usage is not None and called != FETCHES:
        _add_usage(attributes, exchange.usage)
    if error_type is not None:
        attributes["error.type"] = error_type
    name = called or operation.id
    return Said(
        name if model is None else f"{name} {model}",
        span.context.trace_id,
        span.context.span_id,
        span.parent_id,
        span.state if len(span.state) <= _MOST_STATE_BYTES else b"",
        span.context.flags,
        called is not None,
        _unix(exchange, exchange.started_at),
        None if first_byte is None else _unix(exchange, first_byte),
        _unix(exchange, now),
        _failure(exchange, error_type),
        attributes,
    )


def _unix(exchange: Exchange, at: float) -> int:
    return int((exchange.started_time + (at - exchange.started_at)) * 1_000_000_000)


def _model(exchange: Exchange) -> str | None:
    """The model as the request names it, unless the tenant keeps it out of what is told of exchanges."""
    model = exchange.model
    if model is None or exchange.caller.tenant.settings.logging == "minimal":
        return None
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in model[:_MOST_CHARACTERS])


def _add_usage(attributes: Attributes, usage: Usage) -> None:
    for kind, name in _USAGE.items():
        amount = getattr(usage, kind)
        if amount:
            attributes[name] = min(int(amount), _LARGEST)
    if usage.tier:
        attributes["openai.response.service_tier"] = usage.tier[:64]
    if usage.estimated:
        attributes["gateway.usage.estimated"] = True


def _error_type(exchange: Exchange) -> str | None:
    """The code of the gateway's own error, else the status that went down, else how it ended."""
    if exchange.error is not None:
        return exchange.error.code
    if exchange.status is not None and exchange.status >= 400:
        return str(exchange.status)
    ending = exchange.ending or Ending.FAILED
    return None if ending is Ending.COMPLETE else str(ending)


def _failure(exchange: Exchange, error_type: str | None) -> str | None:
    """A client that is told of a fault of its own has been served well (conventions for HTTP servers)."""
    if error_type is None:
        return None
    if exchange.operation.gen_ai is None and exchange.status is not None and 400 <= exchange.status < 500:
        return None
    return error_type
