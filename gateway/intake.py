"""Taking a request's body in: whole where policy must read it, watched where it streams.

JSON is read whole, because the model stands somewhere inside it. Everything else goes up while it
comes; a form's fields are read as they go by. Nothing is decoded, nothing is re-encoded.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from gateway import policy, request_fields
from gateway.edge import send_continue
from gateway.errors import BadRequest, BodyTooLarge, ClientLeft, MediaTypeRefused, RequestTimeout
from gateway.exchange import Exchange, Head
from gateway.headers import RequestHead, is_json, media_type
from gateway.model_places import places
from gateway.multipart import MultipartRefused, MultipartScanner, boundary_of
from gateway.settings import Edge

_CHARSET = re.compile(rb';\s*charset\s*=\s*"?([^\s;"]*)', re.IGNORECASE)


def must_be_read(head: RequestHead, exchange: Exchange) -> bool:
    """Whether the body is read whole before anything goes up.

    JSON always is. So is a body of any other kind where the operation takes JSON alone: an upstream
    may well read it as JSON whatever it is called.
    """
    if not head.has_body:
        return False
    if is_json(head.content_type):
        _refuse_encoded(head)
        return True
    if media_type(head.content_type) == b"multipart/form-data":
        return False
    if exchange.operation.request_types != ("application/json",):
        return False
    _refuse_encoded(head)
    return True


def _refuse_encoded(head: RequestHead) -> None:
    """Raise MediaTypeRefused for JSON that policy could not read as the upstream would."""
    if head.content_encoding not in (b"", b"identity"):
        raise MediaTypeRefused("JSON bodies are read by the gateway: send them without Content-Encoding.")
    charset = _CHARSET.search(head.content_type)
    if charset is not None and charset[1].lower() != b"utf-8":
        raise MediaTypeRefused("JSON bodies must be UTF-8.")


def check_length(head: RequestHead, *, whole: bool, edge: Edge) -> None:
    """Refuse at the door what Content-Length says is too large. Raises BodyTooLarge."""
    cap = edge.max_json_body_bytes if whole else edge.max_body_bytes
    if head.content_length is not None and head.content_length > cap:
        raise _too_large(cap)


def invite(request: web.BaseRequest, head: RequestHead) -> None:
    """Send `100 Continue` to a client that waits for it; to be called once nothing in the head speaks against."""
    if head.expect_continue and head.has_body and request.version >= (1, 1):
        send_continue(request)


async def whole(request: web.BaseRequest, edge: Edge) -> bytes:
    """The whole body, at most `max_json_body_bytes` of it. Raises as `pieces` does."""
    content = request.content
    if content.is_eof():
        # The common case: the body came with the head.
        body = content.read_nowait(-1)
        if len(body) > edge.max_json_body_bytes:
            raise _too_large(edge.max_json_body_bytes)
        return body
    return b"".join([piece async for piece in pieces(request, edge, cap=edge.max_json_body_bytes)])


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
            if content.is_eof() or content._size:
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
        except (ConnectionError, RuntimeError):  # aiohttp says RuntimeError once the connection is gone
            raise ClientLeft("The client left.") from None
        if not piece:
            return
        room -= len(piece)
        if room < 0:
            raise _too_large(cap)
        yield piece


def _too_large(cap: int) -> BodyTooLarge:
    return BodyTooLarge(f"The request body exceeds {cap} bytes. Large files go up in parts, by /v1/uploads.")


def read_fields(exchange: Exchange) -> None:
    """Read what policy needs of a JSON body that has been taken in. Raises BadRequest."""
    where = places(exchange.operation).body
    if where is None or exchange.body is None:
        return
    try:
        exchange.fields = request_fields.read(exchange.body, model_path=where)
    except request_fields.BodyRefused as refused:
        raise BadRequest(refused.message, code=refused.code, param=refused.param) from None
    exchange.model = exchange.fields.model


def watch_form(exchange: Exchange, head: RequestHead, *, limited: bool = False) -> None:
    """Read the model of a form as it goes by; where it matters, hold the form's end back for it.

    It matters where some models are closed, and where some have limits of their own (`limited`).
    Raises BadRequest, MediaTypeRefused or ModelNotAllowed for a body in which nobody can find the model.
    """
    name = places(exchange.operation).form
    if name is None or not head.has_body:
        return
    restricted = policy.restricted(exchange)
    judged = restricted or limited
    try:
        boundary = boundary_of(head.content_type.decode("latin-1"))
    except MultipartRefused as refused:
        if judged:
            raise BadRequest(
                f"It matters which model you use, and the form cannot be read: {refused.reason}.",
                code="bad_form",
            ) from None
        return  # the upstream will say so
    scanner = MultipartScanner(boundary, fields=(name,))
    if judged:
        exchange.form_gate = _FormGate(exchange, scanner, name, required=restricted)
    else:
        exchange.observers.append(_FormWatcher(exchange, scanner, name))


class _FormGate:
    """Lets a form pass whose model is allowed; its last boundary waits until that is known."""

    def __init__(self, exchange: Exchange, scanner: MultipartScanner, name: str, *, required: bool) -> None:
        self._exchange = exchange
        self._scanner = scanner
        self._name = name
        self._required = required

    def feed(self, piece: bytes) -> bytes:
        """Return what may go up. Raises BadRequest or ModelNotAllowed."""
        try:
            going = self._scanner.feed(piece)
        except MultipartRefused as refused:
            raise _bad_form(refused) from None
        model = self._scanner.fields.get(self._name)
        if model is not None and self._exchange.model is None:
            self._exchange.model = model
            policy.check_model(self._exchange, model)
        return going

    def finish(self) -> bytes:
        """Return the form's end. Raises BadRequest or ModelNotAllowed."""
        if self._required and self._exchange.model is None:
            raise policy.unnamed("the form")
        try:
            return self._scanner.finish()
        except MultipartRefused as refused:
            raise _bad_form(refused) from None


def _bad_form(refused: MultipartRefused) -> BadRequest:
    return BadRequest(f"The form cannot be read: {refused.reason}.", code="bad_form", param=refused.param)


class _FormWatcher:
    """A StreamObserver that notes the model which a form names."""

    def __init__(self, exchange: Exchange, scanner: MultipartScanner, name: str) -> None:
        self._exchange = exchange
        self._scanner: MultipartScanner | None = scanner
        self._name = name

    def opened(self, head: Head) -> None:
        """Nothing: the answer is not watched."""

    def request_piece(self, piece: bytes) -> None:
        """Feed the scanner until it has found the field, or cannot read on."""
        if self._scanner is None:
            return
        try:
            self._scanner.feed(piece)
        except MultipartRefused:
            self._scanner = None
            return
        model = self._scanner.fields.get(self._name)
        if model is not None:
            self._exchange.model = model
            self._scanner = None

    def answer_piece(self, piece: bytes) -> None:
        """Nothing: the answer is not watched."""
