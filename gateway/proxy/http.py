"""Forwarding over HTTP: the request up, piece by piece, unchanged; how the answer goes down is `relay`.

One handler serves every operation. What streams is decided by nothing: everything does, but for
request bodies that policy had to read, which lie in `exchange.body`.
"""

from __future__ import annotations

import asyncio

from gateway.errors import BadRequest, UpstreamBroken, UpstreamFault, UpstreamTimeout
from gateway.exchange.exchange import Exchange
from gateway.proxy.answer import Answer, own_lines
from gateway.proxy.call import Call, call_upstream
from gateway.proxy.deadlines import DeadlineTable
from gateway.proxy.handler import Handler
from gateway.proxy.relay import Relay
from gateway.proxy.reply import Reply
from gateway.proxy.request import Request
from gateway.proxy.upload_sink import UploadSink
from gateway.proxy.upstream import Upstreams
from gateway.proxy.wheel import Wheel
from gateway.settings.edge import Edge
from gateway.wire.answer_head import Head
from gateway.wire.request_body import RequestBody

SENT_AT_ONCE_BYTES = 64 * 1024


def forward(
    upstreams: Upstreams, *, deadlines: DeadlineTable, edge: Edge, relay: Relay, wheel: Wheel
) -> Handler:
    """The handler at the end of the middlewares: one exchange with the upstream."""

    async def handle(request: Request) -> Answer:
        exchange = request.exchange
        call = await call_upstream(upstreams, deadlines, exchange)
        reply = call.reply
        upload: asyncio.Task[bool] | None = None
        try:
            if _send(call, exchange):
                # What need not wait for the answer is done while the upstream works: the answer goes down the sooner.
                if reply.all_written:
                    exchange.body_sent()
                exchange.added = own_lines(exchange)
                try:
                    while (come := reply.head) is None:
                        await reply.coming()
                    head = come
                    call.answered(head)
                except UpstreamBroken:
                    if not call.may_ask_again:
                        raise
                    head = await call.ask_again(call.request_head(length=None))
                    reply = call.reply
                if exchange.body is not None:
                    exchange.body_sent()
            else:
                head, upload = await _ask_while_uploading(request, call)
                if _went_up_whole(upload):
                    exchange.body_sent()
            answer = await relay.answer(request, call, head)
        except BaseException as error:
            call.gave_up(error)
            if upload is not None:
                upload.cancel()
            reply = call.reply
            if exchange.asked_at is not None and reply.finished:
                reply.release()  # the answer has been heard to its end, though nobody is there for it
            else:
                reply.close()
            raise
        if upload is None or _went_up_whole(upload):
            reply.release()
        else:
            # Answered before it had read everything: the rest of the request must not meet another one.
            upload.cancel()
            reply.close()
        return answer

    def _send(call: Call, exchange: Exchange) -> bool:
        """Send the request's head, and its body where that is there and short; whether that was all of it."""
        reply, asked, held = call.reply, exchange.head, exchange.body
        if held is None:
            raw, length = None if asked.has_body else b"", None
        else:
            raw = held.at_once(SENT_AT_ONCE_BYTES)
            length = held.length if raw is None else len(raw)
        block = call.request_head(length=length)
        if raw is None:
            reply.write(block)
            return False
        if raw:
            block += _chunk(raw) + b"0\r\n\r\n" if asked.chunked else raw
        elif asked.chunked:
            block += b"0\r\n\r\n"
        reply.write(block)
        exchange.asked_at = reply.start_clock()
        if raw:
            exchange.request_piece(raw)
        return True

    async def _ask_while_uploading(request: Request, call: Call) -> tuple[Head, asyncio.Task[bool]]:
        """Upload and listen at once. What is wrong with the client's body ends the exchange, whatever was answered.

        An answer to a form that is still being judged waits for the verdict: the upstream may have read an open
        form, or run what it runs by default. An error has run nothing, and may save the client the upload.
        """
        upload = asyncio.create_task(_upload(request, call.exchange, call.reply))
        reading = asyncio.create_task(call.read_head())
        try:
            await asyncio.wait({upload, reading}, return_when=asyncio.FIRST_COMPLETED)
            if upload.done() and not isinstance(upload.exception(), UpstreamFault):
                upload.result()
            if reading.done() and (call.exchange.form is None or reading.result().status >= 400):
                return reading.result(), upload
            await upload
            return await reading, upload
        except BaseException:
            upload.cancel()
            reading.cancel()
            await asyncio.gather(upload, reading, return_exceptions=True)
            if not _went_up_whole(upload):
                call.reply.abort()  # some take the mere end of a connection for the end of a form
            raise

    async def _upload(request: Request, exchange: Exchange, reply: Reply) -> bool:
        """Send the client's body up as it comes, or as it was taken in; returns whether all of it went up."""
        stated, held, form = exchange.stated_bytes, exchange.body, exchange.form
        idle_seconds = min(reply.deadlines.idle_seconds, edge.body_idle_timeout_seconds)
        going = UploadSink(exchange, request.connection, reply, idle_seconds=idle_seconds)
        try:
            if held is None:
                going.follow()
                wheel.ask(going, asyncio.get_running_loop().time())
                request.body.relay_to(going, most_bytes=edge.max_body_bytes)
            else:
                stated = None
                await _feed(held, going, reply, idle_seconds)
            await going.ended()
            if not going.listens and form is None:
                return False
            if stated not in (None, exchange.bytes_in):
                # The rest would be looked for in whatever comes next on this connection.
                raise BadRequest("The request body is not as long as it said.", code="bad_framing")
            if form is not None and (rest := await form.finish()):
                going.send(rest)
            if exchange.head.chunked:
                going.write(b"0\r\n\r\n")
        finally:
            wheel.forget(going)
            going.let_go()
        if going.listens:
            exchange.asked_at = reply.start_clock()
        return going.listens

    return handle


async def _feed(held: RequestBody, going: UploadSink, reply: Reply, idle_seconds: float) -> None:
    """Send a body up that is there, in bites, none in the same turn of the loop as another: they may be many."""
    for piece in held.pieces():
        for at in range(0, len(piece), SENT_AT_ONCE_BYTES):
            going.piece(piece[at : at + SENT_AT_ONCE_BYTES], None)
            try:
                async with asyncio.timeout(idle_seconds):
                    await (reply.drained() if reply.writing_paused else asyncio.sleep(0))
            except TimeoutError:
                raise UpstreamTimeout("The upstream stopped reading the request body.") from None
            except ConnectionError:
                pass  # the next write finds out
    going.end()


def _went_up_whole(upload: asyncio.Task[bool]) -> bool:
    return upload.done() and not upload.cancelled() and upload.exception() is None and upload.result()


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
