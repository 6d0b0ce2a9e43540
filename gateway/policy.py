"""What a request may name: models and stored objects, wherever they stand. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import orjson

from gateway.errors import (
    BadRequest,
    ModelNotAllowed,
    OperationClosed,
    ScopeMissing,
    SharedUpstream,
    TargetAmbiguous,
)
from gateway.exchange import Exchange
from gateway.json_members import hides_letters
from gateway.model_patterns import allows
from gateway.model_places import model_in_path, model_in_query, places
from gateway.operations import NeverUnlisted, NotUnderV1, OperationTable, TargetRefused
from gateway.request_fields import BodyRefused, read_session_model
from gateway.rewrites import splice_member
from gateway.settings import Settings
from gateway.strict_json import strict_object
from gateway.tenants import TenantPolicy, is_shared_state

UNCONTAINED = ("/v1/chatkit/sessions", "/v1/realtime/calls")
"""Where sessions begin whose media or events never pass the gateway."""

# Members whose text names something that the upstream has stored.
_NAMES_OBJECTS = frozenset(
    {
        "assistant_id",
        "container",
        "container_id",
        "conversation",
        "file_id",
        "file_ids",
        "input_file_id",
        "previous_response_id",
        "thread_id",
        "training_file",
        "validation_file",
        "vector_store_id",
        "vector_store_ids",
    }
)
# Objects with an `id` that refers rather than describes.
_REFERRING_PARENTS = frozenset({"audio", "container", "conversation", "prompt"})
_SIGNS = re.compile(
    b"|".join(
        b'"%b"' % name.encode()
        for name in sorted({*_NAMES_OBJECTS, *_REFERRING_PARENTS, "store", "item_reference"})
    )
)


def check_operation(exchange: Exchange, settings: Settings) -> None:
    """Whether the operation is open, and the caller has its scope. Raises OperationClosed or ScopeMissing."""
    operation, principal, policy = exchange.operation, exchange.principal, exchange.tenant
    assert principal is not None
    assert policy is not None
    scope = operation.scope
    if scope.startswith("org.") and settings.upstream.admin_api_key is None:
        raise OperationClosed(
            "Organization administration is not offered by this gateway. Ask its operator if you need it."
        )
    if operation.path.startswith(UNCONTAINED) and not settings.allow_uncontained:
        raise OperationClosed(
            f"{operation.id} starts sessions that run past this gateway, so it is closed here. "
            "Ask its operator if you need it."
        )
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


def read_model(exchange: Exchange, target: str) -> None:
    """Find the model where the head has it: in the path or the query. Raises BadRequest."""
    where = places(exchange.operation)
    if where.path is not None:
        exchange.model = model_in_path(exchange.params[where.path])
    elif where.query is not None:
        exchange.model = model_in_query(target)


def restricted(exchange: Exchange) -> bool:
    """Whether the tenant or the credential may use some models only."""
    policy, principal = exchange.tenant, exchange.principal
    assert policy is not None
    assert principal is not None
    return policy.models is not None or principal.models is not None


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


def check_head(exchange: Exchange) -> None:
    """What the head can decide. Raises SharedUpstream or ModelNotAllowed."""
    policy = exchange.tenant
    assert policy is not None
    if policy.shared and is_shared_state(exchange.operation):
        raise _shared(policy, f"{exchange.operation.id} works on stored objects")
    where = places(exchange.operation)
    if exchange.model is not None:
        check_model(exchange, exchange.model)
    elif where.query is not None and where.required and restricted(exchange):
        raise unnamed("the query")
    if exchange.operation.model_location.startswith("input file") and restricted(exchange):
        raise ModelNotAllowed(
            "The models of a batch stand in its input file, where they cannot be checked, and you may use "
            "some models only. Send the requests one by one, or ask the gateway's operator.",
            param="model",
        )


def check_body(exchange: Exchange, table: OperationTable) -> None:
    """What a body that was read can decide; sets the tenant's default model where none is named.

    Raises ModelNotAllowed, SharedUpstream, ScopeMissing or BadRequest.
    """
    policy, body = exchange.tenant, exchange.body
    assert policy is not None
    where = places(exchange.operation)
    if where.body is not None:
        if exchange.model is None and body is not None:
            _set_default_model(exchange, policy, where.body)
        if exchange.model is not None:
            check_model(exchange, exchange.model)
        elif restricted(exchange) and "inherited" not in exchange.operation.model_location:
            raise unnamed("the body")
    elif exchange.model is None and restricted(exchange) and _needs_form(exchange):
        raise unnamed("the form")
    if exchange.operation.id == "createBatch" and body:
        _check_batch(exchange, body, table)
    if policy.shared and body:
        _refuse_stored_objects(policy, body)


def refuse_event(exchange: Exchange, event: bytes) -> str | None:
    """Why a realtime client event may not pass: the reason for a close frame, or None."""
    try:
        model = read_session_model(event)
    except BodyRefused as refused:
        return refused.message
    return None if model is None else model_refusal(exchange, model)


def filtered_models(exchange: Exchange, body: bytes) -> bytes:
    """The answer to GET /v1/models without what the caller may not use: rewrite (c).

    Entries that stay keep their members; an answer that is no list of models passes as it came.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return body
    entries = document.get("data") if isinstance(document, dict) else None
    if not isinstance(entries, list):
        return body
    kept = [
        entry
        for entry in entries
        if isinstance(entry, dict)
        and isinstance(entry.get("id"), str)
        and model_refusal(exchange, entry["id"]) is None
    ]
    document["data"] = kept
    for member, at in (("first_id", 0), ("last_id", -1)):
        if member in document:
            document[member] = kept[at]["id"] if kept else None
    return orjson.dumps(document)


