"""Answers the preflights of browsers, which have no credential and cost nothing but their line."""

from __future__ import annotations

from collections.abc import Awaitable

from aiohttp.helpers import rfc822_formatted_time

from gateway.errors import ClientLeft
from gateway.proxy.answer import Answer, broken_off, own_lines, send_own, status_line
from gateway.proxy.handler import Handler, Middleware
from gateway.proxy.request import Request
from gateway.wire.cors import Cors


def preflight(*, cors: Cors) -> Middleware:
    """Answer what asks whether a page of an allowed origin may ask; whatever it is about, that is judged when asked."""

    def around(handler: Handler) -> Handler:
        def asked(request: Request) -> Awaitable[Answer]:
            if request.method == "OPTIONS":
                lines = cors.preflight(request.fields)
                if lines is not None:
                    return _grant(request, lines)
            return handler(request)

        return asked

    return around


async def _grant(request: Request, lines: bytes) -> Answer:
    exchange = request.exchange
    own = Answer(
        204,
        status_line(204, "No Content")
        + b"Date: %b\r\n" % rfc822_formatted_time().encode()
        + lines
        + own_lines(exchange),
    )
    if exchange.unreadable is not None or exchange.head.has_body:
        own.keep_alive = False  # nobody has judged what stands behind
    try:
        return await send_own(request, own)
    except ClientLeft:
        return broken_off(request)
