"""Which exchanges are recorded, and where they stand in their trace."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from time import monotonic

from gateway.exchange.exchange import Exchange
from gateway.exchange.span import Span
from gateway.policy.caller import NOBODY
from gateway.traces.said import Said, said_of
from gateway.wire.headers import RawFields
from gateway.wire.trace_context import CONTEXT_FIELDS, SAMPLED, TraceContext, trace_context, trace_state

_HALF = 1 << 64
_ID_DIGITS = 8
"""The last ones of a request's id, by which chance decides."""


class Tracing:
    """Gives each exchange its place in a trace, and tells of those that are recorded.

    Whoever asks has decided whether its trace is recorded; of those that begin here a `ratio` is, by the second half of
    their id, as OpenTelemetry's own sampler does. Whose credential does not count has decided nothing: of what they
    want recorded the same ratio is, by chance.
    """

    def __init__(self, *, ratio: float, write: Callable[[Said], None]) -> None:
        self._write = write
        self._below = round(ratio * _HALF)
        self._end_of_sample: int = round(ratio * 16**_ID_DIGITS)

    def begin(self, fields: RawFields) -> Span:
        """The place of an exchange whose request has these fields."""
        named = [(lower, value) for name, value in fields if (lower := name.lower()) in CONTEXT_FIELDS]
        parents = [value for lower, value in named if lower == b"traceparent"]
        parent = trace_context(parents[0]) if len(parents) == 1 else None
        if parent is None:
            trace_id = secrets.token_hex(16)
            flags = SAMPLED if int(trace_id[16:], 16) < self._below else 0
            return Span(TraceContext(trace_id, secrets.token_hex(8), flags), parent_id=None, state=b"")
        state = trace_state([value for lower, value in named if lower == b"tracestate"])
        if not parent.is_sampled:  # a place that nobody records would be missing between its neighbours
            return Span(parent, parent_id=None, state=state)
        return Span(parent._replace(span_id=secrets.token_hex(8)), parent_id=parent.span_id, state=state)

    def ended(self, exchange: Exchange) -> None:
        """Tell of an exchange that is over, if it is recorded."""
        span = exchange.span
        if span is None or not span.context.is_sampled:
            return
        if span.parent_id is not None and exchange.caller is NOBODY and not self._is_of_sample(exchange):
            return
        self._write(said_of(exchange, span, monotonic()))

    def _is_of_sample(self, exchange: Exchange) -> bool:
        """Whether chance has it recorded; not by the trace's id, which is the caller's."""
        return int(exchange.id[-_ID_DIGITS:], 16) < self._end_of_sample
