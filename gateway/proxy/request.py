"""A request as it was read from a client's connection, and what middlewares and handlers hand on of it."""

from __future__ import annotations

from gateway.errors import VersionRefused
from gateway.exchange.exchange import Exchange
from gateway.proxy.client_channel import ClientChannel
from gateway.proxy.received_body import Body
from gateway.proxy.request_heads import HTTP10, HTTP11, SPOKEN, AskedHead
from gateway.wire.headers import RawFields


class Request:
    """One request, and the exchange that has been opened for it."""

    __slots__ = (
        "answer_begun",
        "body",
        "connection",
        "exchange",
        "head_seconds",
        "http10",
        "keep_alive",
        "known",
        "method",
        "own_values",
        "readable_at",
        "stated_bytes",
        "target",
    )

    exchange: Exchange
    """Written by the outermost middleware."""

    def __init__(
        self, connection: ClientChannel, asked: AskedHead, body: Body, readable_at: float, head_seconds: float
    ) -> None:
        """`readable_at`: since when its first byte could have been read, of `time.monotonic`; `head_seconds`: how long
        its client then took for the rest of the head.
        """
        self.connection = connection
        self.body = body
        self.readable_at = readable_at
        self.head_seconds = head_seconds
        known, self.own_values, self.stated_bytes = asked
        self.known = known
        """What its head says, but for its own values."""

        self.method = known.method
        self.target = known.target
        self.http10 = known.version is HTTP10
        self.keep_alive = known.keep_alive
        self.answer_begun = False
        """Whether something of an answer has been sent; from then on there is no other."""

    @property
    def fields(self) -> RawFields:
        """The header fields as they came."""
        return self.known.fields(self.own_values)

    def check_version(self) -> None:
        """Raise VersionRefused for what the parser lets through: HTTP/0.9 and HTTP/2.0 request lines."""
        if self.known.version not in (HTTP11, HTTP10):
            raise VersionRefused(SPOKEN)
