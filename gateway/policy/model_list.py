"""The list of models without what the caller may not use: rewrite (c). Pure."""

from __future__ import annotations

import orjson

from gateway.errors import UpstreamBroken
from gateway.policy.caller import Caller


def filtered_models(caller: Caller, body: bytes) -> bytes:
    """The answer to GET /v1/models without what the caller may not use.

    Entries that stay keep their members, and other lists beside `data` (some servers repeat the models there)
    are filtered alike. Raises UpstreamBroken for an answer in which the models are not found.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        raise UpstreamBroken("The upstream's list of models cannot be read, and may not pass unfiltered.")
    for member, entries in document.items():
        if isinstance(entries, list):
            document[member] = [entry for entry in entries if _may_see(caller, entry)]
    kept = document["data"]
    for member, at in (("first_id", 0), ("last_id", -1)):
        if member in document:
            document[member] = kept[at]["id"] if kept else None
    return orjson.dumps(document)


def _may_see(caller: Caller, entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    named = entry.get("id", entry.get("model", entry.get("name")))
    return isinstance(named, str) and caller.may_use(named)
