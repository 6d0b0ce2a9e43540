"""What a request may ask for: its operation, and what its head, its body or its form names. Pure.

Everything here is asked with a caller and an operation. It returns what it found, or raises the refusal.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from gateway.errors import BadRequest, ModelNotAllowed, OperationClosed, ScopeMissing, TargetAmbiguous
from gateway.operations.model_places import model_in_path, model_in_query, models_in_unlisted_path
from gateway.operations.table import (
    UNLISTED_READ,
    UNLISTED_WRITE,
    NeverUnlisted,
    NotUnderV1,
    Operation,
    OperationTable,
    RunsModel,
    UsageReport,
)
from gateway.operations.targets import TargetRefused
from gateway.policy import named_models, references, stored_objects, unnamed_models
from gateway.policy.caller import Caller
from gateway.policy.coverage import check_batch_covered
from gateway.policy.ownership import check_run_by_batch, check_told_apart, made_inside, parts_below, untold
from gateway.policy.reading import Question
from gateway.policy.unknown import check_known, unknown_batch
from gateway.wire.body_facts import BodyFacts, Reference
from gateway.wire.request_fields import Fault

# The head


def check_operation(
    caller: Caller,
    operation: Operation,
    method: str,
    target: str,
    *,
    socket: bool,
    administration: bool,
    uncontained: bool,
) -> None:
    """Whether the operation is open, and the caller has its scope.

    Raises OperationClosed or ScopeMissing; for what no row has, OperationUnknown or MethodRefused too.
    `socket`: the request asks for a WebSocket. `administration` and `uncontained`: the operator has opened those.
    """
    if operation.is_administration and not administration:
        raise OperationClosed(
            "Organization administration is not offered by this gateway. Ask its operator if you need it."
        )
    scopes = _scopes_of(operation, socket=socket)
    if operation.is_unlisted:
        check_known(caller, method, target, scopes)
    if not uncontained:
        _check_contained(operation, target, socket=socket)
    caller.check_scopes(operation, scopes)


def _check_contained(operation: Operation, target: str, *, socket: bool) -> None:
    """Refuse what could start or steer a session that does not pass the gateway. Raises OperationClosed."""
    if not operation.is_contained:
        what = "This path" if operation.is_unlisted else f"The operation {operation.id}"
        why = f"{what} starts or steers sessions that run past this gateway"
    elif operation.is_among_sessions and socket != operation.is_session:
        kind = "no WebSocket" if socket else "a WebSocket, and no upgrade was asked for"
        why = f"The operation {operation.id} is {kind}"
    elif _joins(operation, target):
        why = f"{operation.joined_by!r} joins a session that runs past this gateway"
    else:
        return
    raise OperationClosed(f"{why}, so it is closed here. Ask its operator if you need it.")


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
    """The model where the head has it: in the path or the query. Raises BadRequest or ModelNotAllowed."""
    where = operation.model
    if where.path is not None:
        return model_in_path(params[where.path])
    if where.query is not None:
        return model_in_query(target, strict=caller.restricted)
    if operation.is_unlisted:
        named = model_in_query(target, strict=caller.restricted)
        if caller.restricted:
            for model in models_in_unlisted_path(target):
                caller.check_model(model)
                named = named or model
        return named
    return None


def check_named_model(
    caller: Caller, operation: Operation, model: str | None, *, socket: bool, bodiless: bool
) -> None:
    """Judge the model that the head names, and the operations that name theirs where nobody can look.

    `bodiless`: there is no body that could name one, and the method may run one without. Raises ModelNotAllowed.
    """
    if model is not None:
        caller.check_model(model)
    if not caller.restricted:
        return
    where = operation.model
    if model is None and where.query is not None and where.required:
        raise model_unnamed("the query")
    named_in_body = where.body is not None or where.form is not None
    if bodiless and model is None and named_in_body and must_name_model(caller, operation):
        raise model_unnamed("the request", where.member)
    if where.in_input_file:
        raise models_unseen("of a batch stand in its input file", "Send the requests one by one")
    if operation.runs_model is RunsModel.UNSEEN:
        raise models_unseen(
            f"that {operation.id} runs stand in what it names", "Use one that names its model"
        )
    if socket and not operation.is_session:
        raise models_unseen(
            "of this WebSocket stand in events that the gateway does not know", "Use /v1/realtime"
        )


def check_sharing(caller: Caller, operation: Operation, target: str, *, socket: bool) -> None:
    """Refuse what works on stored objects that other tenants can reach. Raises SharedUpstream."""
    if caller.asks_registry(operation):
        check_told_apart(caller, operation, socket=socket, joins=_joins(operation, target), target=target)
        return
    if not caller.shares(operation):
        return
    if operation.is_shared_state or (socket and not operation.is_session):
        if operation.is_unlisted:
            raise caller.closed_to("what the gateway does not know may work on stored objects")
        raise caller.closed_to(f"the operation {operation.id} works on stored objects")
    if _joins(operation, target):
        raise caller.closed_to(
            f"{operation.joined_by!r} joins a call that the upstream holds", operation.joined_by
        )


def head_matters(caller: Caller, operation: Operation) -> bool:
    """Whether what may be asked for depends on more of a head than its operation, but for WebSockets.

    Where it does not, the checks above say the same of every head, and find no model in it.
    """
    where = operation.model
    return (
        operation.is_unlisted
        or operation.joined_by is not None
        or where.path is not None
        or where.query is not None
        or caller.restricted
    )


# The body


def question_of(caller: Caller, operation: Operation) -> Question | None:
    """What has to be known of a body of this operation; None where nobody has to look into it."""
    where, metered, owned = operation.model, caller.metered, caller.asks_registry(operation)
    question = Question(
        where.body,
        operation.is_unlisted and not caller.restricted,
        caller.restricted,
        owned or caller.shares(operation),
        owned,
        parts_below(operation) if owned else (),
        made_inside(caller, operation),
        operation.is_batch,
        metered and operation.counts_usage and "tokens" in operation.uses,
        default_model(caller, operation) is not None,
        metered and operation.reports is UsageReport.ON_REQUEST,
        answers=operation.answers,
    )
    return question if question.asks else None


def body_matters(caller: Caller, operation: Operation) -> bool:
    """Whether a body in which nothing was found beside its fields has to be judged.

    Where it has not, the checks below say nothing of any model, and no model is put in.
    """
    return caller.restricted or operation.is_batch or default_model(caller, operation) is not None


def check_body(caller: Caller, operation: Operation, facts: BodyFacts, table: OperationTable) -> None:
    """Judge what was read in a body, but for the one model that the operation has a place for.

    Raises ModelNotAllowed, SharedUpstream, ScopeMissing, TargetAmbiguous or BadRequest.
    """
    named = facts.named
    for model in named.models:
        caller.check_model(model)
    if named.fault is not None:
        raise bad_request(named.fault)
    for member in named.unnamed:
        if member != operation.model.member or default_model(caller, operation) is None:
            raise ModelNotAllowed(unnamed_models.reason(member), param=member)
    if named.stored is not None and caller.asks_registry(operation):
        raise untold(caller, named.stored)
    if named.stored == "store":
        raise caller.closed_to("'store' keeps the answer where other tenants could reach it", named.stored)
    if named.stored is not None:
        raise caller.closed_to(f"{named.stored!r} names a stored object", named.stored)
    if facts.endpoint is not None:
        _check_batch(caller, facts.endpoint, table)


def check_model_of_body(caller: Caller, operation: Operation, model: str | None) -> None:
    """Judge the model of a request whose body has been read, or that there is none. Raises ModelNotAllowed."""
    where = operation.model
    if where.body is not None:
        if model is not None:
            caller.check_model(model)
        elif must_name_model(caller, operation):
            raise model_unnamed("the body", where.member)
    elif model is None and where.form is not None and caller.restricted:
        raise model_unnamed("the form")


def must_name_model(caller: Caller, operation: Operation) -> bool:
    """Whether a request without a model would run one that this caller may not be allowed to use."""
    return caller.restricted and not (
        operation.model.may_lack and operation.runs_model is not RunsModel.INHERITED
    )


def default_model(caller: Caller, operation: Operation) -> str | None:
    """The tenant's default, where the operation has one place for a model and needs it: rewrite (b)."""
    where = operation.model
    if where.body != ("model",) or where.may_lack or operation.is_unlisted:
        return None  # whether an unlisted path takes one, nobody knows
    return caller.tenant.settings.default_model


