"""A request as it was read from a client's connection, and what middlewares and handlers hand on of it."""

from __future__ import annotations

from gateway.errors import VersionRefused
from gateway.exchange.exchange import Exchange
from gateway.proxy.arrived import Body
from gateway.proxy.client import Client
from gateway.proxy.heads import HTTP10, HTTP11, SPOKEN, Message
from gateway.wire.headers import RawFields


class Request:
    """One request, and the exchange that has been opened for it."""

    __slots__ = (
        "answer_begun",
        "asks_upgrade",
        "body",
        "connection",
        "exchange",
        "fields",
        "http10",
        "keep_alive",
        "method",
        "target",
        "version",
    )

    exchange: Exchange
    """Written by the outermost middleware."""

    def __init__(self, connection: Client, message: Message, body: Body) -> None:
        self.connection = connection
        self.body = body
        self.method: str = message.method
        self.target: str = message.path
        """The raw request target; bytes that are not UTF-8 stand as surrogates."""

        self.fields: RawFields = message.raw_headers
        """The header fields as they came."""

        self.version = message.version
        self.http10: bool = message.version is HTTP10
        self.asks_upgrade: bool = message.upgrade
        """Connection and Upgrade ask for another protocol, whichever."""

        self.keep_alive: bool = not message.should_close
        """Whether the client may ask again on its connection."""

        self.answer_begun = False
        """Whether something of an answer has been sent; from then on there is no other."""

    def check_version(self) -> None:
        """Raise VersionRefused for what the parser lets through: HTTP/0.9 and HTTP/2.0 request lines."""
        if self.version is not HTTP11 and self.version is not HTTP10:
            raise VersionRefused(SPOKEN)
