"""What of an answer goes down: in the turn of the loop in which it comes up from the upstream, without a task."""

from __future__ import annotations

import asyncio
from time import monotonic

from gateway.errors import GatewayError, UpstreamBroken
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import EventFilter
from gateway.proxy.answer import Answer
from gateway.proxy.channel import Channel
from gateway.proxy.piece_gaps import Pace
from gateway.proxy.sink import Awaited, Passes
from gateway.usage.likeness import Takes
from gateway.wire.search import Piece
from gateway.wire.whole_chunks import WHOLE, begin_of_whole, chunk_at

_BLANK_LINES = (b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n")
_LINE_ENDS = b"\r\n"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class AnswerSink(Awaited):
    """Gets the body of an upstream's answer, sends it to the client, and shows it to whoever watches."""

    __slots__ = (
        "_answer",
        "_client",
        "_comments",
        "_exchange",
        "_filtering",
        "_pace",
        "_tail",
        "_takes",
        "_unframed_events",
        "takes_raw",
    )

    def __init__(
        self,
        answer: Answer,
        client: Channel,
        exchange: Exchange,
        filtering: EventFilter | None,
        *,
        unframed_events: bool,
        tells_events: bool = False,
        pace: Pace | None = None,
    ) -> None:
        """`filtering` stands between; `unframed_events`: nothing but the connection's end tells that of the events;
        `tells_events`: whether it is `between_events` will be asked; `pace` is told when pieces come.
        """
        super().__init__()
        self._answer = answer
        self._exchange = exchange
        self._filtering = filtering
        self._unframed_events = unframed_events
        self._tail = b"" if unframed_events or tells_events else None
        """The last bytes that have come, where they say something."""

        self._comments = False
        """Whether comments went down in front of the stream."""

        self._client = client
        self._pace = pace
        self._takes: Takes | None = None
        """What takes the usual piece, where there is one."""

        self.takes_raw = (
            answer.is_chunked and filtering is None and self._tail is None and not exchange.watches
        )

    @property
    def between_events(self) -> bool:
        """Whether an event ended with what came last, which has gone down, or nothing has come yet."""
        tail = self._tail
        return not self._over and tail is not None and (not tail or tail.endswith(_BLANK_LINES))

    def comment(self, line: bytes) -> None:
        """Send a line that is none of the upstream's."""
        exchange = self._exchange
        self._comments = exchange.first_byte_at is None
        self._answer.push(line)
        exchange.sent(len(line))

    def _begin(self, going: Piece) -> Piece:
        """What the first piece becomes: behind a comment a byte order mark would be taken for the name of a field."""
        self._exchange.body_begins(monotonic())
        return going[3:] if self._comments and going[:3] == _BYTE_ORDER_MARK else going

    def piece(self, body: Piece, chunks: Piece | None) -> None:
        if self._over:
            return
        if self._pace is not None:
            self._pace.came()
        going = body
        if self._filtering is not None:
            body = bytes(body)
            try:
                going = self._filtering.feed(body)
            except GatewayError as refused:
                self.fail(refused)
                return
            if going is not body:
                chunks = None
        if self._tail is not None:
            # The usual piece ends an event, as what came before it did, and is not looked at.
            self._tail = (self._tail + body[-4:])[-4:]
        exchange = self._exchange
        if going:
            if exchange.first_byte_at is None and (begun := self._begin(going)) is not going:
                going = begun
                if going:
                    self._answer.push(going)
            else:
                self._answer.push(going, chunks)
        exchange.answer_piece(body, len(going))

    def usual(self) -> Passes | None:
        if self._over or not self._answer.is_chunked:
            return None
        watches = self._exchange.watches
        if self._filtering is not None:
            self._takes = None if watches else self._filtering.usual()
        else:
            self._takes = watches[0][0].usual() if len(watches) == 1 else None
        if self._takes is None:
            return None
        return self._pass_usual if self._pace is None or not self._pace.weight else self._pass_watched

    def _pass_watched(self, data: bytes) -> int:
        """As `_pass_usual`, where it is looked at when each piece comes."""
        passed = self._pass_usual(data)
        if passed == len(data) and self._pace is not None:
            self._pace.came()  # else the rest of it says so
        return passed

    def _pass_usual(self, data: bytes) -> int:
        client, takes = self._client.transport, self._takes
        if client is None or takes is None:
            return 0
        size = len(data)
        begin = WHOLE.get(size) or begin_of_whole(size)
        if not takes(data, begin):
            return self._pass_several(data, client, takes)
        client.write(data)
        self._exchange.bytes_out += size - len(begin) - 2
        return size

    def _pass_several(self, data: bytes, client: asyncio.Transport, takes: Takes) -> int:
        """As `_pass_usual`, for a piece that is not just one usual chunk."""
        passed = body_bytes = 0
        while (body := chunk_at(data, passed)) and takes(body):
            size = len(body)
            passed += len(b"%x\r\n\r\n" % size) + size
            body_bytes += size
        if passed:
            client.write(data[:passed])
            self._exchange.bytes_out += body_bytes
        return passed

    def raw(self, data: Piece, body_bytes: int) -> None:
        if self._over:
            return
        if self._pace is not None:
            self._pace.came()
        exchange = self._exchange
        if exchange.first_byte_at is None:
            exchange.body_begins(monotonic())
        self._answer.send(data)
        exchange.sent(body_bytes)

    def end(self, body: Piece = b"", chunks: Piece | None = None) -> None:
        if self._over:
            return
        if self._unframed_events and (tail := (self._tail or b"") + body[-4:]) and tail[-1] not in _LINE_ENDS:
            self.fail(UpstreamBroken("The upstream broke off in the middle of an event."))
            return
        if body and self._pace is not None:
            self._pace.came()
        exchange, filtering, going = self._exchange, self._filtering, body
        if filtering is not None:
            body = bytes(body)
            try:
                going = filtering.feed(body) if body else body
                rest = filtering.end()
            except GatewayError as refused:
                self.fail(refused)
                return
            if rest or going is not body:
                going, chunks = bytes(going) + rest, None
        if going and exchange.first_byte_at is None and (begun := self._begin(going)) is not going:
            going, chunks = begun, None
        self._answer.finish(going, chunks)
        exchange.answer_piece(body, len(going)) if body else exchange.sent(len(going))
        self._settle()
