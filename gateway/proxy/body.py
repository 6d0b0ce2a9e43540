"""Taking a request's body in: whole where policy must read it, else piece by piece.

JSON is read whole, because the model stands somewhere inside it. Everything else goes up while it comes; what a
form says is read as it goes by (`form_gate`). Nothing is decoded, nothing is re-encoded.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from gateway.errors import BodyTooLarge, MediaTypeRefused
from gateway.operations.table import Operation
from gateway.policy.caller import Caller
from gateway.proxy.body_memory import BodyRoom
from gateway.proxy.received_body import too_large
from gateway.proxy.request import Request
from gateway.settings.edge import Edge
from gateway.wire.headers import PLAIN_CHARSETS, RequestHead, is_json, media_type

_JSON, _FORM, _ANYTHING = "application/json", "multipart/form-data", "*/*"
AT_ONCE_BYTES = 64 * 1024
AT_ONCE_SECONDS = 0.05
_PIECE_BYTES = 2**20
"""Large enough to go back to the system when it is freed (see app/serving.py)."""

_LEFT_BYTES = 8 * 2**20
"""So much memory has to be left behind each piece: where none is for what comes next over the connection, the loop
cuts it, and its client is told nothing."""

_CHARSET = re.compile(rb""";\s*charset(\*[*0-9]*)?\s*=\s*["']?([^\s;"']*)""", re.IGNORECASE)
"""Wherever it stands: of two, and of one within the quotes of another parameter, readers take either."""


def must_be_read(head: RequestHead, operation: Operation, caller: Caller) -> bool:
    """Whether the body is read whole before anything goes up.

    JSON always is. So is a body of any other kind where the operation takes JSON, but for the forms that it takes
    as well: an upstream may well read it as JSON whatever it is called. On unlisted paths it matters only for
    callers who may use some models only.
    """
    if not head.has_body:
        return False
    if head.content_type == b"application/json" and not head.content_encoding:
        return True  # as most are
    if not is_json(head.content_type):
        takes = operation.request_types
        if is_form(head) and (_FORM in takes or _ANYTHING in takes):
            return False
        if _JSON not in takes and not (_ANYTHING in takes and caller.restricted):
            return False
    refuse_encoding(head)
    for encoded, name in _CHARSET.findall(head.content_type):
        if encoded or name.lower() not in PLAIN_CHARSETS:
            raise MediaTypeRefused("JSON bodies must be UTF-8.")
    return True


def is_form(head: RequestHead) -> bool:
    """Whether the body is a multipart form."""
    return media_type(head.content_type) == _FORM.encode()


def refuse_encoding(head: RequestHead) -> None:
    """Raise MediaTypeRefused for a body that policy could not read as the upstream would."""
    if head.content_encoding not in (b"", b"identity"):
        raise MediaTypeRefused("The gateway has to read this body: send it without Content-Encoding.")


def check_length(stated_bytes: int | None, *, whole: bool, edge: Edge) -> None:
    """Refuse at the door what Content-Length says is too large. Raises BodyTooLarge."""
    cap = edge.max_json_body_bytes if whole else edge.max_body_bytes
    if stated_bytes is not None and stated_bytes > cap:
        raise _too_large(edge, cap)


def invite(request: Request, head: RequestHead) -> None:
    """Send `100 Continue` to a client that waits for it; to be called once nothing in the head speaks against."""
    if head.expect_continue and head.has_body and not request.http10:
        transport = request.connection.transport
        if transport is not None:
            transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


def much_is_left(request: Request, head: RequestHead) -> bool:
    """Whether more of the body may follow than is worth waiting for before the next request."""
    if not head.has_body or request.body.is_eof:
        return False
    stated_bytes = request.stated_bytes
    return stated_bytes is None or stated_bytes > AT_ONCE_BYTES or head.expect_continue


def is_there(request: Request, edge: Edge, room: BodyRoom) -> bool:
    """Whether the whole body has come with its head, and has been given room at once: small ones mostly have."""
    body = request.body
    size = body.come_bytes
    return body.is_eof and size <= AT_ONCE_BYTES and size <= edge.max_json_body_bytes and room.take_now(size)


async def comes_at_once(request: Request, head: RequestHead, room: BodyRoom) -> bool:
    """Whether the whole body is there, or follows its head so closely that waiting for it is cheaper than not.

    SDKs send head and body apart. What is there has been given room; room that is not free at once is not waited
    for here, and nobody is invited.
    """
    body = request.body
    come = body.is_eof
    length = body.come_bytes if come else request.stated_bytes
    if length is None or length > AT_ONCE_BYTES or (head.expect_continue and not come):
        return False
    return room.take_now(length) and (come or await body.complete_within(AT_ONCE_SECONDS))


async def whole(request: Request, edge: Edge, room: BodyRoom) -> tuple[bytes, ...]:
    """The whole body, in pieces of a megabyte and somewhat more, at most `max_json_body_bytes` of it.

    Raises as `pieces` does, and as `BodyRoom.take`.
    """
    incoming = request.body
    if incoming.is_eof:
        # The common case: the body came with the head, or closely behind.
        if incoming.come_bytes > edge.max_json_body_bytes:
            raise _too_large(edge, edge.max_json_body_bytes)
        return (incoming.read_nowait(),)
    come, block, size = [], bytearray(), 0
    async for piece in pieces(request, edge, cap=edge.max_json_body_bytes):
        size += len(piece)
        await room.grow(size)
        # As they come they would occupy more, by the byte forty times as much, and leave a heap of holes behind.
        block += piece
        bytes(_LEFT_BYTES)  # raises MemoryError; pages that nobody writes to are never made
        if len(block) >= _PIECE_BYTES:
            come.append(bytes(block))
            block.clear()
    if block:
        come.append(bytes(block))
    return tuple(come)


async def pieces(request: Request, edge: Edge, *, cap: int | None = None) -> AsyncIterator[bytes]:
    """The body as it arrives, within its deadlines and the size cap.

    Raises RequestTimeout, BodyTooLarge, BadRequest or ClientLeft.
    """
    incoming = request.body
    cap = edge.max_body_bytes if cap is None else cap
    while piece := await incoming.read():
        if incoming.come_bytes > cap:
            raise _too_large(edge, cap)
        yield piece


def _too_large(edge: Edge, cap: int) -> BodyTooLarge:
    return too_large(
        cap, "edge.max_json_body_bytes" if cap == edge.max_json_body_bytes else "edge.max_body_bytes"
    )
