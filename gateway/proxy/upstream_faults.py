"""What can go wrong with an upstream's answer: the table in which foreign exceptions become the gateway's errors."""

from __future__ import annotations

from typing import NamedTuple

from aiohttp.http_exceptions import HttpProcessingError

from gateway.errors import GatewayError, Internal, Overloaded, UpstreamBroken, UpstreamTimeout
from gateway.proxy.answer_heads import InterimAnswersOnly
from gateway.wire.framing import FramingBroken


class Fault(NamedTuple):
    """Why there is no more of an answer.

    An error is made of it for each who asks: one that was raised knows its frames, and must not be kept.
    """

    kind: type[GatewayError]
    message: str
    detail: str
    unanswered: bool = False
    """Whether the connection was lost before a byte of the answer had come."""

    def error(self) -> GatewayError:
        """The error to raise, or to tell a sink."""
        return self.kind(self.message, detail=self.detail)


def cause(error: BaseException) -> str:
    """What went wrong, for the log: never the bytes that aiohttp's texts go on to quote."""
    said = error.strerror if isinstance(error, OSError) else None
    if isinstance(error, HttpProcessingError):
        said = " ".join((error.message or "").split("\n\n", 1)[0].split())[:100]
    elif isinstance(error, FramingBroken):
        said = error.reason
    return type(error).__name__ + (f": {said}" if said else "")


_NOT_HTTP = "The upstream sent something that is not an HTTP answer."
_BROKE_OFF = "The upstream broke off its answer."
_TOO_LONG = "The upstream took too long to answer."

# First match wins: a time-out is an error of the system too.
_BORDER: tuple[tuple[type[BaseException], type[GatewayError], str], ...] = (
    (TimeoutError, UpstreamTimeout, _TOO_LONG),
    (
        InterimAnswersOnly,
        UpstreamBroken,
        "The upstream sent interim answers (1xx) without end, and no final one.",
    ),
    (HttpProcessingError, UpstreamBroken, _NOT_HTTP),
    (FramingBroken, UpstreamBroken, _BROKE_OFF),
    (OSError, UpstreamBroken, _BROKE_OFF),
    (MemoryError, Overloaded, "The gateway has no memory left for this answer. Try again in a moment."),
    (BaseException, Internal, "The gateway could not relay the upstream's answer."),
)

HUNG_UP = Fault(UpstreamBroken, _BROKE_OFF, "it hung up before its answer was whole")
NO_FIRST_BYTE = Fault(UpstreamTimeout, _TOO_LONG, "no answer began within the first-byte limit")
SILENT = Fault(UpstreamTimeout, _TOO_LONG, "nothing came within the idle limit")
TOO_LONG = Fault(UpstreamTimeout, _TOO_LONG, "the answer was not whole within the limit for all of it")
UNSPOKEN_CODING = Fault(
    UpstreamBroken,
    "The upstream's answer has a transfer coding that is not spoken here.",
    "a Transfer-Encoding that is not a single 'chunked'",
)


def fault_of(error: BaseException) -> Fault:
    """The gateway's words for somebody else's exception, with the cause for the log."""
    kind, message = next((ours, said) for theirs, ours, said in _BORDER if isinstance(error, theirs))
    return Fault(kind, message, cause(error))
