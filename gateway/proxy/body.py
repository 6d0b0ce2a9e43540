"""Taking a request's body in: whole where policy must read it, else piece by piece.

JSON is read whole, because the model stands somewhere inside it. Everything else goes up while it comes; what a
form says is read as it goes by (`form_gate`). Nothing is decoded, nothing is re-encoded.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from gateway.errors import BadRequest, BodyTooLarge, ClientLeft, MediaTypeRefused, RequestTimeout
from gateway.exchange.kept_errors import forget_origin
from gateway.operations.table import Operation
from gateway.policy.caller import Caller
from gateway.proxy.connection import send_continue
from gateway.proxy.request import body_arrived
from gateway.settings.settings import Edge
from gateway.wire.headers import RequestHead, is_json, media_type

_JSON, _FORM, _ANYTHING = "application/json", "multipart/form-data", "*/*"
_CHARSET = re.compile(rb';\s*charset\s*=\s*"?([^\s;"]*)', re.IGNORECASE)


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
    charset = _CHARSET.search(head.content_type)
    if charset is not None and charset[1].lower() != b"utf-8":
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
        raise _too_large(cap)


def invite(request: web.BaseRequest, head: RequestHead) -> None:
    """Send `100 Continue` to a client that waits for it; to be called once nothing in the head speaks against."""
    if head.expect_continue and head.has_body and request.version >= (1, 1):
        send_continue(request)


async def whole(request: web.BaseRequest, edge: Edge) -> tuple[bytes, ...]:
    """The whole body, as it came, at most `max_json_body_bytes` of it. Raises as `pieces` does."""
    content = request.content
    if content.is_eof():
        # The common case: the body came with the head.
        body = content.read_nowait(-1)
        if len(body) > edge.max_json_body_bytes:
            raise _too_large(edge.max_json_body_bytes)
        return (body,)
    return tuple([piece async for piece in pieces(request, edge, cap=edge.max_json_body_bytes)])


async def pieces(request: web.BaseRequest, edge: Edge, *, cap: int | None = None) -> AsyncIterator[bytes]:
    """The body as it arrives, within the idle deadline and the size cap.

    Raises RequestTimeout, BodyTooLarge, BadRequest or ClientLeft.
    """
    content = request.content
    idle_seconds = edge.body_idle_timeout_seconds
    cap = edge.max_body_bytes if cap is None else cap
    room = cap
    while True:
        try:
            if body_arrived(request):
                piece = content.read_nowait(-1)
            else:
                async with asyncio.timeout(idle_seconds):
                    piece = await content.readany()
        except TimeoutError:
            raise RequestTimeout(
                f"The request body stopped for more than {idle_seconds:g} seconds. Send the request again."
            ) from None
        except (RequestPayloadError, HttpProcessingError) as error:
            raise BadRequest(
                "The request body's framing is broken.", code="bad_framing", detail=repr(error)
            ) from error
        # aiohttp says RuntimeError once the connection is gone.
        except (ConnectionError, RuntimeError) as lost:
            forget_origin(lost)  # the reader of the body keeps it
            raise ClientLeft("The client left.") from None
        if not piece:
            return
        room -= len(piece)
        if room < 0:
            raise _too_large(cap)
        yield piece


def _too_large(cap: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body exceeds {cap} bytes. Large files go up in parts, by /v1/uploads.")
