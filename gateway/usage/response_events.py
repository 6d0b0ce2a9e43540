"""What the events of the Responses API say over a WebSocket: which responses begin and end, and what they used. Pure.

An event may be large, for a response has the tools and the instructions that it was asked with: of such a one only what
counts is looked for.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any, NamedTuple

import orjson

from gateway.usage.answers import Outline, usage_of
from gateway.usage.json_reader import MAX_WHOLE_BYTES
from gateway.usage.outline import Outliner
from gateway.usage.realtime import kind_in_front
from gateway.usage.reported import Usage

BEGINS = "response.created"
ENDS = {
    "response.completed": "completed",
    "response.done": "completed",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
"""The events behind which nothing more of a response comes, and how it ended."""

_TELLING = frozenset(kind.encode() for kind in (BEGINS, *ENDS, "error", "response.steer.failed"))
_BEGINS = BEGINS.encode()
_DELTA, _ANY_DELTA = b".delta", b"response.output_text.delta"
_LANE = re.compile(rb'"stream_id"\s*+:\s*+"([^"\\]{1,256})"')
_RESPONSE = re.compile(rb'"response"\s*+:\s*+\{\s*+"id"\s*+:\s*+"([^"\\]{1,256})"')
_EDGE_BYTES = 1024
_MADE: Outline = {
    "type": None,
    "stream_id": None,
    "response": {
        "id": None,
        "created_at": None,
        "previous_response_id": None,
        "output": ({"id": None, "container_id": None, "environment": {"container_id": None}},),
    },
}
"""What says what was made."""


class Told(NamedTuple):
    """What an event tells of a response."""

    kind: str
    lane: str | None
    response: str | None
    """The response that it is about."""

    continues: str | None = None
    """The response behind which that one stands."""

    used: Usage | None = None
    is_of_stream: bool = False
    """Whether an error belongs to a response that had begun."""


def told(text: bytes) -> Told | None:
    """What a server's event tells; None where it is but a piece of a response, or something else."""
    kind = kind_in_front(text)
    if kind is not None and kind not in _TELLING:
        return None
    if len(text) > MAX_WHOLE_BYTES:
        return _of_large(text, kind)
    try:
        event = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if type(event) is not dict or type(name := event.get("type")) is not str or name.encode() not in _TELLING:
        return None
    response = event.get("response")
    response = response if type(response) is dict else {}
    steer = event.get("steer")
    continued = steer if type(steer) is dict else response
    return Told(
        name,
        _id(event.get("stream_id")),
        _id(response.get("id")),
        _id(continued.get("previous_response_id")),
        usage_of(event) if name in ENDS else None,
        event.get("sequence_number") is not None,
    )


def says_made(text: bytes, known: Container[str]) -> bool:
    """Whether an event may say of a response that is not `known` that it was made, or of any what it made by its end.

    Pieces of what models write have no member of this name: within a text its quotation marks are escaped.
    """
    if text.find(b'"response"') < 0:
        return False
    kind = kind_in_front(text)
    if kind is None or kind == _BEGINS or kind.decode("ascii", "replace") in ENDS:
        return True
    found = _RESPONSE.search(text)
    return found is None or found[1].decode("utf-8", "replace") not in known


def said_of_made(text: bytes) -> dict[str, Any] | None:
    """Of an event what says which objects were made: it may be large, for a response has all that it was asked with."""
    try:
        event = orjson.loads(text)
    except orjson.JSONDecodeError:
        outliner = Outliner(_MADE)
        outliner.feed(text)
        event = outliner.finish()
    if type(event) is not dict:
        return None
    response = event.get("response")
    if type(response) is not dict or _id(response.get("id")) is None:
        return None
    output = response.get("output")
    items = output if type(output) is list else []
    return {
        "type": event.get("type"),
        "stream_id": _id(event.get("stream_id")),
        "response": {
            "id": response["id"],
            "created_at": response.get("created_at"),
            "previous_response_id": _id(response.get("previous_response_id")),
            "output": [
                {name: item[name] for name in ("id", "container_id", "environment") if name in item}
                for item in items
                if type(item) is dict
            ],
        },
    }


def is_delta(text: bytes) -> bytes | None:
    """The kind of an event that has a piece of what a model makes, if this is one."""
    kind = kind_in_front(text)
    if kind is None:
        return _ANY_DELTA if text.find(b'.delta"') >= 0 else None
    return kind if kind.endswith(_DELTA) else None


def lane_of(text: bytes) -> str | None:
    """The lane that a short event belongs to."""
    found = _LANE.search(text)
    return None if found is None else found[1].decode("utf-8", "replace")


def _of_large(text: bytes, kind: bytes | None) -> Told | None:
    if kind is None:
        return None
    name = kind.decode()
    lane = _LANE.search(text, 0, _EDGE_BYTES) or _LANE.search(text, len(text) - _EDGE_BYTES)
    response = _RESPONSE.search(text, 0, _EDGE_BYTES)
    used = None
    if name in ENDS and text.find(b'"usage"') >= 0:
        outliner = Outliner()
        outliner.feed(text)
        used = usage_of(outliner.finish())
    return Told(
        name,
        None if lane is None else lane[1].decode("utf-8", "replace"),
        None if response is None else response[1].decode("utf-8", "replace"),
        None,
        used,
    )


def _id(value: object) -> str | None:
    return value if type(value) is str and 0 < len(value) <= 256 else None
