"""What is said of stored objects that are not the caller's, or of which nobody can say whose they are. Pure."""

from __future__ import annotations

from gateway.operations.stored_kinds import StoredKinds
from gateway.stored_errors import ObjectsUnavailable, ObjectUnknown
from gateway.wire.body_facts import Reference

_SHOWN_CHARACTERS = 128
"""Of an id, in a refusal."""


def unknown(reference: Reference) -> ObjectUnknown:
    """The API's own answer to who names an object that it does not have."""
    words = StoredKinds.load()[reference.kind].unknown_by(reference.member or None)
    shown = reference.id[:_SHOWN_CHARACTERS].encode("ascii", "replace").decode()
    message = words.message.replace("{id}", shown)
    return ObjectUnknown(message, status=words.status, param=words.param, told_code=words.code)


def unavailable(outage: Exception | None = None) -> ObjectsUnavailable:
    """The error where the registry cannot be asked."""
    return ObjectsUnavailable(
        "The gateway cannot tell at the moment whose stored objects are. Try again.",
        detail=None if outage is None else str(outage),
    )
