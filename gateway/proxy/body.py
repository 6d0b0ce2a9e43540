"""Taking a request's body in: whole where policy must read it, else piece by piece.

JSON is read whole, because the model stands somewhere inside it. Everything else goes up while it comes; what a
form says is read as it goes by (`form_gate`). Nothing is decoded, nothing is re-encoded.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from time import monotonic

from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from gateway.errors import BadRequest, BodyTooLarge, ClientLeft, MediaTypeRefused, RequestTimeout
from gateway.exchange.kept_errors import forget_origin
from gateway.operations.table import Operation
from gateway.policy.caller import Caller
from gateway.proxy.bites import REQUESTS, STATED
from gateway.proxy.body_memory import BodyRoom
from gateway.proxy.connection import send_continue
from gateway.proxy.request import Request, body_arrived, take_as, waits_its_turn
from gateway.settings.settings import Edge
from gateway.wire.headers import RequestHead, is_json, media_type

_JSON, _FORM, _ANYTHING = "application/json", "multipart/form-data", "*/*"
AT_ONCE_BYTES = 64 * 1024
AT_ONCE_SECONDS = 0.05
TURN_SECONDS = 0.1
"""After this, and again, it is asked whether what has come still waits for its turn."""

_PIECE_BYTES = 2**20
"""Large enough to go back to the system when it is freed (see cli/serve.py)."""

LEAST_SECONDS = 60.0
SLOW_LINK_BYTES_PER_SECOND = 64 * 1024
_BROKEN = (RequestPayloadError, HttpProcessingError)
_UNREADABLE = (*_BROKEN, ConnectionError, RuntimeError)
"""What aiohttp raises for a body that does not come; RuntimeError once the connection is gone."""

_CHARSET = re.compile(rb';\s*charset(\*[*0-9]*)?\s*=\s*"?([^\s;"]*)', re.IGNORECASE)
"""Wherever it stands: of two, and of one within the quotes of another parameter, readers take either."""

_UTF_8 = (b"utf-8", b"utf8")


def must_be_read(head: RequestHead, operation: Operation, caller: Caller) -> bool:
    """Whether the body is read whole before anything goes up.

    JSON always is. So is a body of any other kind where the operation takes JSON, but for the forms that it takes
    as well: an upstream may well read it as JSON whatever it is called. On unlisted paths it matters only for
    callers who may use some models only.
    """
    if not head.has_body:
        return False
    if not is_json(head.content_type):
        takes = operation.request_types
        if is_form(head) and (_FORM in takes or _ANYTHING in takes):
            return False
        if _JSON not in takes and not (_ANYTHING in takes and caller.restricted):
            return False
    refuse_encoding(head)
    for encoded, name in _CHARSET.findall(head.content_type):
        if encoded or name.lower() not in _UTF_8:
            raise MediaTypeRefused("JSON bodies must be UTF-8.")
    return True


def is_form(head: RequestHead) -> bool:
    """Whether the body is a multipart form."""
    return media_type(head.content_type) == _FORM.encode()


def refuse_encoding(head: RequestHead) -> None:
    """Raise MediaTypeRefused for a body that policy could not read as the upstream would."""
    if head.content_encoding not in (b"", b"identity"):
        raise MediaTypeRefused("The gateway has to read this body: send it without Content-Encoding.")


def check_length(head: RequestHead, *, whole: bool, edge: Edge) -> None:
    """Refuse at the door what Content-Length says is too large. Raises BodyTooLarge."""
    cap = edge.max_json_body_bytes if whole else edge.max_body_bytes
    if head.content_length is not None and head.content_length > cap:
        raise _too_large(edge, cap)


def invite(request: Request, head: RequestHead) -> None:
    """Send `100 Continue` to a client that waits for it; to be called once nothing in the head speaks against."""
    if head.expect_continue and head.has_body and request.version >= (1, 1):
        send_continue(request)


def much_is_left(request: Request, head: RequestHead) -> bool:
    """Whether more of the body may follow than is worth waiting for before the next request."""
    if not head.has_body or request.content.is_eof():
        return False
    return head.content_length is None or head.content_length > AT_ONCE_BYTES or head.expect_continue


async def comes_at_once(request: Request, head: RequestHead, room: BodyRoom) -> bool:
    """Whether the whole body is there, or follows its head so closely that waiting for it is cheaper than not.

    SDKs send head and body apart. What is there has been given room; room that is not free at once is not waited
    for here, and nobody is invited.
    """
    content = request.content
    come = content.is_eof()
    length = content.total_bytes if come else head.content_length
    if length is None or length > AT_ONCE_BYTES or (head.expect_continue and not come):
        return False
    if not room.take_now(length):
        return False
    if come:
        return True
    try:
        async with asyncio.timeout(AT_ONCE_SECONDS):
            await content.wait_eof()
    except TimeoutError:
        return False
    except _UNREADABLE as error:
        raise _unreadable(error) from None
    return True


async def whole(request: Request, edge: Edge, room: BodyRoom) -> tuple[bytes, ...]:
    """The whole body, in pieces of a megabyte and somewhat more, at most `max_json_body_bytes` of it.

    Raises as `pieces` does, and as `BodyRoom.take`.
    """
    content = request.content
    if content.is_eof():
        # The common case: the body came with the head, or closely behind.
        body = content.read_nowait(-1)
        if len(body) > edge.max_json_body_bytes:
            raise _too_large(edge, edge.max_json_body_bytes)
        return (body,)
    come, block, size = [], bytearray(), 0
    async for piece in pieces(request, edge, cap=edge.max_json_body_bytes):
        size += len(piece)
        await room.grow(size)
        # As they come they would occupy more, by the byte forty times as much, and leave a heap of holes behind.
        block += piece
        if len(block) >= _PIECE_BYTES:
            come.append(bytes(block))
            block.clear()
    if block:
        come.append(bytes(block))
    return tuple(come)


async def pieces(request: Request, edge: Edge, *, cap: int | None = None) -> AsyncIterator[bytes]:
    """The body as it arrives, within the idle deadline, the deadline for all of it, and the size cap.

    Only the time in which the client is waited for counts: not what whoever takes the pieces does with them, nor what
    has come and waits until this process gets round to it.
    Raises RequestTimeout, BodyTooLarge, BadRequest or ClientLeft.
    """
    content = request.content
    length = request.exchange.head.content_length or 0
    in_large_bites = length >= STATED.most_bytes
    if in_large_bites:
        take_as(request, STATED)
    cap = edge.max_body_bytes if cap is None else cap
    come, waited_seconds, left_seconds, its_turn_comes = 0, 0.0, math.inf, False
    while True:
        try:
            if body_arrived(request):
                piece = content.read_nowait(-1)
            else:
                left_seconds = _allowed_seconds(edge, come) - waited_seconds
                within_seconds = min(left_seconds, edge.body_idle_timeout_seconds)
                began, its_turn_comes = monotonic(), waits_its_turn(request)
                try:
                    # What waits for its turn may bring nothing of the body: then it is the client again.
                    async with asyncio.timeout(TURN_SECONDS if its_turn_comes else within_seconds):
                        piece = await content.readany()
                finally:
                    waited_seconds += 0.0 if its_turn_comes else monotonic() - began
        except TimeoutError:
            if its_turn_comes or waits_its_turn(request):
                continue
            raise _too_slow(edge, come, left_seconds) from None
        except _UNREADABLE as error:
            raise _unreadable(error) from None
        if not piece:
            return
        come += len(piece)
        if come > cap:
            raise _too_large(edge, cap)
        if in_large_bites and length - come < STATED.most_bytes:
            in_large_bites = False
            take_as(request, REQUESTS)  # what stands behind the body has to be parsed
        yield piece


def _allowed_seconds(edge: Edge, come_bytes: int) -> float:
    """How long a client may be waited for in all."""
    return edge.body_timeout_seconds or LEAST_SECONDS + come_bytes / SLOW_LINK_BYTES_PER_SECOND


def _too_slow(edge: Edge, come_bytes: int, left_seconds: float) -> RequestTimeout:
    if left_seconds > edge.body_idle_timeout_seconds:
        idle_seconds = edge.body_idle_timeout_seconds
        return RequestTimeout(
            f"The request body stopped for more than {idle_seconds:g} seconds. Send the request again.",
            detail="edge.body_idle_timeout_seconds",
        )
    seconds = _allowed_seconds(edge, come_bytes)
    return RequestTimeout(
        f"The request body came too slowly: {come_bytes} bytes in {seconds:.0f} seconds. "
        "Send the request again over a faster connection, or in smaller parts.",
        detail="edge.body_timeout_seconds",
    )


def _unreadable(error: BaseException) -> BadRequest | ClientLeft:
    forget_origin(error)  # the reader of the body keeps it
    if isinstance(error, _BROKEN):
        return BadRequest(
            "The request body's framing is broken, or many times larger than the body. Check its chunks.",
            code="bad_framing",
            detail=repr(error),
        )
    return ClientLeft("The client left.")


def _too_large(edge: Edge, cap: int) -> BodyTooLarge:
    return BodyTooLarge(
        f"The request body exceeds {cap} bytes. Large files go up in parts, by /v1/uploads.",
        detail="edge.max_json_body_bytes" if cap == edge.max_json_body_bytes else "edge.max_body_bytes",
    )
