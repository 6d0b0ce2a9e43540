"""The record of one request and its answer, and who may watch it go by.

One mutable `Exchange` per request; everything else that travels with it is frozen. Nothing in here
performs I/O, and nothing in here may change a byte that it is shown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from gateway.errors import Ending

if TYPE_CHECKING:
    from gateway.credentials.principal import Principal
    from gateway.errors import GatewayError
    from gateway.limits.terms import Decision
    from gateway.operations.table import Operation
    from gateway.policy.tenants import TenantPolicy, UpstreamAccess
    from gateway.usage.cost import Cost
    from gateway.usage.reported import Usage
    from gateway.wire.headers import Head, RequestHead
    from gateway.wire.request_fields import RequestFields


class StreamObserver(Protocol):
    """Watches a stream without touching it: told after the bytes were forwarded, returns nothing.

    An observer that raises is dropped for the rest of its exchange and counted; the stream never notices.
    """

    def opened(self, head: Head) -> None:
        """The answer's head has been received."""

    def request_piece(self, piece: bytes) -> None:
        """Bytes of the request body (or of the client's WebSocket frames) went up."""

    def answer_piece(self, piece: bytes) -> None:
        """Bytes of the answer body (or of the upstream's WebSocket frames) went down."""


class FormGate(Protocol):
    """Stands between a streaming form and the upstream. Both methods raise a GatewayError to refuse."""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return what may go up now."""

    def finish(self) -> bytes:
        """The form has ended: return what was held back."""


class AnswerFilter(Protocol):
    """Stands between an upstream's stream of events and the client: rewrite (a)."""

    def feed(self, piece: bytes) -> bytes:
        """Take a piece; return what goes to the client now."""

    def finish(self) -> bytes:
        """The stream has ended: return what was held back."""


@dataclass(slots=True)
class Exchange:
    """What is known of one exchange so far. Sizes are body bytes.

    Times are seconds of `time.monotonic`: uvloop's own clock is cached and counts whole milliseconds.
    """

    id: str
    method: str
    operation: Operation
    started_at: float
    started_time: float
    """Unix seconds, for the log."""

    target: str = ""
    """The raw request target, once it has been read; bytes that are not UTF-8 stand as surrogates."""

    params: Mapping[str, str] = field(default_factory=dict)
    head: RequestHead | None = None
    """The request's header fields, once they have been read and found sound."""

    body: bytes | None = None
    """The request's body where policy had to read it whole; None where it streams."""

    fields: RequestFields | None = None
    """What policy has read in that body."""

    principal: Principal | None = None
    access: UpstreamAccess | None = None
    """Where it went, and as whom; None while the upstream was not asked."""

    upstream_secret: str | None = None
    """What opens the upstream for this exchange instead of the gateway's own key."""

    rewrite_answer: Callable[[bytes], bytes] | None = None
    """Changes the whole body of a successful answer; one of the closed list in README."""

    answer_filter: AnswerFilter | None = None
    """Changes a successful answer that is a stream of events; None once the head says that it is none."""

    plain_answer: bool = False
    """Ask for an answer without content encoding, because it has to be read."""

    tenant: TenantPolicy | None = None
    cost: Cost | None = None
    """What the request says that it will use, where somebody counts that."""

    decision: Decision | None = None
    model: str | None = None
    upstream_request_id: str | None = None
    status: int | None = None
    """The status that went to the client; None while nothing was sent."""

    head_at: float | None = None
    """When the upstream's head arrived."""

    first_byte_at: float | None = None
    """When the first byte of the answer's body went to the client."""

    forwarded_at: float | None = None
    """When the upstream was asked: everything before is the gateway's own time, or the client's."""

    upstream_ended_at: float | None = None
    """When the upstream's part was over."""

    held_seconds: float = 0.0
    """Time spent waiting for the client's body before the upstream was asked: not the gateway's own."""

    bytes_in: int = 0
    bytes_out: int = 0
    form_gate: FormGate | None = None
    """Judges a form that streams by, and holds its end back until it has."""

    before_form_end: Callable[[], Awaitable[None]] | None = None
    """To be awaited when the form gate has seen everything but its end; raises to refuse."""

    usage: Usage | None = None
    usage_heard: list[Callable[[Usage], None]] = field(default_factory=list)
    """Who is told what a session has used, response by response."""

    spent: bool = False
    """The upstream took the work on: something was used, known or not."""

    ending: Ending | None = None
    error: GatewayError | None = None
    detail: str | None = None
    """Why it ended as it did, for the log, where no error says so."""

    observers: list[StreamObserver] = field(default_factory=list)
    observer_failed: Callable[[], None] | None = None

    @property
    def head_upgrades(self) -> bool:
        """Whether the client asks for a WebSocket."""
        return self.head is not None and self.head.upgrade == b"websocket"

    def overhead_seconds(self, now: float) -> float:
        """What the gateway itself added before the upstream was asked, or in all when it was not."""
        until = now if self.forwarded_at is None else self.forwarded_at
        return max(0.0, until - self.started_at - self.held_seconds)

    def upstream_seconds(self, now: float) -> float | None:
        """How long the upstream took, connecting included; None when it was not asked."""
        if self.forwarded_at is None:
            return None
        return (now if self.upstream_ended_at is None else self.upstream_ended_at) - self.forwarded_at

    def heard_usage(self, usage: Usage) -> None:
        """Add what one response of a session has used."""
        self.usage = usage if self.usage is None else self.usage + usage
        for tell in self.usage_heard:
            tell(usage)

    def opened(self, head: Head) -> None:
        """Tell the observers that the answer has begun."""
        for observer in tuple(self.observers):
            try:
                observer.opened(head)
            except Exception:  # noqa: BLE001 (whatever an observer does, the stream goes on)
                self._drop(observer)

    def request_piece(self, piece: bytes) -> None:
        """Count and show a piece of the request that went up."""
        self.bytes_in += len(piece)
        for observer in tuple(self.observers):
            try:
                observer.request_piece(piece)
            except Exception:  # noqa: BLE001
                self._drop(observer)

    def answer_piece(self, piece: bytes) -> None:
        """Count and show a piece of the answer that went down."""
        self.bytes_out += len(piece)
        for observer in tuple(self.observers):
            try:
                observer.answer_piece(piece)
            except Exception:  # noqa: BLE001
                self._drop(observer)

    def _drop(self, observer: StreamObserver) -> None:
        self.observers.remove(observer)
        if self.observer_failed is not None:
            self.observer_failed()
