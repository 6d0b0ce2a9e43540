"""What a request may name: models and stored objects, wherever they stand. Pure."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qsl

import orjson

from gateway.errors import (
    BadRequest,
    ModelNotAllowed,
    OperationClosed,
    ScopeMissing,
    SharedUpstream,
    TargetAmbiguous,
    UpstreamBroken,
)
from gateway.exchange.exchange import Exchange
from gateway.operations.model_patterns import allows
from gateway.operations.model_places import model_in_path, model_in_query
from gateway.operations.table import (
    UNLISTED_READ,
    UNLISTED_WRITE,
    NeverUnlisted,
    NotUnderV1,
    OperationTable,
)
from gateway.operations.targets import TargetRefused
from gateway.policy import named_models, stored_objects
from gateway.policy.tenants import is_shared_state
from gateway.settings.settings import Settings
from gateway.wire.json_members import TooIntricate, splice_member
from gateway.wire.strict_json import strict_object

# Judging costs about 10 µs a member: nobody needs more of them, and nobody shall wait for more.
_MOST_MEMBERS = 200_000

UNCONTAINED = ("/v1/chatkit/sessions", "/v1/realtime/calls")
"""Where sessions begin whose media or events never pass the gateway."""

_SOCKET = "connectRealtime"
_JOINS_CALL = "call_id"
_EVENT_SIGNS = {
    (True, False): named_models.SIGNS_IN_EVENTS,
    (False, True): stored_objects.SIGNS_IN_EVENTS,
    (True, True): re.compile(
        b"%b|%b" % (named_models.SIGNS_IN_EVENTS.pattern, stored_objects.SIGNS_IN_EVENTS.pattern)
    ),
}


def check_operation(exchange: Exchange, settings: Settings) -> None:
    """Whether the operation is open, and the caller has its scope. Raises OperationClosed or ScopeMissing."""
    operation, principal, policy = exchange.operation, exchange.principal, exchange.tenant
    assert principal is not None
    assert policy is not None
    if operation.scope.startswith("org.") and settings.upstream.admin_api_key is None:
        raise OperationClosed(
            "Organization administration is not offered by this gateway. Ask its operator if you need it."
        )
    if operation.path.startswith(UNCONTAINED) and not settings.allow_uncontained:
        raise OperationClosed(
            f"{operation.id} starts sessions that run past this gateway, so it is closed here. "
            "Ask its operator if you need it."
        )
    for scope in _scopes_of(exchange):
        if scope not in principal.scopes:
            raise ScopeMissing(
                f"This credential lacks the scope {scope}, which {operation.id} needs. "
                "Ask the gateway's operator for a credential that has it."
            )
        if scope not in policy.scopes:
            raise ScopeMissing(
                f"The tenant {policy.id} may not use the scope {scope}, which {operation.id} needs. "
                "Ask the gateway's operator."
            )


def _scopes_of(exchange: Exchange) -> tuple[str, ...]:
    scope = exchange.operation.scope
    if not _is_unknown_socket(exchange):
        return (scope,)
    writes = UNLISTED_WRITE.scope
    return (writes,) if scope == UNLISTED_READ.scope else (scope, writes)


def _is_unknown_socket(exchange: Exchange) -> bool:
    """Whether a WebSocket is asked for where the API is not known to have one: its events may do anything."""
    return exchange.head_upgrades and exchange.operation.id != _SOCKET


def read_model(exchange: Exchange, target: str) -> None:
    """Find the model where the head has it: in the path or the query. Raises BadRequest."""
    where = exchange.operation.model
    if where.path is not None:
        exchange.model = model_in_path(exchange.params[where.path])
    elif where.query is not None or exchange.operation.id == UNLISTED_READ.id:
        exchange.model = model_in_query(target, strict=restricted(exchange))


def restricted(exchange: Exchange) -> bool:
    """Whether the tenant or the credential may use some models only."""
    policy, principal = exchange.tenant, exchange.principal
    assert policy is not None
    assert principal is not None
    return policy.models is not None or principal.models is not None


def shares(exchange: Exchange) -> bool:
    """Whether what the upstream stores is open to other tenants as well, so that nothing stored may be named.

    Administration is apart: it has a key of its own, and who holds that sees everything.
    """
    policy = exchange.tenant
    assert policy is not None
    return policy.shared and not exchange.operation.scope.startswith("org.")


def check_model(exchange: Exchange, model: str) -> None:
    """Raise ModelNotAllowed unless both the tenant and the credential may use this model."""
    refusal = model_refusal(exchange, model)
    if refusal is not None:
        raise ModelNotAllowed(refusal, param="model")


def model_refusal(exchange: Exchange, model: str) -> str | None:
    """Why this model is refused, for the caller; None when it is allowed."""
    policy, principal = exchange.tenant, exchange.principal
    assert policy is not None
    assert principal is not None
    for who, patterns in ((f"The tenant {policy.id}", policy.models), ("This credential", principal.models)):
        if patterns is not None and not allows(patterns, model):
            return (
                f"{who} may not use the model {model[:128]!r}. Allowed: {', '.join(patterns) or 'none'}. "
                "Ask the gateway's operator."
            )
    return None


def check_head(exchange: Exchange, target: str) -> None:
    """What the head can decide. Raises ModelNotAllowed or SharedUpstream."""
    check_named_model(exchange)
    check_sharing(exchange, target)


def check_named_model(exchange: Exchange) -> None:
    """Judge the model that the head names, and the operations that name theirs where nobody can look."""
    if exchange.model is not None:
        check_model(exchange, exchange.model)
    if not restricted(exchange):
        return
    where = exchange.operation.model
    if exchange.model is None and where.query is not None and where.required:
        raise unnamed("the query")
    if exchange.operation.model_location.startswith("input file"):
        raise unseen("of a batch stand in its input file", "Send the requests one by one")
    if _is_unknown_socket(exchange):
        raise unseen("of this WebSocket stand in events that the gateway does not know", "Use /v1/realtime")


def check_sharing(exchange: Exchange, target: str) -> None:
    """Refuse what works on stored objects that other tenants can reach. Raises SharedUpstream."""
    if not shares(exchange):
        return
    if is_shared_state(exchange.operation) or _is_unknown_socket(exchange):
        raise _shared(exchange, f"the operation {exchange.operation.id} works on stored objects")
    if exchange.operation.id == _SOCKET:
        names = parse_qsl(target.partition("?")[2].replace(";", "&"), keep_blank_values=True)
        if any(name == _JOINS_CALL for name, _ in names):
            raise _shared(exchange, "'call_id' joins a call that the upstream holds", _JOINS_CALL)


def check_body(exchange: Exchange, table: OperationTable) -> None:
    """What a body that was read can decide; sets the tenant's default model where none is named.

    Raises ModelNotAllowed, SharedUpstream, ScopeMissing or BadRequest.
    """
    body = exchange.body
    if body and (restricted(exchange) or shares(exchange)):
        _check_names(exchange, body)
    where = exchange.operation.model
    if where.body is not None:
        if exchange.model is None and body is not None:
            _set_default_model(exchange)
        if exchange.model is not None:
            check_model(exchange, exchange.model)
        elif restricted(exchange) and not where.may_lack:
            raise unnamed("the body")
    elif exchange.model is None and where.form is not None and body is not None and restricted(exchange):
        raise unnamed("the form")
    if exchange.operation.id == "createBatch" and body:
        _check_batch(exchange, body, table)


def _check_names(exchange: Exchange, body: bytes) -> None:
    """Judge what a body names beside the one model that has been read. Most bodies are searched, not parsed."""
    fields = exchange.fields
    if fields is not None:
        known = 0 if fields.model is None else 1
        models = restricted(exchange) and named_models.may_name_models(body, known=known)
        if not models and not (shares(exchange) and stored_objects.may_be_named_in(body)):
            return
    document = _document(body)
    if restricted(exchange):
        for model in named_models.models_in(document):
            check_model(exchange, model)
    named = stored_objects.named_in(document) if shares(exchange) else None
    if named == "store":
        raise _shared(exchange, "'store' keeps the answer where other tenants could reach it", named)
    if named is not None:
        raise _shared(exchange, f"{named!r} names a stored object", named)


def check_field(exchange: Exchange, name: str, model_field: str | None) -> None:
    """Judge the name of a form's field; `model_field` is the one whose value will be. Raises for the caller."""
    if shares(exchange) and stored_objects.named_by_field(name):
        raise _shared(exchange, f"{name[:64]!r} names a stored object", name)
    if restricted(exchange) and name != model_field and named_models.field_may_name_model(name):
        raise BadRequest(
            f"The field {name[:64]!r} could be read as one that names a model.", code="bad_form", param=name
        )