def _set_default_model(exchange: Exchange, policy: TenantPolicy, where: tuple[str, ...]) -> None:
    default = policy.tenant.default_model
    if default is None or len(where) > 1 or exchange.body is None:
        return
    if "inherited" in exchange.operation.model_location:
        return  # the stored assistant has one
    exchange.body = splice_member(exchange.body or b"{}", "model", orjson.dumps(default))
    exchange.model = default


def _needs_form(exchange: Exchange) -> bool:
    return places(exchange.operation).form is not None and exchange.body is not None


def _check_batch(exchange: Exchange, body: bytes, table: OperationTable) -> None:
    """A batch runs another operation for the caller, so the caller needs that one's scope as well."""
    assert exchange.principal is not None
    assert exchange.tenant is not None
    endpoint = _document(body).get("endpoint")
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


def _refuse_stored_objects(policy: TenantPolicy, body: bytes) -> None:
    """Raise SharedUpstream for a JSON body that names what the upstream stores for everybody."""
    if not _SIGNS.search(body) and not hides_letters(body):
        return
    document = _document(body)
    if document.get("store") is True:
        raise _shared(policy, "'store' keeps the answer where other tenants could reach it", "store")
    pending: list[Any] = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, dict):
            pending.extend(value.values())
            named = _named_object(value)
            if named is not None:
                raise _shared(policy, f"{named!r} names a stored object", named)


def _named_object(members: Mapping[str, Any]) -> str | None:
    if members.get("type") == "item_reference" and isinstance(members.get("id"), str):
        return "id"
    for name, value in members.items():
        if name in _NAMES_OBJECTS and _is_reference(value):
            return name
        if name in _REFERRING_PARENTS and isinstance(value, dict) and isinstance(value.get("id"), str):
            return name
    return None


def _is_reference(value: object) -> bool:
    """Text, or a list of texts; a schema that merely has a member of this name is an object."""
    if isinstance(value, list):
        return any(isinstance(item, str) for item in value)
    return isinstance(value, str)


def _document(body: bytes) -> dict[str, Any]:
    try:
        return strict_object(body)
    except ValueError:
        raise BadRequest(
            "The body must be a JSON object in UTF-8 in which no member is named twice.", code="invalid_json"
        ) from None


def _shared(policy: TenantPolicy, what: str, param: str | None = None) -> SharedUpstream:
    return SharedUpstream(
        f"{what[0].upper()}{what[1:]}, and the tenant {policy.id} shares its upstream key with other tenants. "
        "Ask the gateway's operator for an upstream key or project of your own.",
        param=param,
    )


def unnamed(where: str) -> ModelNotAllowed:
    """The error for a request that names no model although it matters which."""
    return ModelNotAllowed(
        f"You may use some models only, so {where} must name one. Set 'model'.", param="model"
    )
