"""What an answer whose client has left is read on into: for a moment, to hear what it used. Nobody gets any of it."""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.errors import GatewayError
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import EventFilter
from gateway.proxy.answer import broken_off
from gateway.proxy.reply import Reply
from gateway.proxy.request import Request
from gateway.proxy.sink import Awaited, Passes
from gateway.wire.search import Piece

MOST_SECONDS: Final = 2.0
_MOST_BYTES: Final = 8 * 2**20
"""The last event of some answers has all of it once more, and the request too."""


class ReportSink(Awaited):
    """Gets the rest of an answer, and shows it to whoever reads it; over once nothing more is to be learnt."""

    __slots__ = ("_exchange", "_filtering", "_room_bytes", "takes_raw")

    def __init__(self, exchange: Exchange, filtering: EventFilter | None) -> None:
        super().__init__()
        self._exchange = exchange
        self._filtering = filtering
        self._room_bytes = _MOST_BYTES
        self.takes_raw = False

    def piece(self, body: Piece, chunks: Piece | None) -> None:  # noqa: ARG002
        if self._over:
            return
        exchange, filtering = self._exchange, self._filtering
        self._room_bytes -= len(body)
        if filtering is not None:
            try:
                filtering.feed(bytes(body))
            except GatewayError as refused:
                self.fail(refused)
                return
        exchange.answer_piece(body, 0)
        if self._room_bytes < 0 or not exchange.awaits_report:
            self._settle()

    def usual(self) -> Passes | None:
        return None

    def raw(self, data: Piece, body_bytes: int) -> None:  # noqa: ARG002
        raise AssertionError("it takes none")

    def end(self, body: Piece = b"", chunks: Piece | None = None) -> None:
        if body:
            self.piece(body, chunks)
        if not self._over:
            self._settle()

    def give_up(self) -> None:
        """Nothing has come in time."""
        if not self._over:
            self._settle()


async def hear_report(request: Request, reply: Reply, filtering: EventFilter | None) -> None:
    """Read an answer on for `MOST_SECONDS` at most, until it has said what it used or has ended.

    Never raises what is wrong with the answer. A client that is still there, because it is we who end the exchange,
    is cut first.
    """
    client = request.connection
    was_there = client.transport is not None and not client.transport.is_closing()
    if was_there:
        broken_off(request)
    sink = ReportSink(request.exchange, filtering)
    timer = asyncio.get_running_loop().call_later(MOST_SECONDS, sink.give_up)
    try:
        reply.relay_to(sink)
        try:
            await sink.ended()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not was_there or client.transport is not None or task is None:
                raise
            task.uncancel()  # it was the client's end that did it, which we have just made
            await sink.ended()
    except GatewayError:
        pass  # it broke off: nothing more is to be learnt
    finally:
        timer.cancel()
