"""JSON as a security decision needs it: one document, one meaning, whoever parses it."""

import re
from collections.abc import Collection, Iterator
from typing import Any

import orjson

from gateway.wire.json_structure import colons

USER_NAMED = frozenset(
    {
        *("parameters", "schema", "input_schema", "output_schema", "item_schema"),
        *("arguments", "attributes", "env", "headers", "metadata", "variables"),
    }
)
"""Members under which callers choose the names themselves: no name below them means anything to the API."""

_NAMED_MEANINGFULLY = frozenset({"graders"})
"""Members under which callers choose the names of what means something to the API, one of the above maybe."""

_ESCAPE = re.compile(rb"\\u(?:00[4-7]|017[fF]|212[aA])")
_STRANGERS = (b"\xc5\xbf", b"\xe2\x84\xaa", b"\0")


def hides_names(document: bytes) -> bool:
    """Whether a search for names, without regard to case, could miss one that some reader would see."""
    find = document.find  # several times as fast as `in`, which asks what it is given first
    plain = document.isascii() and find(b"\0") < 0
    if not plain and any(stranger in document for stranger in _STRANGERS):
        return True
    return find(b"\\") >= 0 and _ESCAPE.search(document) is not None


def is_beside(place: str, name: str, beside: Collection[str]) -> bool:
    """Whether what stands under this name means nothing; `place`: the folded name under which its object stands."""
    return name in beside and place not in _NAMED_MEANINGFULLY


def place_below(place: str, name: str) -> str:
    """The folded name under which a member's object stands; none where callers have chosen the name."""
    folded = name.casefold()
    return "" if place in _NAMED_MEANINGFULLY and folded not in _NAMED_MEANINGFULLY else folded


def objects(root: object, *, beside: Collection[str] = USER_NAMED) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of a parsed document, with the folded name of the member under which it stands.

    An object in a list stands where the list stands; the root under no name. What stands under one of `beside`
    is left out. In no particular order, without recursion.
    """
    pending: list[tuple[str, Any]] = [("", root)]
    while pending:
        place, value = pending.pop()
        if isinstance(value, list):
            pending += [(place, inner) for inner in value if isinstance(inner, dict | list)]
        elif isinstance(value, dict):
            yield place, value
            pending += [
                (place_below(place, name), inner)
                for name, inner in value.items()
                if isinstance(inner, dict | list) and not is_beside(place, name, beside)
            ]


def strict_object(document: bytes) -> dict[str, object]:
    """Parse a JSON object whose members are all distinct, at every depth.

    Raises ValueError for what is not UTF-8 JSON (no BOM, NaN, comments or trailing data, bounded depth),
    for anything but an object, and for a member named twice, however the second one is escaped.
    """
    parsed = orjson.loads(document)
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")
    if not all_distinct(document, parsed):
        raise ValueError("a member is named twice")
    return parsed


def all_distinct(document: bytes, parsed: object) -> bool:
    """Whether the members of every object are written once, in a document that orjson has parsed."""
    # orjson keeps the last of two equal names: when fewer members were kept than written, one was dropped.
    return colons(document) == _members(parsed)


def _members(root: object) -> int:
    """Count the members of all objects in a parsed document, without recursion."""
    count = 0
    pending = [root]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            count += len(value)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return count
