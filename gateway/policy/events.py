"""What a realtime event of a client may name: models and stored objects. Pure."""

from __future__ import annotations

from gateway.operations.table import Operation
from gateway.policy import unnamed_models
from gateway.policy.caller import Caller
from gateway.policy.reading import Question
from gateway.wire.body_facts import Named


def question_of(caller: Caller, operation: Operation, *, responses: bool) -> Question:
    """What has to be known of an event; it asks nothing where nothing could be refused.

    `responses`: somebody has to admit them.
    """
    owned = caller.asks_registry(operation)
    return Question(
        models=caller.restricted,
        stored=owned or caller.shares(operation),
        owned=owned,
        responses=responses,
    )


def refuse_event(caller: Caller, named: Named) -> str | None:
    """Why a realtime client event that names this may not pass: the reason for a close frame, or None."""
    for model in named.models:
        refused = caller.refusal_of(model)
        if refused is not None:
            return refused
    if named.fault is not None:
        return named.fault.message
    for member in named.unnamed:
        return unnamed_models.reason(member)
    if named.stored is not None:
        return f"{named.stored!r} names a stored object, and the upstream key is shared."
    return None
