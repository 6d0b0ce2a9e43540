"""What a realtime event of a client may name: models and stored objects. Pure."""

from __future__ import annotations

import re
from functools import cache

from gateway.operations.table import Operation
from gateway.policy import named_models, stored_objects, unnamed_models
from gateway.policy.caller import Caller
from gateway.policy.reading import Question
from gateway.wire.body_facts import Named


def event_signs(caller: Caller, operation: Operation) -> re.Pattern[bytes] | None:
    """What occurs in every realtime event that `refuse_event` could refuse; None where it refuses none."""
    return _signs(restricted=caller.restricted, shared=caller.shares(operation))


@cache
def _signs(*, restricted: bool, shared: bool) -> re.Pattern[bytes] | None:
    patterns = []
    if restricted:
        patterns += [
            named_models.SIGNS_IN_EVENTS.pattern,
            rb'(?i:"(?:%b)")' % unnamed_models.names().encode(),
        ]
    if shared:
        patterns.append(stored_objects.SIGNS_IN_EVENTS.pattern)
    return re.compile(b"|".join(patterns)) if patterns else None


def question_of(caller: Caller, operation: Operation) -> Question:
    """What has to be known of an event that has such a sign."""
    return Question(models=caller.restricted, stored=caller.shares(operation))


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
