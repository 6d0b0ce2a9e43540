"""What a request may ask for: its operation, and what its head, its body or its form names. Pure.

Everything here is asked with a caller and an operation. It returns what it found, or raises the refusal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import orjson

from gateway.errors import BadRequest, ModelNotAllowed, OperationClosed, ScopeMissing, TargetAmbiguous
from gateway.operations.model_places import model_in_path, model_in_query
from gateway.operations.table import (
    UNLISTED_READ,
    UNLISTED_WRITE,
    NeverUnlisted,
    NotUnderV1,
    Operation,
    OperationTable,
)
from gateway.operations.targets import TargetRefused
from gateway.policy import named_models, stored_objects
from gateway.policy.caller import Caller
from gateway.wire import request_fields
from gateway.wire.json_members import TooIntricate
from gateway.wire.request_body import RequestBody
from gateway.wire.strict_json import strict_object

# Judging costs about 10 µs a member: nobody needs more of them, and nobody shall wait for more.
_MOST_MEMBERS = 200_000


# The head


def check_operation(
    caller: Caller,
    operation: Operation,
    target: str,
    *,
    socket: bool,
    administration: bool,
    uncontained: bool,
) -> None:
    """Whether the operation is open, and the caller has its scope. Raises OperationClosed or ScopeMissing.

    `socket`: the request asks for a WebSocket. `administration` and `uncontained`: the operator has opened those.
    """
    if operation.is_administration and not administration:
        raise OperationClosed(
            "Organization administration is not offered by this gateway. Ask its operator if you need it."
        )
    if not uncontained:
        _check_contained(operation, target, socket=socket)
    caller.check_scopes(operation, _scopes_of(operation, socket=socket))


def _check_contained(operation: Operation, target: str, *, socket: bool) -> None:
    """Refuse what could start or steer a session that does not pass the gateway. Raises OperationClosed."""
    if not operation.is_contained:
        what = "this path" if operation.is_unlisted else operation.id
        why = f"{what} starts or steers sessions that run past this gateway"
    elif operation.is_among_sessions and socket != operation.is_session:
        why = f"{operation.id} is {'no WebSocket' if socket else 'a WebSocket, and no upgrade was asked for'}"
    elif _joins(operation, target):
        why = f"{operation.joined_by!r} joins a session that runs past this gateway"
    else:
        return
    raise OperationClosed(
        f"{why[0].upper()}{why[1:]}, so it is closed here. Ask its operator if you need it."
    )


def _joins(operation: Operation, target: str) -> bool:
    """Whether the query, as any reader could read it, names a session that runs elsewhere."""
    if operation.joined_by is None:
        return False
    query = target.partition("?")[2].replace(";", "&")
    return any(
        re.split(r"[\[.]", name.strip().casefold())[0] == operation.joined_by
        for name, _ in parse_qsl(query, keep_blank_values=True)
    )


def _scopes_of(operation: Operation, *, socket: bool) -> tuple[str, ...]:
    """What the caller needs; more for a WebSocket where the API is not known to have one: it may do anything."""
    if not socket or operation.is_session:
        return (operation.scope,)
    writes = UNLISTED_WRITE.scope
    return (writes,) if operation.scope == UNLISTED_READ.scope else (operation.scope, writes)


def model_in_head(caller: Caller, operation: Operation, params: Mapping[str, str], target: str) -> str | None:
    """The model where the head has it: in the path or the query. Raises BadRequest."""
    where = operation.model
    if where.path is not None:
        return model_in_path(params[where.path])
    if where.query is not None or operation.is_unlisted:
        return model_in_query(target, strict=caller.restricted)
    return None


def check_named_model(caller: Caller, operation: Operation, model: str | None, *, socket: bool) -> None:
    """Judge the model that the head names, and the operations that name theirs where nobody can look.

    Raises ModelNotAllowed.
    """
    if model is not None:
        caller.check_model(model)
    if not caller.restricted:
        return
    where = operation.model
    if model is None and where.query is not None and where.required:
        raise model_unnamed("the query")
    if where.in_input_file:
        raise models_unseen("of a batch stand in its input file", "Send the requests one by one")
    if socket and not operation.is_session:
        raise models_unseen(
            "of this WebSocket stand in events that the gateway does not know", "Use /v1/realtime"
        )


def check_sharing(caller: Caller, operation: Operation, target: str, *, socket: bool) -> None:
    """Refuse what works on stored objects that other tenants can reach. Raises SharedUpstream."""
    if not caller.shares(operation):
        return
    if operation.is_shared_state or (socket and not operation.is_session):
        raise caller.closed_to(f"the operation {operation.id} works on stored objects")
    if _joins(operation, target):
        raise caller.closed_to(
            f"{operation.joined_by!r} joins a call that the upstream holds", operation.joined_by
        )


# The body


def read_body(caller: Caller, operation: Operation, raw: bytes) -> RequestBody:
    """A body that was taken in whole, with what policy needs of it. Raises BadRequest.

    On unlisted paths a body that is no JSON object is nobody's business, unless only some models may be used.
    """
    where = operation.model.body
    if where is None:
        return RequestBody(raw)
    try:
        return RequestBody(raw, request_fields.read(raw, model_path=where))
    except request_fields.BodyRefused as refused:
        if operation.is_unlisted and not caller.restricted:
            return RequestBody(raw)
        raise BadRequest(refused.message, code=refused.code, param=refused.param) from None


def check_names(caller: Caller, operation: Operation, body: RequestBody) -> None:
    """Judge what a body names beside the one model that has been read. Most bodies are searched, not parsed.

    Raises ModelNotAllowed, SharedUpstream or BadRequest.
    """
    shares = caller.shares(operation)
    if not body.raw or not (caller.restricted or shares):
        return
    if body.fields is not None:
        known = 0 if body.fields.model is None else 1
        models = caller.restricted and named_models.may_name_models(body.raw, known=known)
        if not models and not (shares and stored_objects.may_be_named_in(body.raw)):
            return
    document = document_of(body.raw)
    if caller.restricted:
        for model in named_models.models_in(document):
            caller.check_model(model)
    named = stored_objects.named_in(document) if shares else None
    if named == "store":
        raise caller.closed_to("'store' keeps the answer where other tenants could reach it", named)
    if named is not None:
        raise caller.closed_to(f"{named!r} names a stored object", named)


def check_model_of_body(caller: Caller, operation: Operation, model: str | None) -> None:
    """Judge the model of a request whose body has been read, or that there is none. Raises ModelNotAllowed."""
    where = operation.model
    if where.body is not None:
        if model is not None:
            caller.check_model(model)
        elif caller.restricted and not where.may_lack:
            raise model_unnamed("the body")
    elif model is None and where.form is not None and caller.restricted:
        raise model_unnamed("the form")


def default_model(caller: Caller, operation: Operation) -> str | None:
    """The tenant's default, where the operation has one place for a model and needs it: rewrite (b)."""
    where = operation.model
    if where.body != ("model",) or where.may_lack or operation.is_unlisted:
        return None  # whether an unlisted path takes one, nobody knows
    return caller.tenant.settings.default_model