def _check_batch(caller: Caller, endpoint: str, table: OperationTable) -> None:
    """A batch runs another operation for the caller, so the caller needs that one's scope as well."""
    try:
        operation = table.match("POST", endpoint).operation
    except (TargetRefused, NotUnderV1, NeverUnlisted):
        raise TargetAmbiguous("The batch's endpoint is no operation of the API.", param="endpoint") from None
    if operation.is_administration or not operation.is_contained:
        raise OperationClosed(f"{operation.id} is not run by batches.", param="endpoint")
    check_batch_covered(caller, operation)
    if not caller.may_do(operation):
        if operation.is_unlisted:
            raise unknown_batch(endpoint, operation.scope)
        raise ScopeMissing(
            f"The batch calls {operation.id}, which needs the scope {operation.scope}. "
            "Ask the gateway's operator for a credential that has it.",
            param="endpoint",
        )
    if caller.asks_registry(operation):
        check_run_by_batch(caller, operation, endpoint)


def bad_request(fault: Fault) -> BadRequest:
    """The error for a body on which nobody can rely."""
    return BadRequest(fault.message, code=fault.code, param=fault.param)


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


def references_in_field(caller: Caller, operation: Operation, name: str, text: str) -> tuple[Reference, ...]:
    """What a form's field names that has to be looked up. Raises BadRequest or SharedUpstream."""
    told = references.references_in_field(name, text, parts_below(operation))
    if told.stored is not None:
        raise untold(caller, told.stored)
    if told.fault is not None:
        raise bad_request(told.fault)
    return told.references


def check_form_object(caller: Caller, field: str, document: Mapping[str, Any]) -> None:
    """Judge what runs a model without naming it in the object that a form's field holds. Raises ModelNotAllowed."""
    for member in unnamed_models.unnamed_in(document) if caller.restricted else ():
        raise ModelNotAllowed(unnamed_models.reason(f"{field}.{member}"), param=f"{field}.{member}")


def check_form_text(caller: Caller, field: str, text: str) -> None:
    """Judge a form's field by which a model could be run that no other names. Raises ModelNotAllowed."""
    member = unnamed_models.unnamed_by_field(field, text) if caller.restricted else None
    if member is not None:
        raise ModelNotAllowed(unnamed_models.reason(member), param=member)


# The errors that others raise too


def models_unseen(where: str, instead: str) -> ModelNotAllowed:
    """The error for models that stand where the gateway cannot look, although it matters which they are."""
    return ModelNotAllowed(
        f"The models {where}, where they cannot be checked, and you may use some models only. "
        f"{instead}, or ask the gateway's operator.",
        param="model",
    )


def model_unnamed(where: str, member: str = "model") -> ModelNotAllowed:
    """The error for a request that names no model although it matters which."""
    return ModelNotAllowed(
        f"You may use some models only, so {where} must name one. Set {member!r}.", param=member
    )
