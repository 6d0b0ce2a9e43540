"""Taking a request's body in: whole where policy must read it, watched where it streams.

JSON is read whole, because the model stands somewhere inside it. Everything else goes up while it
comes; a form's fields are read as they go by. Nothing is decoded, nothing is re-encoded.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from gateway.errors import BadRequest, BodyTooLarge, ClientLeft, MediaTypeRefused, RequestTimeout
from gateway.exchange.exchange import Exchange
from gateway.operations.table import UNLISTED_WRITE
from gateway.policy import requests as policy
from gateway.policy.named_models import models_in
from gateway.proxy.connection import send_continue
from gateway.proxy.request import body_arrived
from gateway.settings.settings import Edge
from gateway.wire import request_fields
from gateway.wire.headers import Head, RequestHead, is_json, media_type
from gateway.wire.multipart import MultipartScanner
from gateway.wire.part_heads import MultipartRefused, boundary_of
from gateway.wire.strict_json import strict_object

_JSON, _FORM, _ANYTHING = "application/json", "multipart/form-data", "*/*"
_CHARSET = re.compile(rb';\s*charset\s*=\s*"?([^\s;"]*)', re.IGNORECASE)


def must_be_read(head: RequestHead, exchange: Exchange) -> bool:
    """Whether the body is read whole before anything goes up.

    JSON always is. So is a body of any other kind where the operation takes JSON, but for the forms that it takes
    as well: an upstream may well read it as JSON whatever it is called. On unlisted paths it matters only for
    callers who may use some models only.
    """
    if not head.has_body:
        return False
    if not is_json(head.content_type):
        takes = exchange.operation.request_types
        if _is_form(head) and (_FORM in takes or _ANYTHING in takes):
            return False
        if _JSON not in takes and not (_ANYTHING in takes and policy.restricted(exchange)):
            return False
    _refuse_encoding(head)
    charset = _CHARSET.search(head.content_type)
    if charset is not None and charset[1].lower() != b"utf-8":
        raise MediaTypeRefused("JSON bodies must be UTF-8.")
    return True


def _is_form(head: RequestHead) -> bool:
    return media_type(head.content_type) == _FORM.encode()


def _refuse_encoding(head: RequestHead) -> None:
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
    """Read what policy needs of a JSON body that has been taken in. Raises BadRequest.

    On unlisted paths a body that is no JSON object is nobody's business, unless only some models may be used.
    """
    where = exchange.operation.model.body
    if where is None or exchange.body is None:
        return
    try:
        exchange.fields = request_fields.read(exchange.body, model_path=where)
    except request_fields.BodyRefused as refused:
        if exchange.operation.id == UNLISTED_WRITE.id and not policy.restricted(exchange):
            return
        raise BadRequest(refused.message, code=refused.code, param=refused.param) from None
    exchange.model = exchange.fields.model


def watch_form(exchange: Exchange, head: RequestHead, *, limited: bool = False) -> None:
    """Read the model of a form as it goes by; where it matters, hold the form's end back for it.

    It matters where some models are closed, where some have limits of their own (`limited`), and where the form
    could name what other tenants have stored. Raises BadRequest, MediaTypeRefused or ModelNotAllowed for a body
    in which nobody can find that.
    """
    if not head.has_body:
        return
    where, restricted = exchange.operation.model.form, policy.restricted(exchange)
    if restricted and exchange.operation.id == UNLISTED_WRITE.id:
        raise policy.unseen("of a form stand where only its own operation knows", "Send JSON")
    if where is None and not policy.shares(exchange):
        return
    judged = restricted or limited or policy.shares(exchange)
    if judged:
        _refuse_encoding(head)
        if (
            not _is_form(head)
            and media_type(head.content_type).decode("latin-1") in exchange.operation.request_types
        ):
            if restricted and exchange.model is None:
                raise policy.unnamed("the query")
            return
    try:
        boundary = boundary_of(head.content_type.decode("latin-1"))
    except MultipartRefused as refused:
        if judged:
            raise BadRequest(
                f"It matters what the form says, and it cannot be read: {refused.reason}.", code="bad_form"
            ) from None
        return  # the upstream will say so
    field, _, path = (where or "").partition(".")
    scanner = MultipartScanner(boundary, fields=(field,) if field else ())
    if judged:
        exchange.form_gate = _FormGate(exchange, scanner, _ModelField(field, path), required=restricted)
    elif field:
        exchange.observers.append(_FormWatcher(exchange, scanner, _ModelField(field, path)))


@dataclass(frozen=True, slots=True)
class _ModelField:
    """The field of a form that names the model: its text, or one member of the JSON object that it holds."""

    name: str
    member: str

    def models(self, text: str) -> tuple[str, ...]:
        """The models that the field names, the one that counts first. Raises BadRequest."""
        if not self.member:
            return (text,)
        try:
            document = strict_object(text.encode())
        except ValueError:
            raise BadRequest(
                f"The field {self.name!r} must be a JSON object in which no member is named twice.",
                code="bad_form",
                param=self.name,
            ) from None
        first = document.get(self.member)
        return (*((first,) if isinstance(first, str) else ()), *models_in(document))


class _FormGate:
    """Lets a form pass that names nothing but what the caller may use; its last boundary waits until then."""

    def __init__(
        self, exchange: Exchange, scanner: MultipartScanner, field: _ModelField, *, required: bool
    ) -> None:
        self._exchange = exchange
        self._scanner = scanner
        self._field = field
        self._required = required and bool(field.name)
        self._seen = 0
        self._judged = False

    def feed(self, piece: bytes) -> bytes:
        """Return what may go up. Raises BadRequest, ModelNotAllowed or SharedUpstream."""
        try:
            going = self._scanner.feed(piece)
        except MultipartRefused as refused:
            raise _bad_form(refused) from None
        for part in self._scanner.parts[self._seen :]:
            policy.check_field(self._exchange, part.name, self._field.name)
        self._seen = len(self._scanner.parts)
        text = self._scanner.fields.get(self._field.name)
        if text is not None and not self._judged:
            self._judged = True
            for model in self._field.models(text):
                policy.check_model(self._exchange, model)
                self._exchange.model = self._exchange.model or model
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

    def __init__(self, exchange: Exchange, scanner: MultipartScanner, field: _ModelField) -> None:
        self._exchange = exchange
        self._scanner: MultipartScanner | None = scanner
        self._field = field

    def opened(self, head: Head) -> None:
        """Nothing: the answer is not watched."""

    def request_piece(self, piece: bytes) -> None:
        """Feed the scanner until it has found the field, or cannot read on."""
        if self._scanner is None:
            return
        try:
            self._scanner.feed(piece)
            text = self._scanner.fields.get(self._field.name)
            models = None if text is None else self._field.models(text)
        except (MultipartRefused, BadRequest):
            self._scanner = None
            return
        if models is not None:
            self._exchange.model = next(iter(models), self._exchange.model)
            self._scanner = None

    def answer_piece(self, piece: bytes) -> None:
        """Nothing: the answer is not watched."""