def event_signs(exchange: Exchange) -> re.Pattern[bytes] | None:
    """What occurs in every realtime event that `refuse_event` could refuse; None where it refuses none."""
    return _EVENT_SIGNS.get((restricted(exchange), shares(exchange)))


def refuse_event(exchange: Exchange, event: bytes) -> str | None:
    """Why a realtime client event may not pass: the reason for a close frame, or None."""
    judged = restricted(exchange) and named_models.may_name_models(event, known=0)
    shared = shares(exchange) and stored_objects.may_be_named_in(event, in_session=True)
    if not judged and not shared:
        return None
    try:
        document = _document(event)
        models = list(named_models.models_in(document)) if judged else []
    except BadRequest as refusal:
        return refusal.message
    for model in models:
        refused = model_refusal(exchange, model)
        if refused is not None:
            return refused
    named = stored_objects.named_in(document, in_session=True) if shared else None
    return None if named is None else f"{named!r} names a stored object, and the upstream key is shared."


def filtered_models(exchange: Exchange, body: bytes) -> bytes:
    """The answer to GET /v1/models without what the caller may not use: rewrite (c).

    Entries that stay keep their members, and other lists beside `data` (some servers repeat the models there)
    are filtered alike. Raises UpstreamBroken for an answer in which the models are not found.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise UpstreamBroken("The upstream's list of models cannot be read, and may not pass unfiltered.")
    for member, entries in document.items():
        if isinstance(entries, list):
            document[member] = [entry for entry in entries if _may_see(exchange, entry)]
    kept = document["data"]
    for member, at in (("first_id", 0), ("last_id", -1)):
        if member in document:
            document[member] = kept[at]["id"] if kept else None
    return orjson.dumps(document)


def _may_see(exchange: Exchange, entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    named = entry.get("id", entry.get("model", entry.get("name")))
    return isinstance(named, str) and model_refusal(exchange, named) is None


def default_model(exchange: Exchange) -> str | None:
    """The tenant's default, where the operation has one place for a model and needs it."""
    where = exchange.operation.model
    if where.body != ("model",) or where.may_lack or exchange.operation.id == UNLISTED_WRITE.id:
        return None  # whether an unlisted path takes one, nobody knows
    assert exchange.tenant is not None
    return exchange.tenant.tenant.default_model


