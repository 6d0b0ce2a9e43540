"""Credentials built from any bytes whatever and signed by a real key, and the verifier that is to refuse them."""

import base64
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import orjson
from hypothesis import strategies as st

from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Algorithm, Key
from gateway.credentials.principal import Principal
from gateway.credentials.verifier import Verifier
from gateway.operations.scopes import Vocabulary
from gateway.settings.settings import Credentials
from tests.kit.clock import Clock

NOW = 1_800_000_000
DAY = 86400
LEEWAY = 30
LONGEST = 90 * DAY
ISSUER = "https://gateway.example"
AUDIENCE = "gateway"

KEYS = {algorithm: Key.generate(algorithm, algorithm.lower()) for algorithm in Algorithm}
RING = KeyRing(KEYS.values())
STRANGER = Key.generate(Algorithm.EDDSA, "stranger")


def new_verifier(
    ring: KeyRing = RING,
    clock: Callable[[], float] | None = None,
    revoked: Callable[[Principal], bool] | None = None,
    vocabulary: Vocabulary | None = None,
    **accepted: Any,
) -> Verifier:
    rules = Credentials(issuer=ISSUER, audience=AUDIENCE, **accepted)
    return Verifier(ring, rules, vocabulary=vocabulary, revoked=revoked, clock=clock or Clock(NOW))


def new_credential(ring: KeyRing = RING, ttl_seconds: int = DAY, **options: object) -> str:
    arguments: dict[str, object] = {
        "tenant": "acme",
        "subject": "billing",
        "scopes": ["chat.completions:write", "models:read"],
        "clock": Clock(NOW),
    }
    return issue(
        ring,
        Credentials(issuer=ISSUER, audience=AUDIENCE),
        ttl_seconds=ttl_seconds,
        **{**arguments, **options},  # type: ignore[arg-type]
    ).credential


# Forging: a credential built from any bytes whatever, signed by a real key.

CLAIMS: Mapping[str, object] = {
    "iss": ISSUER,
    "aud": AUDIENCE,
    "sub": "billing",
    "jti": "c1",
    "iat": NOW,
    "exp": NOW + DAY,
    "tenant": "acme",
    "scope": "chat.completions:write models:read",
}
ABSENT = object()


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def changed(members: Mapping[str, object], changes: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in {**members, **changes}.items() if value is not ABSENT}


def forged(
    key: Key = KEYS[Algorithm.EDDSA],
    *,
    header: Mapping[str, object] | bytes | None = None,
    payload: Mapping[str, object] | bytes | None = None,
    sign: Callable[[bytes], bytes] | None = None,
) -> str:
    """Build a credential; mappings are changes to good members, bytes are taken as they are."""
    if not isinstance(header, bytes):
        good = {"alg": key.algorithm, "kid": key.kid, "typ": "JWT"}
        header = orjson.dumps(changed(good, header or {}))
    if not isinstance(payload, bytes):
        payload = orjson.dumps(changed(CLAIMS, payload or {}))
    signed = f"{b64(header)}.{b64(payload)}"
    return f"{signed}.{b64((sign or key.sign)(signed.encode()))}"


def with_claims(**changes: object) -> str:
    return forged(payload=changes)


def with_header(**changes: object) -> str:
    return forged(header=changes)


def public_key_of(algorithm: Algorithm) -> jwt.PyJWK:
    public = KEYS[algorithm].public_jwk()
    assert public is not None
    return jwt.PyJWK(public)


GOOD = forged()
HEADER, PAYLOAD, SIGNATURE = GOOD.split(".")
FLIPPED = SIGNATURE[:10] + ("A" if SIGNATURE[10] != "A" else "B") + SIGNATURE[11:]


def json_values(
    names: st.SearchStrategy[str], words: st.SearchStrategy[str] | None = None
) -> st.SearchStrategy[object]:
    """Any JSON value whose members have these names, with these words in it."""
    return st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63)
        | st.floats()
        | st.text(max_size=20)
        | (names if words is None else words),
        lambda children: st.lists(children, max_size=4) | st.dictionaries(names, children, max_size=4),
        max_leaves=10,
    )
