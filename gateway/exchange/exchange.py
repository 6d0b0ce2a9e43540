"""The record of one request and its answer.

One mutable `Exchange` per request; everything else that travels with it is frozen. Each field is written where
the comment above it says. Nothing in here performs I/O, or changes a byte that it is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from gateway.errors import Ending, GatewayError
from gateway.exchange.observers import (
    HELD,
    READABLE,
    AnswerChange,
    FormGate,
    ObjectRecorder,
    RequestGate,
    SessionGate,
    StreamObserver,
    Watch,
)
from gateway.exchange.span import Span
from gateway.exchange.standing import Standing
from gateway.limits.terms import Decision
from gateway.operations.table import NO_PARAMS, Operation
from gateway.policy.caller import NOBODY, Caller
from gateway.usage.cost import Cost
from gateway.usage.late_work import Shown
from gateway.usage.reported import Known, Usage
from gateway.wire.answer_head import Head
from gateway.wire.body_facts import NOTHING_READ, BodyFacts
from gateway.wire.headers import NO_HEAD, RequestHead
from gateway.wire.request_body import RequestBody
from gateway.wire.search import Piece
from gateway.wire.trace_context import TraceContext


class Times(NamedTuple):
    """How long an exchange took, in seconds."""

    whole: float
    """From the request's first byte to the last of the answer."""

    first_byte: float | None
    """From the request's first byte to that of the answer's body; None where there was none."""

    upstream: float | None
    """The upstream's part, connecting included; None where it was not asked."""

    overhead: float
    """What the gateway itself added before it asked the upstream, or in all where it did not."""


