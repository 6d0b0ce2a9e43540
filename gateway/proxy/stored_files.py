"""What the gateway asks the upstream by itself: how large a stored file is, and what stands in it.

A batch costs what its input file holds, and runs what stands there as the account's own. Where somebody counts that, or
several tenants have one account, and only there, the upstream is asked before it is told to make the batch.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic
from urllib.parse import quote

import orjson

from gateway.errors import UpstreamBroken
from gateway.exchange.exchange import Exchange
from gateway.proxy.by_sight import codings_of
from gateway.proxy.deadlines import ReplyDeadlines
from gateway.proxy.reply import Reply
from gateway.proxy.upstream import Upstreams
from gateway.wire.answer_head import Head
from gateway.wire.passing import loop_field

_DEADLINES = ReplyDeadlines(first_byte_seconds=30.0, idle_seconds=10.0, total_seconds=30.0)
_CONTENT_DEADLINES = ReplyDeadlines(first_byte_seconds=30.0, idle_seconds=30.0, total_seconds=180.0)
_MOST_BYTES = 64 * 1024
_UNAUTHORIZED = 401


async def file_bytes(upstreams: Upstreams, exchange: Exchange, file_id: str) -> int | None:
    """The size of a file, asked for as the exchange's tenant; None when the upstream does not say.

    Raises an UpstreamFault, UpstreamIdentityUnavailable, or Overloaded. The connection is free again before the
    exchange has one of its own.
    """
    async with _asking(upstreams, exchange, _path(file_id), _DEADLINES) as (reply, head):
        # Behind another head there may be what never ends: a connection that no longer speaks HTTP.
        body = await reply.peek(_MOST_BYTES) if head.status == 200 else b""
        return None if body is None else _size(body)


async def file_pieces(upstreams: Upstreams, exchange: Exchange, file_id: str) -> AsyncGenerator[bytes, None]:
    """What stands in a file, asked for as the exchange's tenant, as it comes. Raises as `file_bytes`."""
    path = _path(file_id) + b"/content"
    async with _asking(upstreams, exchange, path, _CONTENT_DEADLINES) as (reply, head):
        if head.status != 200 or codings_of(head):
            raise UpstreamBroken(
                "The upstream does not give the batch's input file, so that nobody can tell what its lines name.",
                detail=f"upstream answered {head.status}",
            )
        while piece := await reply.read():
            yield piece


def _path(file_id: str) -> bytes:
    return b"/v1/files/" + quote(file_id, safe="").encode("ascii")


@asynccontextmanager
async def _asking(
    upstreams: Upstreams, exchange: Exchange, path: bytes, deadlines: ReplyDeadlines
) -> AsyncIterator[tuple[Reply, Head]]:
    """The head of an answer, behind which its body is to be read; what has not been read then is not waited for."""
    access = upstreams.identities.opened(upstreams.access_for(exchange.operation, exchange.caller))
    pool, counts = await upstreams.open(access), upstreams.metrics.of(access.name)
    fields = [(b"Host", pool.host), (b"Accept", b"application/json"), (b"Accept-Encoding", b"identity")]
    if access.authorization is not None:
        fields.append((b"Authorization", access.authorization))
    fields += (*access.fields, *pool.proxy_fields, loop_field(exchange.head, upstreams.deployment()))
    block = b"".join(b"%b: %b\r\n" % field for field in fields)
    tenant = exchange.caller.tenant.id
    if not pool.places.take(tenant):
        await pool.wait_for_place(exchange)
    reply = await pool.open(tenant, deadlines)
    head: Head | None = None
    try:
        request = b"GET %b HTTP/1.1\r\n%b\r\n" % (pool.target(path), block)
        reply.write(request)
        asked_at = reply.start_clock()
        try:
            head = await reply.read_head()
        except UpstreamBroken:
            if not reply.went_unanswered:
                raise
            reply = await pool.made_for(reply)
            counts.asked_again.inc()
            reply.write(request)
            asked_at = reply.start_clock()
            head = await reply.read_head()
        counts.answered(head, exchange.model, asked_at, monotonic())
        if head.status == _UNAUTHORIZED:
            upstreams.identities.refused(access)
        yield reply, head
    except BaseException as error:
        counts.gave_up(error, begun=head is not None)
        reply.close()
        raise
    reply.release()  # closes what was not read to its end


def _size(body: bytes) -> int | None:
    try:
        size = orjson.loads(body)["bytes"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return size if type(size) is int and size >= 0 else None
