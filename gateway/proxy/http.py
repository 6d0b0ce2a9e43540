"""Forwarding over HTTP: the request up, the answer down, piece by piece, unchanged.

One handler serves every operation. What streams is decided by nothing: everything does, but for
request bodies that policy had to read, which lie in `exchange.body`.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable
from time import monotonic

from aiohttp import web

from gateway.errors import (
    BadRequest,
    ClientLeft,
    CredentialRefused,
    Ending,
    UpstreamBroken,
    UpstreamRefusedKey,
    UpstreamTimeout,
)
from gateway.exchange.exchange import AnswerFilter, Exchange
from gateway.exchange.metrics import Metrics
from gateway.policy.tenants import UpstreamAccess
from gateway.proxy import body as intake
from gateway.proxy.answer import Answer, own_fields
from gateway.proxy.connection import connection_reset, drained
from gateway.proxy.deadlines import DeadlineTable
from gateway.proxy.reply import Reply
from gateway.proxy.request import EXCHANGE, Handler
from gateway.proxy.upstream import UpstreamPool, Upstreams
from gateway.settings.settings import Settings
from gateway.wire import headers, passing
from gateway.wire.headers import Head

Relay = Callable[[web.BaseRequest, Exchange, Reply, Head], Awaitable[Answer]]

# Larger refusals are not the short JSON that an API answers about a key.
_REFUSAL_BYTES = 64 * 1024
_REWRITE_BYTES = 8 * 2**20
CLIENT_WATCH_SECONDS = 1.0
_ABOUT_A_KEY = re.compile(rb"api[ _-]?key|secret|\bsk-", re.IGNORECASE)


def forward(upstreams: Upstreams, settings: Settings, relay: Relay) -> Handler:
    """The handler at the end of the middlewares: one exchange with the upstream."""
    deadlines = DeadlineTable(settings.upstream)

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        exchange = request[EXCHANGE]
        exchange.forwarded_at = monotonic()
        assert exchange.tenant is not None
        access = exchange.access = upstreams.access_for(
            exchange.operation, exchange.tenant.access, exchange.upstream_secret
        )
        pool = await upstreams.open(access.base_url)
        reply = await pool.open()
        try:
            head, upload = await _ask(request, exchange, access, pool, reply)
        except BaseException:
            reply.close()
            raise
        try:
            answer = await relay(request, exchange, reply, head)
        except BaseException:
            if upload is not None:
                upload.cancel()
            reply.close()
            raise
        if upload is None or _went_up_whole(upload):
            reply.release()
        else:
            # Answered before it had read everything: the rest of the request must not meet another one.
            upload.cancel()
            reply.close()
        return answer

    async def _ask(
        request: web.BaseRequest,
        exchange: Exchange,
        access: UpstreamAccess,
        pool: UpstreamPool,
        reply: Reply,
    ) -> tuple[Head, asyncio.Task[bool] | None]:
        """Send the request and wait for the answer's head."""
        request_head = exchange.head
        assert request_head is not None
        reply.expect(deadlines.of(exchange.operation), no_body=request.method == "HEAD")
        body = exchange.body
        # aiohttp hands the target on as text in which every byte stands for itself.
        target = pool.target(exchange.target.encode("utf-8", "surrogateescape"))
        block = b"%b %b HTTP/1.1\r\n%b\r\n" % (
            request.method.encode("ascii"),
            target,
            passing.for_upstream(
                request_head,
                host=pool.host,
                authorization=access.authorization,
                account=(*access.fields, *pool.proxy_fields),
                length=None if body is None else len(body),
                identity=exchange.plain_answer or exchange.rewrite_answer is not None,
            ),
        )
        if body is None and request_head.has_body:
            reply.transport.write(block)
            return await _ask_while_uploading(request, exchange, reply)
        if body:
            block += _chunk(body) + b"0\r\n\r\n" if request_head.chunked else body
            exchange.request_piece(body)
        elif request_head.chunked:
            block += b"0\r\n\r\n"
        reply.transport.write(block)
        reply.start_clock()
        return await reply.read_head(), None

    async def _ask_while_uploading(
        request: web.BaseRequest, exchange: Exchange, reply: Reply
    ) -> tuple[Head, asyncio.Task[bool]]:
        upload = asyncio.create_task(_upload(request, exchange, reply))
        reading = asyncio.create_task(reply.read_head())
        try:
            await asyncio.wait({upload, reading}, return_when=asyncio.FIRST_COMPLETED)
            if upload.done() and not reading.done():
                upload.result()  # what is wrong with the client's body ends the exchange
            return await reading, upload
        except BaseException:
            upload.cancel()
            reading.cancel()
            await asyncio.gather(upload, reading, return_exceptions=True)
            raise

    async def _upload(request: web.BaseRequest, exchange: Exchange, reply: Reply) -> bool:
        """Send the client's body up as it comes; an upstream that stops reading stops the client.

        Returns whether all of it went up.
        """
        chunked = exchange.head is not None and exchange.head.chunked
        protocol, gate = reply.protocol, exchange.form_gate
        try:
            async for piece in intake.pieces(request, settings.edge):
                going = piece if gate is None else gate.feed(piece)
                if going:
                    reply.transport.write(_chunk(going) if chunked else going)
                exchange.request_piece(piece)
                if protocol.writing_paused:
                    await _drained(request, reply, settings.edge.body_idle_timeout_seconds)
            if exchange.before_form_end is not None:
                await exchange.before_form_end()
            if exchange.head is not None and exchange.head.content_length not in (None, exchange.bytes_in):
                # The rest would be looked for in whatever comes next on this connection.
                raise BadRequest("The request body is not as long as it said.", code="bad_framing")
            rest = b"" if gate is None else gate.finish()
            if chunked:
                rest = (_chunk(rest) if rest else b"") + b"0\r\n\r\n"
            if rest:
                reply.transport.write(rest)
        except (ConnectionError, UpstreamBroken):
            return False  # it may have answered before it closed; whoever reads the head finds out
        reply.start_clock()
        return True

    return handle