class Exchange:
    """What is known of one exchange so far. Sizes are body bytes.

    Times are seconds of `time.monotonic`: uvloop's own clock is cached and counts whole milliseconds.
    """

    __slots__ = (
        # record
        *("id", "method", "operation", "started_at", "started_time", "target", "params", "head"),
        *("own_values", "stated_bytes", "is_socket", "unreadable", "observer_failed", "client", "trace"),
        "span",
        # record for the head, limit for the body
        "held_seconds",
        # answer
        "error",
        # authenticate; the caller also where the standing is made, and its tenant refused
        *("caller", "standing"),
        # authorize finds it in the head, limit in the body, the reader of a form in the form, meter in a session
        "model",
        # limit
        *("body", "body_gone", "facts", "form", "cost", "reserved", "decision"),
        # meter
        *("usage", "known", "spent", "session_gate"),
        # ownership; of a session, meter
        "recorder",
        # late_watch
        *("made", "shown"),
        # proxy
        *("waited_seconds", "forwarded_at", "asked_at", "head_at", "upstream_request_id", "status"),
        *("upstream_ended_at", "last_piece_at", "detail", "added", "upstream", "upstream_status", "attempts"),
        # this class
        *("change", "first_byte_at", "bytes_in", "bytes_out", "ending", "observers", "watches"),
    )

    def __init__(
        self,
        id: str,  # noqa: A002 (as it is called everywhere)
        method: str,
        operation: Operation,
        started_at: float,
        started_time: float,
        observer_failed: Callable[[], None] | None = None,
        *,
        target: str = "",
        own_values: tuple[bytes, ...] = (),
        stated_bytes: int | None = None,
        client: str | None = None,
        held_seconds: float = 0.0,
        status: int | None = None,
        error: GatewayError | None = None,
    ) -> None:
        """It began when its first byte could have been read; `started_time` is that in unix seconds, for the log.
        `status` and `error` of one that was refused unseen.
        """
        self.id = id
        self.method = method
        self.operation = operation
        self.started_at = started_at
        self.started_time = started_time
        self.observer_failed = observer_failed
        self.target = target
        """The request target as it came over the wire, in which every byte stands for itself."""

        self.params: Mapping[str, str] = NO_PARAMS
        self.head: RequestHead = NO_HEAD
        """The request's header fields, once they have been read and found sound, but for the values of its own."""

        self.own_values = own_values
        """What this request has at the places that `head.own` says."""

        self.stated_bytes = stated_bytes
        """The length of the body where the head states one."""

        self.client = client
        """The client's address: that of its connection or, of one from a trusted proxy, what that says."""

        self.trace: TraceContext | None = None
        """The trace that the client says this is part of, where it says so; its own place in one, if traces are on."""

        self.is_socket = False
        """Whether the client asks for a WebSocket."""

        self.unreadable: GatewayError | None = None
        """What is wrong with the head; raised where an error becomes an answer."""

        self.span: Span | None = None
        """Its place in a trace; None where traces are off."""

        self.error = error
        self.caller: Caller = NOBODY
        self.standing: Standing | None = None
        """What is known of all exchanges of this caller and operation; None until the caller is."""

        self.model: str | None = None
        self.body: RequestBody | None = None
        """The request's body where policy had to read it whole; None where it streams, and once it has gone up. meter
        makes it ask for usage."""

        self.body_gone: Callable[[], None] | None = None
        """Gives back the memory that the body was given."""

        self.facts: BodyFacts = NOTHING_READ
        """What policy has read in that body."""

        self.held_seconds = held_seconds
        """Time spent waiting for the rest of the client's head, and for its body, before the upstream was asked: not
        the gateway's own."""

        self.form: FormGate | None = None
        """Judges a form that streams by, and holds its end back until it has."""

        self.cost: Cost | None = None
        """What the request says that it will use, where somebody counts that."""

        self.reserved: int | None = None
        """LLM tokens that were taken when it was admitted, of the limit of which most was; None where nobody limits
        them."""

        self.decision: Decision | None = None
        self.usage: Usage | None = None
        self.known: Known | None = None
        """What is known of its usage; None where nothing was used."""

        self.spent = False
        """The upstream took the work on: something was used, known or not."""

        self.session_gate: SessionGate | RequestGate | None = None
        """Admits what is asked for in a WebSocket, and holds it back until it has."""

        self.recorder: ObjectRecorder | None = None
        """Has what the answer says was made recorded while that is held; None where nobody records, or nobody waits."""

        self.made: str | None = None
        """The id of what it made, or worked on, whose usage is said later."""

        self.shown: tuple[Shown, ...] = ()
        """What its answer showed to have been used by what was made before: some of it, for the log."""

        self.waited_seconds = 0.0
        """Time spent waiting for a connection to the upstream to come free: the gateway's own, for it allows no
        more."""

        self.upstream: str | None = None
        """The name of the upstream that it goes to; None while nobody knows."""

        self.attempts = 0
        """How often the upstream was asked: once, but for what is asked again over another connection."""

        self.forwarded_at: float | None = None
        """When the upstream was asked: everything before is the gateway's own time, or the client's."""

        self.asked_at: float | None = None
        """When the upstream had been sent the whole request: from then on it may work."""

        self.head_at: float | None = None
        """When the upstream's head arrived."""

        self.upstream_status: int | None = None
        """What the upstream answered, whatever became of it."""

        self.upstream_request_id: str | None = None
        self.status = status
        """The status that went to the client; None while nothing was sent."""

        self.upstream_ended_at: float | None = None
        """When the upstream's part was over."""

        self.last_piece_at: float | None = None
        """When the last piece of an answer came that is a stream of events; None where it is none."""

        self.detail: str | None = None
        """Why a session ended as it did, for the log, where no error says so."""

        self.added = b""
        """What the gateway adds to the head of the upstream's answer, as lines, where that is known before it comes."""

        self.change: AnswerChange | None = None
        self.first_byte_at: float | None = None
        """When the first byte of the answer's body went to the client."""

        self.bytes_in = 0
        self.bytes_out = 0
        self.ending: Ending | None = None
        self.observers: list[StreamObserver] = []
        """Appended to by whoever wants to watch; shortened here."""

        self.watches: tuple[tuple[StreamObserver, Watch], ...] = ()
        """Whoever wants to see the answer's pieces, and what is shown them."""

    def times(self, now: float) -> Times:
        """How long it took until `now`, and what for."""
        began, first_byte_at, asked_at = self.started_at, self.first_byte_at, self.forwarded_at
        first_byte = None if first_byte_at is None else first_byte_at - began
        if asked_at is None:
            upstream, overhead = None, now - began - self.held_seconds
        else:
            answered_at = self.upstream_ended_at
            upstream = (now if answered_at is None else answered_at) - asked_at
            overhead = asked_at - began - self.held_seconds
        return tuple.__new__(  # as Times(…), without its frame
            Times, (now - began, first_byte, upstream, overhead if overhead > 0.0 else 0.0)
        )

    def end(self, ending: Ending) -> None:
        """Say how the exchange ends. The first word counts, but COMPLETE only as long as nothing goes wrong."""
        if self.ending is None or self.ending is Ending.COMPLETE:
            self.ending = ending

    def choose(self, change: AnswerChange | None) -> None:
        """Have the answer changed so; None: not by you. Two changes of one answer are a defect of the gateway."""
        if change is None or (change is READABLE and self.change is HELD):
            return
        if self.change is not None and self.change is not HELD:
            raise RuntimeError("an answer is changed in one way")
        self.change = change

    def body_sent(self) -> None:
        """The request's body has gone up, and nothing needs it any more: an answer may take long."""
        self.body = None
        if self.body_gone is not None:
            self.body_gone()

    def body_begins(self, now: float) -> None:
        """The first byte of the answer's body is about to go down, or its end where it has none."""
        if self.first_byte_at is None:
            self.first_byte_at = now

    def sent(self, count: int) -> None:
        """Count bytes of the answer's body that went down."""
        self.bytes_out += count

    def opened(self, head: Head) -> None:
        """Tell the observers that the answer has begun."""
        for observer in tuple(self.observers):
            try:
                watch = observer.opened(head)
                if watch is not None:
                    self.watches += ((observer, watch),)
            except Exception:  # noqa: BLE001 (whatever an observer does, the stream goes on)
                self._drop(observer)

    def request_piece(self, piece: Piece) -> None:
        """Count and show a piece of the request that went up."""
        self.bytes_in += len(piece)
        for observer in tuple(self.observers):
            try:
                observer.request_piece(piece)
            except Exception:  # noqa: BLE001 (as above)
                self._drop(observer)

    def answer_piece(self, piece: Piece, sent_bytes: int) -> None:
        """Show a piece of the answer as the upstream sent it, and count what of the body went down for it."""
        self.bytes_out += sent_bytes
        for observer, watch in self.watches:
            try:
                watch(bytes(piece))
            except Exception:  # noqa: BLE001 (as above)
                self._drop(observer)

    @property
    def awaits_report(self) -> bool:
        """Whether somebody wants the answer read on for a moment, whoever has left."""
        return any(observer.awaits_report for observer in self.observers)

    def answer_message(self, text: bytes) -> None:
        """Show a whole text message of the upstream's that came over a WebSocket."""
        for observer in tuple(self.observers):
            try:
                observer.answer_message(text)
            except Exception:  # noqa: BLE001 (as above)
                self._drop(observer)

    def release(self) -> None:
        """Let go of what is large, and of what holds this record: it is over and has been recorded.

        Connections, tasks and errors may know a record for a while; what it held is free at once, without the
        cycle collector.
        """
        self.observers.clear()
        self.watches = ()
        self.head = NO_HEAD
        self.body = self.form = self.session_gate = self.recorder = self.change = self.cost = None
        self.error = self.unreadable = self.observer_failed = self.body_gone = None

    def _drop(self, observer: StreamObserver) -> None:
        self.observers.remove(observer)
        self.watches = tuple(pair for pair in self.watches if pair[0] is not observer)
        if self.observer_failed is not None:
            self.observer_failed()
