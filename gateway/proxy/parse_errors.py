"""What is said of a request that aiohttp could not read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from gateway.errors import BadRequest, GatewayError, HeadersTooLarge, Internal, Overloaded, VersionRefused
from gateway.exchange.kept_errors import lacked_memory
from gateway.proxy.answer import Answer
from gateway.proxy.request import SPOKEN, Request


def out_of_memory() -> Overloaded:
    """What is said where memory does not suffice."""
    return Overloaded(
        "There is not enough memory for this request at the moment. Try again shortly.",
        detail="out of memory",
    )


def parse_error(error: BaseException | None) -> GatewayError:
    """The gateway's error for what aiohttp's parser, or a defect, has made of a request."""
    if error is not None and lacked_memory(error):
        return out_of_memory()
    if not isinstance(error, HttpProcessingError):
        return Internal("The gateway failed.", detail=repr(error))
    # aiohttp's text goes on to quote the line, which may hold a credential: only what was wrong is kept.
    reason = " ".join((error.message or "").split("\n\n", 1)[0].split())[:100]
    if isinstance(error, LineTooLong):
        return HeadersTooLarge("The request line or one header is too long.")
    if "invalid http version" in reason.lower():
        return VersionRefused(SPOKEN, detail=reason)
    return BadRequest(
        "The request could not be read as HTTP/1.1. Check the request line, the headers and the body's framing.",
        code="bad_request_syntax",
        detail=reason,
    )


class Unbegun(web.StreamResponse):
    """An answer that aiohttp itself starts and ends, after the handler has failed or where there was none."""

    def __init__(
        self, answer: Answer, linger: Callable[[asyncio.Transport], None], *, write_idle_seconds: float
    ) -> None:
        """`linger` closes the connection without taking the answer back."""
        super().__init__(status=answer.status)
        self.force_close()
        self._answer = answer
        self._linger = linger
        self._write_idle_seconds = write_idle_seconds
        self._transport: asyncio.Transport | None = None

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        self._answer.begin(cast(Request, request), None, write_idle_seconds=self._write_idle_seconds)
        self._transport = request.transport
        return None

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002
        await self._answer.write_eof(self._answer.content)
        if self._transport is not None and not self._transport.is_closing():
            self._linger(self._transport)
