"""What a realtime event of a client may name: models and stored objects. Pure."""

from __future__ import annotations

import re

from gateway.errors import BadRequest
from gateway.operations.table import Operation
from gateway.policy import named_models, stored_objects
from gateway.policy.caller import Caller
from gateway.policy.requests import document_of

_SIGNS = {
    (True, False): named_models.SIGNS_IN_EVENTS,
    (False, True): stored_objects.SIGNS_IN_EVENTS,
    (True, True): re.compile(
        b"%b|%b" % (named_models.SIGNS_IN_EVENTS.pattern, stored_objects.SIGNS_IN_EVENTS.pattern)
    ),
}
"""By whether models are restricted, and whether stored objects are shared."""


def event_signs(caller: Caller, operation: Operation) -> re.Pattern[bytes] | None:
    """What occurs in every realtime event that `refuse_event` could refuse; None where it refuses none."""
    return _SIGNS.get((caller.restricted, caller.shares(operation)))


def refuse_event(caller: Caller, operation: Operation, event: bytes) -> str | None:
    """Why a realtime client event may not pass: the reason for a close frame, or None."""
    judged = caller.restricted and named_models.may_name_models(event, known=0)
    shared = caller.shares(operation) and stored_objects.may_be_named_in(event, in_session=True)
    if not judged and not shared:
        return None
    try:
        document = document_of(event)
        models = list(named_models.models_in(document)) if judged else []
    except BadRequest as refusal:
        return refusal.message
    for model in models:
        refused = caller.refusal_of(model)
        if refused is not None:
            return refused
    named = stored_objects.named_in(document, in_session=True) if shared else None
    return None if named is None else f"{named!r} names a stored object, and the upstream key is shared."
