"""What in a request names something that the upstream keeps for everybody behind one key. Pure.

One rule, so that an API that grows is refused rather than let through: a member whose name ends in `_id` or
`_ids` names a stored object, and so does an object with an `id` and nothing of its own beside it. What is no
reference is listed: ids that only tie the parts of one conversation together, and items that come whole.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

from gateway.wire.strict_json import hides_names, objects

# They tie a call to its answer, name what is the same for everybody, or are texts of the caller's own that nobody
# looks up.
HARMLESS_IDS = frozenset(
    {
        *("approval_request_id", "call_id", "caller_id", "connector_id", "continuation_id", "event_id"),
        *("group_id", "request_id", "tool_call_id", "tool_use_id"),
    }
)
IDS_OF_THE_SESSION = frozenset({"item_id", "previous_item_id", "response_id"})

# Names without the ending whose text is an id.
REFERENCES = frozenset(
    {"characters", "container", "conversation", "skills", "training_file", "validation_file", "video"}
)
CONTENT = ("http://", "https://", "data:")
"""How a text begins that is where a video is found, or the video itself, and no id."""

NO_CONVERSATION = frozenset({"auto", "none"})

# Objects of these names refer by their `id`, whatever else they have.
REFERRING = frozenset({"characters", "container", "conversation", "prompt", "video", "voice"})
ITEMS = frozenset({"input", "items"})
CUSTOM_VOICE = "voice_"
_STEPS = re.compile(r"[\[\].]+")

# What an item has of its own; without it, its `id` has the upstream look the item up.
_SUBSTANCE = frozenset(
    {
        *("action", "actions", "approve", "arguments", "code", "content", "custom", "encrypted_content"),
        *("function", "input", "name", "operation", "output", "queries", "result", "results"),
        *("tool_calls", "tools"),
    }
)
_SUBSTANCE_OF: Mapping[str, Collection[str]] = {
    "compaction": ("encrypted_content",),
    "image_generation_call": ("result",),
    "item_reference": (),
    "reasoning": ("encrypted_content",),
}

_ANSWERS_A_CALL = "_output"
_ANSWERED = ("call_id", "output", "result", "tools")
"""What an item has of its own that answers a call, be it empty: a call may come to nothing."""


def _ending(harmless: Collection[str]) -> re.Pattern[bytes]:
    """What ends a name that names a stored object; a plain first character makes searching cheap."""
    spared = b"".join(rb'(?<!"%b)' % name.removesuffix("id").encode() for name in sorted(harmless))
    return re.compile(rb'_(?=[iI])%b(?i:ids?)"' % spared)


def _name(*more: str) -> re.Pattern[bytes]:
    """The other names that can matter, and a voice's; by their first letters, for few texts begin with those."""
    texts = sorted([CUSTOM_VOICE, *(f'{name}"' for name in {*more, *REFERENCES, "store"})])
    letters = [
        f"[{letter}{letter.upper()}](?i:{'|'.join(text[1:] for text in begun)})"
        for letter, begun in groupby(texts, key=itemgetter(0))
    ]
    return re.compile(f'"(?:{"|".join(letters)})'.encode())


_SIGNS = (_ending(HARMLESS_IDS), _name("id"))
_SIGNS_IN_SESSION = (_ending(HARMLESS_IDS | IDS_OF_THE_SESSION), _name(*REFERRING))


def may_be_named_in(body: bytes, *, in_session: bool = False) -> bool:
    """Whether the body has to be parsed to know; a search by bytes, cheap where the answer is no."""
    ending, name = _SIGNS_IN_SESSION if in_session else _SIGNS
    return ending.search(body) is not None or name.search(body) is not None or hides_names(body)


def named_in(document: Mapping[str, Any], *, in_session: bool = False) -> str | None:
    """The name of a member by which a parsed body asks for a stored object, or to store one; else None.

    `in_session`: in a realtime event items and responses are those of the session itself.
    """
    harmless = HARMLESS_IDS | IDS_OF_THE_SESSION if in_session else HARMLESS_IDS
    for place, members in objects(document):
        for name, value in members.items():
            meant = name.casefold()
            if meant == "id":
                if isinstance(value, str) and refers(place, members, in_session=in_session):
                    return place if place in REFERRING else name
            elif meant not in harmless and _names(meant, value):
                return name
    return None


def named_by_field(name: str) -> bool:
    """Whether a form's field of this name, `image[][file_id]` say, names a stored object."""
    steps = steps_of(name)
    if len(steps) > 1 and steps[-1] == "id":
        return True
    return any(
        step not in HARMLESS_IDS and (step in REFERENCES or step.endswith(("_id", "_ids")))
        for step in steps
        if step != "video"  # as a field it is the video itself
    )


def steps_of(name: str) -> list[str]:
    """The names that a field of a form, or a parameter of a query, leads through: `image[][file_id]` has two."""
    return [step for step in _STEPS.split(name.strip().casefold()) if step]


def refers(place: str, members: Mapping[str, Any], *, in_session: bool) -> bool:
    """Whether an object with an `id` is but a reference."""
    if place in REFERRING or (place == "audio" and not in_session):
        return True
    if in_session or place.endswith("safety_checks"):
        return False
    kind = members.get("type")
    if kind is None and place in ITEMS:
        return True  # the API takes it for an item_reference
    if isinstance(kind, str) and kind.endswith(_ANSWERS_A_CALL):
        return all(members.get(name) is None for name in _ANSWERED)
    substance = _SUBSTANCE_OF.get(kind, _SUBSTANCE) if isinstance(kind, str) else _SUBSTANCE
    return all(members.get(name) in (None, "", []) for name in substance)


def _names(name: str, value: object) -> bool:
    if name == "store":
        return value is not None and value is not False
    if name == "voice":
        return isinstance(value, str) and value.startswith(CUSTOM_VOICE)
    if isinstance(value, str) and (
        (name == "conversation" and value in NO_CONVERSATION)
        or (name == "video" and value.startswith(CONTENT))
    ):
        return False
    return (name in REFERENCES or name.endswith(("_id", "_ids"))) and _is_text(value)


def _is_text(value: object) -> bool:
    """Text, or a list with texts; a schema that merely has a member of this name is an object."""
    if isinstance(value, list):
        return any(isinstance(item, str) for item in value)
    return isinstance(value, str)
