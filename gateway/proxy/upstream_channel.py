"""What comes over a connection to the upstream: heads, bodies, their end, and what is no part of any answer.

A head is read by `answer_heads.py`, a body by `wire/framing.py`. What comes of a body is kept, bounded, until somebody
asks for it or a sink has it; then it goes there in the turn of the loop in which it comes. Deadlines cost nothing
while pieces come: it is noted when the last one did.
"""

from __future__ import annotations

import asyncio
import math
import ssl
from abc import abstractmethod
from time import monotonic
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

from gateway.proxy.answer_heads import AnswerHeads, HeadAndRest, HeadInPieces
from gateway.proxy.bites import ANSWERS, AT_ONCE_BYTES, PASSED_BYTES, Turns
from gateway.proxy.channel import Channel, Held
from gateway.proxy.deadlines import ReplyDeadlines
from gateway.proxy.sink import Passes, Raw, RawSink
from gateway.proxy.tls import left_in
from gateway.proxy.upstream_faults import (
    HUNG_UP,
    NO_FIRST_BYTE,
    SILENT,
    TOO_LONG,
    UNSPOKEN_CODING,
    Fault,
    fault_of,
)
from gateway.proxy.wheel import Wheel
from gateway.wire.answer_head import Head
from gateway.wire.framing import Decoder, FramingBroken, decoder_for
from gateway.wire.search import Piece

KEPT_BYTES = 16 * 1024
"""How much of a body may lie here before nothing more is read, while nobody asks for it."""

_PIECE_BYTES = 128
"""What it costs to keep a piece, beside its bytes."""

_NO_BODY = frozenset({204, 304})
_EMPTY_LINES = (b"\r\n", b"\n")
"""Some servers send a line too many behind a body, which says nothing."""


# What the next bytes are. No members of a class: to name one takes as long as calling many a function.
AT_IDLE: Final = 0
"""Nothing that anybody has asked for."""

AT_HEAD: Final = 1
AT_BODY: Final = 2
AT_OTHER: Final = 3
"""Of another protocol."""

AT_END: Final = 4
"""Nothing that belongs to the answer."""


