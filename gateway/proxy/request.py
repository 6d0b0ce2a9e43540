"""A request as it was read from a client's connection, and what middlewares and handlers hand on of it."""

from __future__ import annotations

from aiohttp import web
from aiohttp.http_writer import HttpVersion10, HttpVersion11

from gateway.errors import VersionRefused
from gateway.exchange.exchange import Exchange
from gateway.proxy.bites import Bites, InBites
from gateway.wire.headers import RawFields

SPOKEN = "Only HTTP/1.1 and HTTP/1.0 are spoken here."


class Request(web.BaseRequest):
    """One request, and the exchange that has been opened for it."""

    exchange: Exchange
    """Written by the outermost middleware."""

    @property
    def target(self) -> str:
        """The raw request target; bytes that are not UTF-8 stand as surrogates."""
        return self._message.path

    @property
    def fields(self) -> RawFields:
        """The header fields as they came."""
        return self._message.raw_headers

    @property
    def http10(self) -> bool:
        """Whether it was asked in HTTP/1.0."""
        return self._message.version == HttpVersion10

    @property
    def asks_upgrade(self) -> bool:
        """Whether Connection and Upgrade ask for another protocol, whichever."""
        return bool(self._message.upgrade)

    def check_version(self) -> None:
        """Raise VersionRefused for what the parser lets through: HTTP/0.9 and HTTP/2.0 request lines."""
        if self._message.version not in (HttpVersion10, HttpVersion11):
            raise VersionRefused(SPOKEN)


def take_as(request: Request, bites: Bites) -> None:
    """Have what comes of a body from now on taken in such bites."""
    protocol = request.protocol
    if isinstance(protocol, InBites):
        protocol.take_as(bites)


def waits_its_turn(request: Request) -> bool:
    """Whether the client has sent something that has not been taken from its connection yet."""
    protocol = request.protocol
    return isinstance(protocol, InBites) and protocol.surplus


def body_arrived(request: Request) -> bool:
    """Whether a piece of the body, or its end, can be had without waiting."""
    content = request.content
    return content.is_eof() or content._size > 0
