"""What is issued is accepted, says what was asked for, and is refused beforehand where it would not be accepted."""

import time

import jwt
import pytest

from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Algorithm, Key, KeyProblem, KeyState
from tests.credentials.forging import (
    AUDIENCE,
    CLAIMS,
    GOOD,
    ISSUER,
    KEYS,
    LONGEST,
    NOW,
    new_credential,
    new_verifier,
)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_issued_credential_is_a_jwt_that_another_library_accepts(algorithm: Algorithm) -> None:
    ring = KeyRing([KEYS[algorithm]])
    credential = new_credential(ring, clock=time.time)
    key = jwt.PyJWK(KEYS[algorithm].public_jwk() or KEYS[algorithm].jwk())
    claims = jwt.decode(credential, key, algorithms=[algorithm], issuer=ISSUER, audience=AUDIENCE)
    assert claims["tenant"] == "acme" and claims["scope"] == "chat.completions:write models:read"


@pytest.mark.parametrize("algorithm", Algorithm)
def test_jwt_of_another_library_is_accepted(algorithm: Algorithm) -> None:
    key = jwt.PyJWK(KEYS[algorithm].jwk())
    credential = jwt.encode(dict(CLAIMS), key, algorithm, headers={"kid": algorithm.lower()})
    assert new_verifier().verify(credential).credential_id == "c1"


def test_issued_credential_says_what_was_asked_for() -> None:
    credential = new_credential(models=["gpt-4o"], ttl_seconds=600)
    principal = new_verifier().verify(credential)
    assert (principal.tenant, principal.subject, principal.models) == ("acme", "billing", ("gpt-4o",))
    assert principal.scopes == {"chat.completions:write", "models:read"}
    assert (principal.issued_at, principal.expires_at) == (NOW, NOW + 600)


def test_every_issued_credential_has_its_own_id() -> None:
    verifier = new_verifier()
    assert len({verifier.verify(new_credential()).credential_id for _ in range(20)}) == 20


@pytest.mark.parametrize(
    "wrong",
    [
        {"tenant": "../b"},
        {"tenant": ""},
        {"subject": "a\nb"},
        {"subject": "a\udcff"},
        {"ttl_seconds": 10**30},
        {"ttl_seconds": 60.5},
        {"scopes": []},
        {"scopes": ["*"]},
        {"scopes": ["models:read files:read,"]},
        {"scopes": [f"files:v{n}" for n in range(2000)]},
        {"models": ["a", ""]},
        {"ttl_seconds": 0},
        {"ttl_seconds": -1},
        {"ttl_seconds": LONGEST + 1},
    ],
    ids=str,
)
def test_what_would_be_refused_is_not_issued(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not issued"):
        new_credential(**wrong)  # type: ignore[arg-type]


def test_ring_that_cannot_sign_issues_nothing() -> None:
    public = KEYS[Algorithm.EDDSA].public_jwk()
    assert public is not None
    for ring in (KeyRing([]), KeyRing([Key.from_jwk(public)])):
        with pytest.raises(KeyProblem, match="sign"):
            new_credential(ring)


def test_ring_of_public_keys_verifies() -> None:
    public = KEYS[Algorithm.EDDSA].public_jwk()
    assert public is not None
    assert new_verifier(KeyRing([Key.from_jwk(public)])).verify(GOOD)


def test_key_that_only_verifies_does_not_sign_new_credentials() -> None:
    ring = KeyRing([Key.from_jwk({**KEYS[Algorithm.EDDSA].jwk(), "gw_state": KeyState.VERIFYING})])
    with pytest.raises(KeyProblem):
        new_credential(ring)