class UpstreamChannel(Channel):
    """One answer after another. Who makes a class of it says in `strayed` what becomes of an idle connection."""

    __slots__ = (
        "_asked_at",
        "_at_now",
        "_begun",
        "_decoder",
        "_fault",
        "_follows",
        "_head_due_at",
        "_heads",
        "_keeps",
        "_left",
        "_no_body",
        "_passes",
        "_pieces",
        "_pieces_bytes",
        "_raw",
        "_room_bytes",
        "_said_end",
        "_sink",
        "_total_at",
        "_waiter",
        "_wheel",
        "deadlines",
        "due_step",
        "head",
        "tls",
    )

    deadlines: ReplyDeadlines

    def __init__(
        self, loop: asyncio.AbstractEventLoop, turns: Turns, wheel: Wheel, heads: AnswerHeads
    ) -> None:
        super().__init__(loop, turns, ANSWERS)
        self.due_step: int | None = None
        self.head: Head | None = None
        """The final head, once it has come."""

        self._wheel = wheel
        self._heads = heads
        self._begun: HeadInPieces | None = None
        """A head that did not come in one piece."""

        self._at_now = AT_IDLE
        self._decoder: Decoder | None = None
        """There is one as long as a body comes."""

        self._sink: RawSink | None = None
        self._follows = False
        """Whether that takes bytes as they come."""

        self._passes: Passes | None = None
        """What passes the usual piece as it came; None where something has to be read first."""

        self._raw: Raw | None = None
        self._pieces: list[tuple[bytes, bytes | None]] = []
        """What came of the body, in chunks too where they may pass, and has gone nowhere yet."""

        self._pieces_bytes = 0
        self._room_bytes = KEPT_BYTES
        self._fault: Fault | None = None
        self._keeps = True
        """Whether the connection may serve another exchange, as far as the upstream has a say in it."""

        self._no_body = False
        self._waiter: asyncio.Future[None] | None = None
        self._head_due_at = self._total_at = math.inf
        self._asked_at = math.inf
        """When the wheel asks next."""

        self.tls: ssl.SSLObject | None = None
        """None where the connection is not by TLS."""

        self._left = b""
        self._said_end = True
        """Whether the end of the connection was the upstream's: by TLS nobody on the way can say it in its place."""

    @property
    def passes_on(self) -> bool:
        return self._sink is not None

    @abstractmethod
    def strayed(self) -> None:
        """Something has come over a connection that nobody uses, or its end."""

    def data_received(self, data: bytes) -> None:
        passes = self._passes
        if passes is not None and not self._held and not self._surplus and len(data) <= AT_ONCE_BYTES:
            passed = passes(data)
            self.turns.room_bytes -= PASSED_BYTES
            if passed == len(data):
                self.taken_at = monotonic()
                return
            self._passes = None
            data = data[passed:]
        super().data_received(data)

    def take(self, data: Piece) -> None:
        """A bite of what the upstream sends."""
        passes, self._passes = self._passes, None
        if passes is not None and isinstance(data, bytes):
            passed = passes(data)
            if passed == len(data):
                self._passes = passes
                return
            data = data[passed:]
        decoder = self._decoder
        if decoder is None:
            if self._at_now == AT_HEAD:
                self._take_head(bytes(data))
            else:
                self._take_beside(bytes(data))
            return
        try:
            if self._follows:
                data = self._take_raw(data, decoder)
                if not data:
                    return
            body = decoder.feed(data)
        except FramingBroken as broken:
            if broken.passed:
                self._pass(broken.passed, None)
            self._fail(fault_of(broken))
            return
        if decoder.ended:
            if decoder.rest and decoder.rest not in _EMPTY_LINES:
                self._keeps = False
            self._over(body, decoder.chunks)
        elif body:
            sink = self._sink
            if sink is None:
                self._pass(body, decoder.chunks)
            else:
                sink.piece(body, decoder.chunks)
                if decoder.between_chunks and self._decoder is decoder:
                    self._passes = sink.usual()

    def _take_raw(self, data: Piece, decoder: Decoder) -> Piece:
        """Pass what may pass as it came; returns the rest. Raises FramingBroken."""
        sink = self._sink
        assert sink is not None
        amid_bytes = decoder.amid_bytes
        if 0 < amid_bytes < len(data):
            body = decoder.feed(data[:amid_bytes])
            if body:
                sink.piece(body, None)
            data = data[amid_bytes:]
        before_bytes = decoder.body_bytes
        at = decoder.follow(data)
        if not at:
            return data
        sink.raw(data if at == len(data) else data[:at], decoder.body_bytes - before_bytes)
        return data[at:]

    def _take_beside(self, data: bytes) -> None:
        """Take what is no part of a head, nor of a body."""
        at = self._at_now
        if at == AT_OTHER:
            if self._raw is None:
                self._pass(data, None)
            else:
                self._raw.feed_data(data)
        elif data in _EMPTY_LINES:
            pass
        elif at == AT_IDLE:
            self._at_now = AT_END
            self.strayed()
            self.abort()
        else:
            self._keeps = False
            self.hold(Held.BY_READER)

    def _take_head(self, data: bytes) -> None:
        try:
            found = (self._heads.whole(data) if self._begun is None else None) or self._in_pieces(data)
        except HttpProcessingError as error:
            self._fail(fault_of(error))
            return
        if found is None:
            return
        head, rest = found
        status, length = head.status, head.length
        chunked = b"transfer-encoding" in head.names.first
        if chunked and not _is_chunked_alone(head):
            self._fail(UNSPOKEN_CODING)
            return
        self.head = head
        self._keeps = head.keeps
        if status == 101:
            self._at_now = AT_OTHER
        elif self._no_body or status in _NO_BODY:
            self._at_now = AT_END
        elif length == len(rest):
            self._at_now = AT_END
            if rest:  # all that there is
                self._pieces = [(rest, None)]
                self._pieces_bytes = length
                rest = b""
        else:
            self._at_now = AT_BODY
            self._decoder = decoder_for(length, chunked, padded_sizes=True)
            self._be_asked(self.taken_at + self.deadlines.idle_seconds)
        if rest:
            self.take(rest)
        self._wake()

    def _in_pieces(self, data: bytes) -> HeadAndRest | None:
        begun = self._begun
        if begun is None:
            begun = self._begun = HeadInPieces()
        found = begun.feed(data)
        if found is not None:
            self._begun = None
        return found

    def _pass(self, body: Piece, chunks: Piece | None) -> None:
        sink = self._sink
        if sink is not None:
            sink.piece(body, chunks)
            return
        self._pieces.append((bytes(body), None if chunks is None else bytes(chunks)))
        self._pieces_bytes += len(body)
        if self._pieces_bytes + _PIECE_BYTES * len(self._pieces) > self._room_bytes:
            self.hold(Held.BY_READER)
        self._wake()

    def _fail(self, fault: Fault) -> None:
        """There is no more of the answer."""
        self._fault = fault
        self._keeps = False
        self._over()

    def _over(self, body: Piece = b"", chunks: Piece | None = None) -> None:
        """The answer has ended with these bytes, well unless there is a fault."""
        self._at_now = AT_END
        self._decoder = None
        sink, self._sink = self._sink, None
        self._follows = False
        self._passes = None
        if sink is None:
            if body:
                self._pass(body, chunks)
            self._wake()
        elif self._fault is None:
            sink.end(body, chunks)
        else:
            sink.fail(self._fault.error())

    def _more(self) -> asyncio.Future[None]:
        """Is done when something has come, or nothing more comes."""
        waiter = self._waiter = self._loop.create_future()
        return waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def go_on(self, why: int) -> None:
        if self._held:
            super().go_on(why)
            self.taken_at = monotonic()  # its silence was our doing

    # The connection itself

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.tls = transport.get_extra_info("ssl_object")

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.tls is not None and self._at_now not in (AT_IDLE, AT_END):
            self._left, self._said_end = left_in(self.tls)
        super().connection_lost(exc)

    def lost(self, error: BaseException | None) -> None:
        self._wheel.forget(self)
        if self._at_now == AT_IDLE:
            self._at_now = AT_END
            self.strayed()
            return
        left, self._left = self._left, b""
        try:
            self.take_rest(left)  # what came before the end is the client's, however little of it was wanted
            if self._decoder is not None and error is None and self._said_end:
                self._decoder.feed_eof()
                self._over()
        except Exception as broken:  # noqa: BLE001 (whatever it is, somebody waits for the end)
            error = broken
        self._keeps = False
        if self._at_now == AT_END:
            return
        if self._raw is not None:
            self._at_now = AT_END
            self._raw.feed_eof()
        else:
            fault = HUNG_UP if error is None else fault_of(error)
            self._fail(fault._replace(unanswered=self._at_now == AT_HEAD and self._begun is None))

    # Deadlines

    def due(self, now: float) -> float | None:
        """End what takes too long."""
        self._asked_at = math.inf
        if self._at_now == AT_HEAD:
            ends_at, fault = self._head_due_at, NO_FIRST_BYTE
        elif self._at_now == AT_BODY:
            ends_at, fault = self.taken_at + self.deadlines.idle_seconds, SILENT
        else:
            return None
        if self._held or self._surplus:
            ends_at = now + self.deadlines.idle_seconds  # it is we who do not take what has come
        if self._total_at < ends_at:
            ends_at, fault = self._total_at, TOO_LONG
        if ends_at <= now:
            self._fail(fault)
            return None
        self._asked_at = ends_at
        return ends_at

    def look_again(self) -> None:
        """Have the sink look at the next piece, however usual it is."""
        self._passes = None

    def _be_asked(self, at: float) -> None:
        if at < self._asked_at:
            self._asked_at = at
            self._wheel.ask(self, at)


def _is_chunked_alone(head: Head) -> bool:
    coding = head.get(b"transfer-encoding") or b""
    return coding.strip().lower() == b"chunked" and head.names.lower.count(b"transfer-encoding") == 1
