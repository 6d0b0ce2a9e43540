"""JSON as a security decision needs it: one document, one meaning, whoever parses it."""

import re

import orjson

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')


def strict_object(document: bytes) -> dict[str, object]:
    """Parse a JSON object whose members are all distinct, at every depth.

    Raises ValueError for what is not UTF-8 JSON (no BOM, NaN, comments or trailing data, bounded depth),
    for anything but an object, and for a member named twice, however the second one is escaped.
    """
    parsed = orjson.loads(document)
    if not isinstance(parsed, dict):
        raise ValueError("not a JSON object")
    # orjson keeps the last of two equal names. Outside strings a colon occurs once per member, so when
    # fewer members were kept than written, one was dropped.
    if _STRING.sub(b"", document).count(b":") != _members(parsed):
        raise ValueError("a member is named twice")
    return parsed


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