def with_model(body: RequestBody, model: str) -> RequestBody:
    """The body with its model set. Raises BadRequest when no place for it can be found."""
    try:
        return body.with_member("model", orjson.dumps(model))
    except TooIntricate:
        raise BadRequest(
            "The body is too intricate for the tenant's default model to be set in it. Set 'model'.",
            code="invalid_json",
        ) from None


def check_batch(caller: Caller, body: RequestBody, table: OperationTable) -> None:
    """A batch runs another operation for the caller, so the caller needs that one's scope as well.

    Raises ScopeMissing, OperationClosed, TargetAmbiguous or BadRequest.
    """
    if not body.raw:
        return
    document = document_of(body.raw)
    if any(name != "endpoint" and name.casefold() == "endpoint" for name in document):
        raise BadRequest("Write 'endpoint' in lower case, once.", param="endpoint")
    endpoint = document.get("endpoint")
    if endpoint is None:
        return  # the upstream will ask for one
    if not isinstance(endpoint, str):
        raise BadRequest("A batch's endpoint must be a string.", code="invalid_type", param="endpoint")
    try:
        operation = table.match("POST", endpoint).operation
    except (TargetRefused, NotUnderV1, NeverUnlisted):
        raise TargetAmbiguous("The batch's endpoint is no operation of the API.", param="endpoint") from None
    if operation.is_administration or not operation.is_contained:
        raise OperationClosed(f"{operation.id} is not run by batches.", param="endpoint")
    if not caller.may_do(operation):
        raise ScopeMissing(
            f"The batch calls {operation.id}, which needs the scope {operation.scope}. "
            "Ask the gateway's operator for a credential that has it.",
            param="endpoint",
        )


def document_of(body: bytes) -> dict[str, Any]:
    """The parsed body, which every parser reads alike. Raises BadRequest for any other, or too large a one."""
    try:
        if body.count(b":") > _MOST_MEMBERS:
            raise ValueError("too many members")
        return strict_object(body)
    except ValueError:
        raise BadRequest(
            "The body must be a JSON object in UTF-8 in which no member is named twice.", code="invalid_json"
        ) from None


# A form


def check_field(caller: Caller, operation: Operation, name: str, model_field: str | None) -> None:
    """Judge the name of a form's field; `model_field` is the one whose value will be.

    Raises SharedUpstream or BadRequest.
    """
    if caller.shares(operation) and stored_objects.named_by_field(name):
        raise caller.closed_to(f"{name[:64]!r} names a stored object", name)
    if caller.restricted and name != model_field and named_models.field_may_name_model(name):
        raise BadRequest(
            f"The field {name[:64]!r} could be read as one that names a model.", code="bad_form", param=name
        )


# The errors that others raise too


def models_unseen(where: str, instead: str) -> ModelNotAllowed:
    """The error for models that stand where the gateway cannot look, although it matters which they are."""
    return ModelNotAllowed(
        f"The models {where}, where they cannot be checked, and you may use some models only. "
        f"{instead}, or ask the gateway's operator.",
        param="model",
    )


def model_unnamed(where: str) -> ModelNotAllowed:
    """The error for a request that names no model although it matters which."""
    return ModelNotAllowed(
        f"You may use some models only, so {where} must name one. Set 'model'.", param="model"
    )
