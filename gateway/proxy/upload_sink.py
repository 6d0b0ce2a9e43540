"""What of a request goes up: in the turn of the loop in which it comes from the client, without a task."""

from __future__ import annotations

from gateway.errors import ClientLeft, GatewayError, UpstreamBroken, UpstreamTimeout
from gateway.exchange.exchange import Exchange
from gateway.proxy.channel import Channel
from gateway.proxy.reply import Reply
from gateway.proxy.sink import Awaited
from gateway.wire.search import Piece

_LOOK_SECONDS = 1.0
"""How often it is looked whether the upstream reads, and, where it does not, whether the client is still there."""


class UploadSink(Awaited):
    """Gets a request's body and sends it to the upstream, past the form's gate if there is one.

    An upstream that stops reading stops the client. One that hangs up may have answered before: whoever reads the
    head finds out, and a form that is judged is judged to its end.
    """

    __slots__ = (
        "_chunked",
        "_client",
        "_exchange",
        "_idle_seconds",
        "_reply",
        "_unread_bytes",
        "_unread_since",
        "due_step",
        "listens",
    )

    def __init__(self, exchange: Exchange, client: Channel, reply: Reply, *, idle_seconds: float) -> None:
        """`idle_seconds`: how long the upstream may read nothing of what lies there for it."""
        super().__init__()
        self._exchange = exchange
        self._client = client
        self._reply = reply
        self._chunked = exchange.head.chunked
        self._idle_seconds = idle_seconds
        self._unread_bytes = 0
        self._unread_since = 0.0
        self.due_step: int | None = None
        self.listens = True
        """Whether the upstream still takes what goes up."""

    def follow(self) -> None:
        """Have the client send no faster than the upstream reads."""
        self._reply.fed_by(self._client)

    def piece(self, body: Piece, chunks: Piece | None) -> None:
        if self._over:
            return
        exchange = self._exchange
        form = exchange.form
        if form is None:
            if chunks is not None:
                self.write(chunks)
            else:
                self.send(body)
            exchange.request_piece(body)
            if not self.listens:
                self._settle()
            return
        try:
            going = form.feed(body)
        except GatewayError as refused:
            self.fail(refused)
            return
        if going:
            self.send(*going)
        exchange.request_piece(body)

    def send(self, *pieces: Piece) -> None:
        """Send bytes of the body as its framing has it."""
        if self._chunked:
            pieces = (b"%x\r\n" % sum(map(len, pieces)), *pieces, b"\r\n")
        self.write(*pieces)

    def write(self, *data: Piece) -> None:
        """Send what is framed already, at once."""
        if self.listens:
            try:
                self._reply.write(*data)
            except UpstreamBroken:
                self.listens = False

    def end(self) -> None:
        self._settle()

    def let_go(self) -> None:
        """Nothing more goes up: what the client sends is its connection's business again."""
        self._over = True
        self._reply.fed_by(None)

    def due(self, now: float) -> float | None:
        """Give up on an upstream that reads nothing, and on a client that has left meanwhile."""
        if self._over or self._reply.transport is None:
            return None
        unread_bytes = self._reply.transport.get_write_buffer_size()
        if not self._reply.writing_paused or unread_bytes != self._unread_bytes:
            self._unread_bytes, self._unread_since = unread_bytes, now
        elif now - self._unread_since >= self._idle_seconds:
            self.fail(UpstreamTimeout("The upstream stopped reading the request body."))
            return None
        if self._client.held and self._client.was_reset():
            # While nothing is read from it the loop does not hear of its leaving.
            self.fail(ClientLeft("The client left."))
            return None
        return now + min(_LOOK_SECONDS, self._idle_seconds / 4)
