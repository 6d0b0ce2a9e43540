"""Login servers and platforms that give out credentials, in the shapes of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import jwt
import orjson

from gateway.credentials.keys import Algorithm, Key

RSA, EC = Key.generate(Algorithm.RS256, "rsa"), Key.generate(Algorithm.ES256, "ec")


@dataclass(frozen=True)
class Login:
    """How a login server signs, and what an operator writes down of it."""

    issuer: str | None
    """None: its credentials have no `iss`."""

    key: Key
    kid: str
    header: Mapping[str, object]
    """Beside `alg` and `kid`."""

    claims: Mapping[str, object]
    """Beside `iss` and the times."""

    settings: Mapping[str, object]
    of_key: Mapping[str, object] = field(default_factory=dict)
    """What its published key says beside the key."""

    times: Callable[[float], Mapping[str, object]] = lambda now: {"iat": int(now), "exp": int(now) + 300}
    tenant: str = "acme"
    subject: str = ""
    scopes: frozenset[str] = frozenset({"models:read", "chat.completions:write"})

    def published(self) -> bytes:
        jwk = {**(self.key.public_jwk() or {}), "kid": self.kid, **self.of_key}
        # Most publish keys of other uses and kinds beside it.
        other = {
            **(Key.generate(Algorithm.RS256, "other").public_jwk() or {}),
            "use": "enc",
            "alg": "RSA-OAEP",
        }
        return orjson.dumps(
            {"keys": [other, {name: value for name, value in jwk.items() if value is not None}]}
        )

    def credential(self, **changes: object) -> str:
        named = {} if self.issuer is None else {"iss": self.issuer}
        claims = {**named, **self.times(time.time()), **self.claims, **changes}
        signing = jwt.PyJWK(self.key.jwk())
        # None takes the `typ` away that the library would set.
        return jwt.encode(
            claims, signing, self.key.algorithm, headers={"kid": self.kid, "typ": None, **self.header}
        )
