"""What verified credentials say, how long they are remembered, and where a request carries one."""

from hashlib import sha256

import pytest

from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Algorithm, Key
from gateway.credentials.principal import (
    CredentialExpired,
    CredentialMalformed,
    CredentialMissing,
    CredentialNotAccepted,
    CredentialRevoked,
    Principal,
)
from gateway.credentials.verifier import bearer_from, inspect
from tests.credentials.forging import (
    DAY,
    FLIPPED,
    GOOD,
    HEADER,
    ISSUER,
    KEYS,
    LEEWAY,
    NOW,
    PAYLOAD,
    RING,
    new_credential,
    new_verifier,
    with_claims,
)
from tests.kit.clock import Clock


class CountingRing(KeyRing):
    """A ring that counts look-ups: one for every credential that is verified afresh."""

    lookups = 0

    def get(self, kid: str) -> Key | None:
        self.lookups += 1
        return super().get(kid)


def test_principal_says_what_the_claims_say() -> None:
    principal = new_verifier().verify(with_claims(models=["gpt-4o", "text-*"]))
    assert principal == Principal(
        tenant="acme",
        subject="billing",
        scopes=frozenset({"chat.completions:write", "models:read"}),
        credential_id="c1",
        issued_at=NOW,
        expires_at=NOW + DAY,
        models=("gpt-4o", "text-*"),
        issuer=ISSUER,
        key_id=KEYS[Algorithm.EDDSA].kid,
    )


# What has been verified is remembered, and no longer than it should be.


def test_verified_credential_is_remembered() -> None:
    ring = CountingRing(KEYS.values())
    verifier = new_verifier(ring)
    assert verifier.verify(GOOD) is verifier.verify(GOOD)
    assert ring.lookups == 1


def test_refused_credential_is_not_remembered() -> None:
    ring = CountingRing(KEYS.values())
    verifier = new_verifier(ring)
    for _ in range(2):
        with pytest.raises(CredentialNotAccepted):
            verifier.verify(f"{HEADER}.{PAYLOAD}.{FLIPPED}")
        with pytest.raises(CredentialExpired):
            verifier.verify(with_claims(iat=1, exp=2))
    assert ring.lookups == 4


def test_remembered_credential_expires_to_the_second() -> None:
    clock = Clock(NOW)
    ring = CountingRing(KEYS.values())
    verifier = new_verifier(ring, clock)
    verifier.verify(GOOD)
    clock.now = NOW + DAY + LEEWAY - 0.001
    verifier.verify(GOOD)
    assert ring.lookups == 1
    clock.now = NOW + DAY + LEEWAY
    for _ in range(2):
        with pytest.raises(CredentialExpired):
            verifier.verify(GOOD)


def test_memory_is_bounded_and_the_least_recently_used_goes_first() -> None:
    ring = CountingRing(KEYS.values())
    verifier = new_verifier(ring, cache_size=2)
    first, second, third = (with_claims(jti=jti) for jti in "abc")
    for credential in (first, second, first, third):
        verifier.verify(credential)
    assert ring.lookups == 3
    verifier.verify(first)
    assert ring.lookups == 3
    verifier.verify(second)
    assert ring.lookups == 4


def test_verifier_without_memory_verifies_every_time() -> None:
    ring = CountingRing(KEYS.values())
    verifier = new_verifier(ring, cache_size=0)
    verifier.verify(GOOD)
    verifier.verify(GOOD)
    assert ring.lookups == 2


def test_memory_holds_no_credential() -> None:
    verifier = new_verifier()
    verifier.verify(GOOD)
    held = repr(vars(verifier))
    assert repr(sha256(GOOD.encode()).digest()) in held
    assert not [part for part in (GOOD, *GOOD.split(".")) if part in held]


def test_forgotten_credential_is_verified_afresh() -> None:
    ring = CountingRing(KEYS.values())
    verifier = new_verifier(ring)
    verifier.verify(GOOD)
    verifier.forget()
    verifier.verify(GOOD)
    assert ring.lookups == 2


