"""A request as it was read from a client's connection, and what middlewares and handlers hand on of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiohttp import web
from aiohttp.http_writer import HttpVersion10, HttpVersion11

from gateway.errors import VersionRefused
from gateway.exchange.exchange import Exchange
from gateway.proxy.bites import Bites, InBites
from gateway.wire.headers import RawFields

SPOKEN = "Only HTTP/1.1 and HTTP/1.0 are spoken here."

EXCHANGE: web.RequestKey[Exchange] = web.RequestKey("exchange", Exchange)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Middleware = Callable[[web.BaseRequest, Handler], Awaitable[web.StreamResponse]]


class ReadRequest(NamedTuple):
    """A request's head as it came, before anything was made of it."""

    method: str
    target: str
    """The raw request target; bytes that are not UTF-8 stand as surrogates."""

    fields: RawFields
    http10: bool
    asks_upgrade: bool
    """Connection and Upgrade ask for another protocol, whichever."""


def read_request(request: web.BaseRequest) -> ReadRequest:
    """Read the head off aiohttp's request.

    Raises VersionRefused for what the parser lets through: HTTP/0.9 and HTTP/2.0 request lines.
    """
    if request.version not in (HttpVersion10, HttpVersion11):
        raise VersionRefused(SPOKEN)
    message = request._message
    return ReadRequest(
        message.method,
        message.path,
        message.raw_headers,
        http10=message.version == HttpVersion10,
        asks_upgrade=bool(message.upgrade),
    )


def take_as(request: web.BaseRequest, bites: Bites) -> None:
    """Have what comes of a body from now on taken in such bites."""
    protocol = request.protocol
    if isinstance(protocol, InBites):
        protocol.take_as(bites)


def waits_its_turn(request: web.BaseRequest) -> bool:
    """Whether the client has sent something that has not been taken from its connection yet."""
    protocol = request.protocol
    return isinstance(protocol, InBites) and protocol.surplus


def body_arrived(request: web.BaseRequest) -> bool:
    """Whether a piece of the body, or its end, can be had without waiting."""
    content = request.content
    return content.is_eof() or content._size > 0