def _went_up_whole(upload: asyncio.Task[bool]) -> bool:
    return upload.done() and not upload.cancelled() and upload.exception() is None and upload.result()


def relay_answer(settings: Settings, metrics: Metrics) -> Relay:
    """How an answer goes down, whoever asked for it."""

    async def relay(request: web.BaseRequest, exchange: Exchange, reply: Reply, head: Head) -> Answer:
        """Send the upstream's answer to the client, piece by piece, unchanged."""
        exchange.head_at = monotonic()
        request_id = head.get(b"x-request-id")
        if request_id is not None:
            exchange.upstream_request_id = request_id.decode("latin-1")
        if head.status == 101:
            raise UpstreamBroken("The upstream switched protocols although nobody asked it to.")
        if head.status >= 400:
            await _refuse_about_our_key(exchange, reply, head)
        fields, unreadable = passing.for_client(head.fields)
        if unreadable:
            metrics.unreadable_headers.inc(unreadable)
        if exchange.rewrite_answer is not None and 200 <= head.status < 300 and request.method != "HEAD":
            fields = await _rewritten(reply, head, fields, exchange.rewrite_answer)
        filtering = _filter_for(exchange, head)
        if filtering is not None:
            fields = [field for field in fields if field[0].lower() != b"content-length"]
        answer = Answer(head.status, head.reason, [*fields, *own_fields(exchange)])
        answer.begin(request, write_idle_seconds=settings.edge.write_idle_timeout_seconds)
        exchange.status = head.status
        exchange.opened(head)
        if not reply.buffered and head.status < 400:
            answer.flush_head()  # an error's head waits for its first bytes: they may yet be withheld
        events = _EventEnds() if _ends_with_connection(head, reply) and is_event_stream(head) else None
        while piece := await reply.read():
            if events is not None:
                events.saw(piece)
            if filtering is not None and not (piece := filtering.feed(piece)):
                continue
            if exchange.first_byte_at is None:
                exchange.first_byte_at = monotonic()
            if reply.finished and events is None and filtering is None:
                await answer.write_eof(piece)
                exchange.answer_piece(piece)
                break
            await answer.write(piece)
            exchange.answer_piece(piece)
        if events is not None and not events.between_events:
            raise UpstreamBroken("The upstream broke off in the middle of an event.")
        if filtering is not None and (rest := filtering.finish()):
            await answer.write(rest)
            exchange.answer_piece(rest)
        await answer.write_eof()
        now = monotonic()
        exchange.upstream_ended_at = now
        if exchange.first_byte_at is None:
            exchange.first_byte_at = now
        exchange.ending = Ending.COMPLETE
        return answer

    return relay