def test_credential_of_a_removed_key_is_refused_though_verified_before() -> None:
    verifier = new_verifier()
    verifier.verify(GOOD)
    verifier.use(KeyRing([KEYS[Algorithm.ES256]]))
    with pytest.raises(CredentialNotAccepted):
        verifier.verify(GOOD)
    verifier.use(RING)
    verifier.verify(GOOD)


def test_credential_of_the_key_before_is_accepted_after_rotation() -> None:
    old, new = Key.generate("EdDSA", "old", clock=lambda: 1), Key.generate("EdDSA", "new", clock=lambda: 2)
    before = new_credential(KeyRing([old]))
    verifier = new_verifier(KeyRing([old, new]))
    assert verifier.verify(before)
    assert verifier.verify(new_credential(KeyRing([old, new])))


def test_revocation_by_id_takes_effect_on_the_next_look() -> None:
    withdrawn: set[str] = set()
    verifier = new_verifier(revoked=lambda principal: principal.credential_id in withdrawn)
    verifier.verify(GOOD)
    withdrawn.add("c1")
    with pytest.raises(CredentialRevoked):
        verifier.verify(GOOD)
    verifier.verify(with_claims(jti="c2"))
    withdrawn.clear()
    verifier.verify(GOOD)


def test_revocation_of_all_that_a_tenant_had_spares_what_is_issued_later() -> None:
    verifier = new_verifier(revoked=lambda who: who.tenant == "acme" and who.issued_at < NOW)
    with pytest.raises(CredentialRevoked):
        verifier.verify(with_claims(iat=NOW - 1))
    assert verifier.verify(GOOD)
    assert verifier.verify(with_claims(iat=NOW - 1, tenant="other"))


def test_revoked_and_expired_credential_is_expired() -> None:
    with pytest.raises(CredentialExpired):
        new_verifier(revoked=lambda _: True).verify(with_claims(iat=1, exp=2))


def test_inspection_shows_claims_and_key_of_what_is_refused() -> None:
    inspection = inspect(with_claims(aud="other"), new_verifier())
    assert inspection.claims is not None and inspection.claims["aud"] == "other"
    assert inspection.header == {"alg": "EdDSA", "kid": "eddsa", "typ": "JWT"}
    assert inspection.refusal is not None and inspection.refusal.reason == "aud is not this audience alone"


def test_inspection_of_garbage_shows_nothing() -> None:
    inspection = inspect("sk-garbage", new_verifier())
    assert inspection.header is None and inspection.claims is None


# The Authorization header.


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_bearer_scheme_is_read_in_any_case(scheme: str) -> None:
    assert bearer_from([f"{scheme} {GOOD}"]) == GOOD


@pytest.mark.parametrize("values", [[], [""], [" "], ["Bearer"], ["Bearer "], ["bearer"]], ids=str)
def test_no_credential_is_missing(values: list[str]) -> None:
    with pytest.raises(CredentialMissing):
        bearer_from(values)


@pytest.mark.parametrize(
    "values",
    [
        ["Bearer a", "Bearer a"],
        ["Bearer a", ""],
        ["", "Bearer a"],
        ["Basic dXNlcjpwYXNz"],
        ["Bearer a, Bearer b"],
        ["Bearer a,b"],
        ["Bearer a b"],
        ["Bearer  a b"],
        ["Bearer \u00a0a b"],
        ["Bearer\ta"],
        ["Bearer a\tb"],
        ["BearerX a"],
        ["a.b.c"],
        ["Bearer sk-proj-abc"],
    ],
    ids=str,
)
def test_anything_but_one_bearer_credential_is_malformed(values: list[str]) -> None:
    with pytest.raises(CredentialMalformed):
        bearer_from(values)


@pytest.mark.parametrize("value", ["Bearer a", "Bearer  a", "bearer   a ", "BEARER \ta"])
def test_blanks_around_a_credential_are_none_of_it(value: str) -> None:
    assert bearer_from([value]) == "a"


def test_upstream_api_key_is_told_apart_and_not_quoted() -> None:
    with pytest.raises(CredentialMalformed, match="API key of the upstream") as refused:
        bearer_from(["Bearer sk-proj-canary"])
    assert "canary" not in refused.value.reason
