"""Where an exchange stands in a trace, while it runs."""

from __future__ import annotations

from gateway.wire.leading import Origin
from gateway.wire.trace_context import TraceContext


class Span:
    """One exchange's place in a trace: what was said of it when it came, and what is said where it is asked on."""

    __slots__ = ("context", "lines", "parent_id", "server", "state")

    def __init__(self, context: TraceContext, *, parent_id: str | None, state: bytes) -> None:
        """`parent_id`: whose child it is; None: it begins the trace. `state` is what others keep with the trace."""
        self.context = context
        self.parent_id = parent_id
        self.state = state
        kept = b"\r\ntracestate: " + state if state else b""
        self.lines = context.traceparent + kept
        """The value of `traceparent` as it goes up, and the field behind it where there is more to say."""

        self.server: Origin | None = None
        """The upstream that was asked; written by who asks."""