async def _refuse_about_our_key(exchange: Exchange, reply: Reply, head: Head) -> None:
    """Raise UpstreamRefusedKey for an error that is about the gateway's key, or quotes it."""
    if exchange.upstream_secret is not None and head.status == 401:
        raise CredentialRefused("This realtime secret is no longer accepted. Ask for a new one.")
    if head.status != 401 and not await _tells_of_our_key(exchange, reply, head):
        return
    raise UpstreamRefusedKey(
        "The upstream refused the gateway's own key. This is not your credential's fault; "
        "tell the gateway's operator.",
        detail=f"upstream answered {head.status}",
    )


async def _tells_of_our_key(exchange: Exchange, reply: Reply, head: Head) -> bool:
    """Whether a short error says something about the key; what is longer, or a stream, is none of that kind."""
    if is_event_stream(head) or reply.finished:
        return False
    body = await reply.peek(_REFUSAL_BYTES)
    if body is None:
        return False
    text = _readable(body, head)
    if text is None:
        return head.status == 403  # unread, it may not pass
    key = exchange.access.api_key if exchange.access is not None else None
    return (key is not None and key.encode() in text) or (
        head.status == 403 and _ABOUT_A_KEY.search(text) is not None
    )


def _readable(body: bytes, head: Head) -> bytes | None:
    """The text of an error, inflated to look at it; None for encodings that cannot be read here."""
    match (head.get(b"content-encoding") or b"identity").strip().lower():
        case b"identity":
            return body
        case b"gzip" | b"deflate":
            try:
                return zlib.decompressobj(wbits=47).decompress(body, _REFUSAL_BYTES)
            except zlib.error:
                return None
        case _:
            return None


async def _rewritten(
    reply: Reply, head: Head, fields: list[tuple[bytes, bytes]], rewrite: Callable[[bytes], bytes]
) -> list[tuple[bytes, bytes]]:
    """Put a changed body in place of the upstream's; returns the fields with its length."""
    encoding = (head.get(b"content-encoding") or b"identity").lower()
    body = await reply.peek(_REWRITE_BYTES)
    if encoding != b"identity" or body is None:
        raise UpstreamBroken("The upstream's answer cannot be read, and may not pass unread.")
    body = rewrite(body)
    reply.put_back(body)
    kept = [field for field in fields if field[0].lower() != b"content-length"]
    return [*kept, (b"Content-Length", b"%d" % len(body))]


def _filter_for(exchange: Exchange, head: Head) -> AnswerFilter | None:
    """The filter that stands between this answer and the client: only for a readable stream of events."""
    encoding = head.get(b"content-encoding") or b"identity"
    if head.status != 200 or encoding.lower() != b"identity" or not is_event_stream(head):
        exchange.answer_filter = None
    return exchange.answer_filter


async def _drained(request: web.BaseRequest, reply: Reply, body_idle_seconds: float) -> None:
    """Wait until the upstream reads on. Raises UpstreamTimeout, or ClientLeft when the client is gone.

    While we do not read from the client, aiohttp hears nothing of its leaving: the kernel is asked for a
    reset, and a client that hung up behind bytes we have not read is found by the body idle deadline.
    """
    draining = asyncio.ensure_future(drained(reply.protocol))
    deadline = monotonic() + min(reply.deadlines.idle_seconds, body_idle_seconds)
    try:
        while True:
            done, _ = await asyncio.wait({draining}, timeout=CLIENT_WATCH_SECONDS)
            if done:
                draining.result()
                return
            if connection_reset(request.protocol):
                raise ClientLeft("The client left.")
            if monotonic() >= deadline:
                raise UpstreamTimeout("The upstream stopped reading the request body.")
    finally:
        draining.cancel()


def is_event_stream(head: Head) -> bool:
    """Whether the answer's head announces server-sent events."""
    return headers.media_type(head.get(b"content-type") or b"") == b"text/event-stream"


def _ends_with_connection(head: Head, reply: Reply) -> bool:
    """Whether nothing but the end of the connection delimits the body."""
    return (
        not reply.finished and head.get(b"content-length") is None and head.get(b"transfer-encoding") is None
    )


class _EventEnds:
    """Whether a stream of events that only the end of the connection delimits stands between two events."""

    def __init__(self) -> None:
        self._tail = b""

    def saw(self, piece: bytes) -> None:
        """Note the last bytes."""
        self._tail = (self._tail + piece)[-4:]

    @property
    def between_events(self) -> bool:
        """An event ends with a blank line; an empty stream has none to break."""
        return not self._tail or self._tail.endswith((b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n"))


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
