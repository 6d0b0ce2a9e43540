"""What is issued is accepted, says what was asked for, and is refused beforehand where it would not be accepted."""

import time
from typing import Any

import jwt
import pytest

from gateway.credentials import jws
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Algorithm, Key, KeyProblem, KeyState
from gateway.credentials.principal import CredentialNotAccepted
from gateway.operations.scopes import GROUPS, Vocabulary
from gateway.operations.table import OperationTable
from gateway.wire.strict_json import strict_object
from tests.credentials.forging import (
    AUDIENCE,
    CLAIMS,
    GOOD,
    ISSUER,
    KEYS,
    LONGEST,
    NOW,
    forged,
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
        {"scopes": ["inferense"]},
        {"scopes": ["models:read", "nothing:*"]},
        {"scopes": ["models:read files:read,"]},
        pytest.param({"scopes": [f"files:v{n}" for n in range(2000)]}, id="too long"),
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


AT_FIRST = {name: {1: patterns[1]} for name, patterns in GROUPS.items()}
THEN = Vocabulary(
    dict.fromkeys(("chat.completions:write", "files:read", "files:write", "models:read"), 1), AT_FIRST
)
NOW_MORE = Vocabulary(
    {**THEN.since, "files.parts:read": 2, "later:write": 2},
    {**AT_FIRST, "inference": {**AT_FIRST["inference"], 2: ("later:write",)}},
)
READING = {"files:read", "models:read"}


def claims_of(credential: str) -> dict[str, Any]:
    return strict_object(jws.split(credential.encode()).payload)


def of_version(version: object, scope: str) -> str:
    return forged(payload={"scope": scope, "scope_version": version})


def test_groups_and_patterns_stay_what_they_are_and_scopes_that_they_hold_go() -> None:
    wanted = ["models:read", "files:write", "read-only", "files:*", "unlisted:write", "read-only"]
    credential = new_credential(scopes=wanted, vocabulary=THEN)
    claims = claims_of(credential)
    assert (claims["scope"], claims["scope_version"]) == ("files:* read-only unlisted:write", 1)
    principal = new_verifier(vocabulary=THEN).verify(credential)
    assert principal.scopes == {"files:read", "files:write", "models:read", "unlisted:write"}


def test_credential_of_everything_is_short_whatever_there_is() -> None:
    ring = KeyRing([KEYS[Algorithm.EDDSA]])
    assert len(new_credential(ring, scopes=["*"])) < 500
    assert len(new_credential(ring, scopes=OperationTable.load().scopes)) > 2000


def test_credential_of_scopes_alone_names_no_version_so_that_every_gateway_reads_it() -> None:
    claims = claims_of(new_credential(scopes=["models:read", "chat.completions:write"]))
    assert claims["scope"] == "chat.completions:write models:read"
    assert "scope_version" not in claims


@pytest.mark.parametrize(
    ("scope", "then", "later"),
    [
        ("*", set(THEN.since), {"files.parts:read", "later:write"}),
        ("read-only", READING, {"files.parts:read"}),
        ("*:write", {"chat.completions:write", "files:write"}, {"later:write"}),
        ("inference", {"chat.completions:write", "models:read"}, {"later:write"}),
    ],
)
def test_what_came_later_never_widens_a_credential_of_before(
    scope: str, then: set[str], later: set[str]
) -> None:
    credential = new_credential(scopes=[scope], vocabulary=THEN)
    assert new_verifier(vocabulary=THEN).verify(credential).scopes == then
    assert new_verifier(vocabulary=NOW_MORE).verify(credential).scopes == then
    anew = new_credential(scopes=[scope], vocabulary=NOW_MORE)
    assert new_verifier(vocabulary=NOW_MORE).verify(anew).scopes == then | later


def test_gateway_that_is_not_as_new_as_a_credential_grants_what_it_knows_of_it() -> None:
    credential = new_credential(scopes=["*"], vocabulary=NOW_MORE)
    assert new_verifier(vocabulary=THEN).verify(credential).scopes == set(THEN.since)
    unknown = of_version(7, "a-group-of-later models:read later:*")
    assert new_verifier(vocabulary=THEN).verify(unknown).scopes == {"models:read"}


def test_spelled_out_scopes_of_before_mean_themselves() -> None:
    credential = forged(payload={"scope": "models:read later:write"})
    assert new_verifier(vocabulary=THEN).verify(credential).scopes == {"models:read", "later:write"}


@pytest.mark.parametrize("version", [0, -1, 1.0, "1", True, None, [1]], ids=repr)
def test_version_that_is_none_is_refused(version: object) -> None:
    with pytest.raises(CredentialNotAccepted, match="scope_version is not a version"):
        new_verifier().verify(of_version(version, "inference"))


@pytest.mark.parametrize(
    "scope", ["", " ", "inference ", "inference  *", "a,b", "Inference", "**", "a:b:c"], ids=repr
)
def test_words_of_another_form_are_refused_beside_a_version_too(scope: str) -> None:
    with pytest.raises(CredentialNotAccepted, match="scope must be"):
        new_verifier().verify(of_version(1, scope))


@pytest.mark.parametrize("scope", ["inference", "*", "files:*", "models:read *"])
def test_patterns_and_groups_without_a_version_are_refused(scope: str) -> None:
    with pytest.raises(CredentialNotAccepted, match="scope must be scopes"):
        new_verifier().verify(forged(payload={"scope": scope}))


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
