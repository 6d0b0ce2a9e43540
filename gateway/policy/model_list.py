"""The list of models without what the caller may not use: rewrite (c). Pure."""

from __future__ import annotations

import orjson

from gateway.operations.model_patterns import allows


def filtered_models(body: bytes, rules: tuple[tuple[str, ...], ...]) -> bytes | None:
    """The answer to GET /v1/models without what does not satisfy every rule; None where no models are found in it.

    Entries that stay keep their members, and other lists beside `data` (some servers repeat the models there)
    are filtered alike.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        return None
    for member, entries in document.items():
        if isinstance(entries, list):
            document[member] = [entry for entry in entries if _may_be_seen(rules, entry)]
    kept = document["data"]
    for member, at in (("first_id", 0), ("last_id", -1)):
        if member in document:
            document[member] = kept[at]["id"] if kept else None
    return orjson.dumps(document)


def _may_be_seen(rules: tuple[tuple[str, ...], ...], entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    named = entry.get("id", entry.get("model", entry.get("name")))
    return isinstance(named, str) and all(allows(patterns, named) for patterns in rules)
