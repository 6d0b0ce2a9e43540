"""Where a realtime secret stands in the answer that brings one. Pure."""

from __future__ import annotations

import orjson


def find_secret(body: bytes) -> tuple[str, float | None] | None:
    """The secret and when it expires, where that is said; None where no secret could be replaced."""
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    holder = document.get("client_secret", document) if isinstance(document, dict) else None
    if not isinstance(holder, dict):
        return None
    secret, expires_at = holder.get("value"), holder.get("expires_at")
    if not isinstance(secret, str) or not secret or orjson.dumps(secret) not in body:
        return None  # or it is spelled in a way that cannot be replaced
    return secret, float(expires_at) if isinstance(expires_at, int | float) else None
