"""By what the gateways of one deployment know a request that one of them has sent: `CDN-Loop` (RFC 8586).

The name comes from the key ring, which replicas share and no two deployments do. Each key gives one: the oldest is
sent, all are known again, so that neither rotating nor retiring a key lets a request go round.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

import orjson

from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Key


class Deployment:
    """The names of one deployment, as its key ring gives them. Public: they tell nothing of the keys."""

    def __init__(self, ring: KeyRing) -> None:
        names = [b"gateway-" + public_name(key).encode() for key in ring]
        self.name = names[0] if names else b""
        """What is sent; empty without keys."""

        self._names = frozenset(names)

    def sent(self, loops: Iterable[bytes]) -> bool:
        """Whether the values of a request's `CDN-Loop` fields say that it has been here before."""
        return any(
            entry.partition(b";")[0].strip().lower() in self._names
            for value in loops
            for entry in value.split(b",")
        )


def public_name(key: Key) -> str:
    """What one key can be told from others by, and nobody learns anything of its secret from."""
    # An HMAC key has no part that others may have.
    told = key.public_jwk() or {"kid": key.kid, "at": key.created_at}
    return sha256(orjson.dumps(told, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