def _set_default_model(exchange: Exchange) -> None:
    default = default_model(exchange)
    if default is None:
        return
    try:
        exchange.body = splice_member(exchange.body or b"{}", "model", orjson.dumps(default))
    except TooIntricate:
        raise BadRequest(
            "The body is too intricate for the tenant's default model to be set in it. Set 'model'.",
            code="invalid_json",
        ) from None
    exchange.model = default


def _check_batch(exchange: Exchange, body: bytes, table: OperationTable) -> None:
    """A batch runs another operation for the caller, so the caller needs that one's scope as well."""
    assert exchange.principal is not None
    assert exchange.tenant is not None
    document = _document(body)
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
    scope = operation.scope
    if scope not in exchange.principal.scopes or scope not in exchange.tenant.scopes:
        raise ScopeMissing(
            f"The batch calls {operation.id}, which needs the scope {scope}. "
            "Ask the gateway's operator for a credential that has it.",
            param="endpoint",
        )


def _document(body: bytes) -> dict[str, Any]:
    try:
        if body.count(b":") > _MOST_MEMBERS:
            raise ValueError("too many members")
        return strict_object(body)
    except ValueError:
        raise BadRequest(
            "The body must be a JSON object in UTF-8 in which no member is named twice.", code="invalid_json"
        ) from None


def _shared(exchange: Exchange, what: str, param: str | None = None) -> SharedUpstream:
    assert exchange.tenant is not None
    return SharedUpstream(
        f"{what[0].upper()}{what[1:]}, and the tenant {exchange.tenant.id} shares its upstream key with other "
        "tenants. Ask the gateway's operator for an upstream key or project of your own.",
        param=param,
    )


def unseen(where: str, instead: str) -> ModelNotAllowed:
    """The error for models that stand where the gateway cannot look, although it matters which they are."""
    return ModelNotAllowed(
        f"The models {where}, where they cannot be checked, and you may use some models only. "
        f"{instead}, or ask the gateway's operator.",
        param="model",
    )


def unnamed(where: str) -> ModelNotAllowed:
    """The error for a request that names no model although it matters which."""
    return ModelNotAllowed(
        f"You may use some models only, so {where} must name one. Set 'model'.", param="model"
    )
