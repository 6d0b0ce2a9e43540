"""Requests over a WebSocket that stands beside an operation: each event is a body of that operation's. Pure.

They are judged as those are. What they have beside it: the lane in which they are answered, and responses of their own
connection that they continue, which nobody else can reach whatever account the upstream is asked with.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from gateway.errors import BadRequest, ModelNotAllowed
from gateway.operations.table import Operation, OperationTable
from gateway.policy import requests as policy
from gateway.policy import stored_objects
from gateway.policy.caller import Caller
from gateway.policy.reading import Question, read_body
from gateway.wire import request_fields
from gateway.wire.body_facts import BodyFacts, SocketRequest
from gateway.wire.half_characters import readings
from gateway.wire.json_members import members
from gateway.wire.request_fields import BodyRefused

STEERS = "response.steer"

_CONTINUED = ("previous_response_id", "response_id")
_BEGINS = frozenset({"response.create", STEERS})
_GOES_ON = frozenset({"response.inject", "response.cancel"})
"""Events about a response that runs, and that begin none."""

_READ_ONCE = frozenset({"type", "generate", "stream_id", *_CONTINUED})
_LONGEST_ID = 256
_SHOWN_CHARACTERS = 64


def read_socket_request(event: bytes, question: Question) -> SocketRequest:
    """What an event says, by the question about a body. Linear in its size. Raises BodyRefused.

    What has halves of characters in it is read wherever it says the same to all readers of these, as over HTTP.
    """
    try:
        document = request_fields.parse(event)
    except BodyRefused:
        if (halves := readings(event)) is None:
            raise
        request, dropped = (_read(text, request_fields.parse(text), question) for text in halves)
        if _judged(request) != _judged(dropped):
            raise
        return request
    return _read(event, document, question)


def _judged(request: SocketRequest) -> tuple[object, ...]:
    """What is decided by."""
    body = request.body
    return request[1:], body.fields, body.named, body.background


def _read(event: bytes, document: dict[str, Any], question: Question) -> SocketRequest:
    if not event:
        raise BodyRefused("invalid_json", "A message must be a JSON object.")
    _check_once(event)
    kind = _text(document, "type")
    if kind is None:
        raise BodyRefused("invalid_type", "type must say which event this is.", param="type")
    lane = _text(document, "stream_id")
    continues = tuple((name, told) for name in _CONTINUED if (told := _text(document, name)) is not None)
    body = read_body(event, question._replace(below=("stream_id",)) if question.owned else question)
    if type(document.get("response")) is dict and body.fields is not None:
        body = body._replace(fields=body.fields._replace(model=_model_in_response(event, document, body)))
    if body.named.stored is not None and body.named.fault is None and not question.owned:
        beside = {name: value for name, value in document.items() if name not in ("stream_id", *_CONTINUED)}
        stored = stored_objects.named_in(beside)
        body = body._replace(
            named=body.named._replace(stored=None if stored is None else stored[:_SHOWN_CHARACTERS])
        )
    return SocketRequest(body, kind, lane, continues, document.get("generate") is not False)


def check_request(
    caller: Caller,
    operation: Operation,
    request: SocketRequest,
    table: OperationTable,
    *,
    own: Container[str],
) -> None:
    """Judge what was read, but for the one model that there is a place for; `own`: responses of this connection.

    Raises what `check_body` does for a body of the operation.
    """
    policy.check_body(caller, operation, request.body, table)
    if caller.shares(operation):
        for name, response_id in request.continues:
            if response_id not in own:
                raise caller.closed_to(f"{name!r} names a response that this connection has not made", name)
    if not names_model(request):
        _check_model(caller, request, own)
    if request.body.background:
        raise BadRequest(
            "Nothing goes on in the background over a WebSocket. Leave 'background' out, or ask by "
            f"{operation.method} {operation.path}.",
            code="invalid_value",
            param="background",
        )


def names_model(request: SocketRequest) -> bool:
    """Whether it has a place for a model; else it is about a response that has one."""
    return request.kind != STEERS and request.kind not in _GOES_ON


def begins_response(request: SocketRequest) -> bool:
    """Whether a response may begin because of it; of what nobody knows one may."""
    return request.kind not in _GOES_ON


def asks_surely(request: SocketRequest) -> bool:
    """Whether it is known that a response begins because of it, and not only that one may."""
    return request.kind in _BEGINS


def _check_model(caller: Caller, request: SocketRequest, own: Container[str]) -> None:
    """Judge the model of what is about a response, and has no place for one. Raises ModelNotAllowed."""
    fields = request.body.fields
    if fields is not None and fields.model is not None:
        caller.check_model(fields.model)
    if request.kind != STEERS or not caller.restricted:
        return
    if not any(response_id in own for _, response_id in request.continues):
        raise ModelNotAllowed(
            "You may use some models only, and a response that this connection has not made may be of any. "
            "Steer responses over the connection that made them.",
            param=_CONTINUED[0],
        )


def _model_in_response(event: bytes, document: dict[str, Any], body: BodyFacts) -> str | None:
    """The model, where what is asked for stands in a `response` as in realtime events: some servers read it there."""
    beside = None if body.fields is None else body.fields.model
    model = request_fields.read(event, document, model_path=("response", "model")).model
    if None not in (beside, model) and beside != model:
        raise BodyRefused(
            "duplicate_parameter", "response.model is not the model named beside it.", param="response.model"
        )
    return beside if model is None else model


def _text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is None:
        return None
    if type(value) is not str or len(value) > _LONGEST_ID:
        raise BodyRefused("invalid_type", f"{name} must be a short string.", param=name)
    return value


def _check_once(event: bytes) -> None:
    """Refuse an event that says twice, in whatever case, what has been read of it: some would read another event."""
    seen = set()
    for member in members(event):
        name = member.name.casefold()
        if name != member.name and name in _READ_ONCE:
            raise BodyRefused(
                "bad_request",
                f"{member.name!r} could be read as {name!r}. Write it in lower case.",
                param=name,
            )
        if member.name in _READ_ONCE:
            if member.name in seen:
                raise BodyRefused(
                    "duplicate_parameter", f"{member.name} is given more than once.", param=member.name
                )
            seen.add(member.name)
