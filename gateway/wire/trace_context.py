"""What a request says of the trace that it is part of: the `traceparent` of W3C Trace Context. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_NO_VERSION = b"ff"
_VERSION = b"00"
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16


class TraceContext(NamedTuple):
    """A trace, and the span in it that was under way where this was said."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def is_sampled(self) -> bool:
        """Whether its caller may have recorded it."""
        return self.flags & 1 != 0


def trace_context(traceparent: bytes) -> TraceContext | None:
    """What the value of a `traceparent` field says; None: nothing that can be followed (its section 3.2)."""
    found = _TRACEPARENT.fullmatch(traceparent.strip(b" \t"))
    if found is None:
        return None
    version, trace, span, flags, rest = found.groups()
    if version == _NO_VERSION or trace == _NO_TRACE or span == _NO_SPAN:
        return None
    if rest is not None and version == _VERSION:
        return None  # only later versions may say more
    return TraceContext(trace.decode(), span.decode(), int(flags, 16))
