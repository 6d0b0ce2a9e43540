"""What a request says of the trace that it is part of: `traceparent` and `tracestate` of W3C Trace Context. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

CONTEXT_FIELDS = frozenset({b"traceparent", b"tracestate"})
SAMPLED = 0x01
RANDOM = 0x02
"""Flags: whether the caller may have recorded it, and whether the trace's id was drawn by lot."""

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_NO_VERSION = b"ff"
_VERSION = b"00"
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16

_MOST_MEMBERS = 32
_MEMBER = re.compile(
    rb"(?:[a-z0-9][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    rb"=[ -+\--<>-~]{0,255}[!-+\--<>-~]"
)


class TraceContext(NamedTuple):
    """A trace, and the span in it that was under way where this was said."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def is_sampled(self) -> bool:
        """Whether its caller may have recorded it."""
        return self.flags & SAMPLED != 0

    @property
    def traceparent(self) -> bytes:
        """The value of the field that says so; flags that nobody knows are left out."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags & (SAMPLED | RANDOM):02x}".encode()


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


def trace_state(values: Sequence[bytes]) -> bytes:
    """What others along the way keep with a trace, by all values of `tracestate`, as one of them (its section 3.3).

    Empty where there is nothing, and where it cannot be read: then it counts for nothing as a whole.
    """
    members = [member for value in values for part in value.split(b",") if (member := part.strip(b" \t"))]
    if len(members) > _MOST_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return b""
    if len({member.partition(b"=")[0] for member in members}) < len(members):
        return b""
    return b",".join(members)
