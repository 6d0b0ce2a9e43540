"""JWT-SVIDs, as SPIRE and others make them: what the standard leaves out picks no other issuer, and widens nothing."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.credentials.issuers import Issuer
from gateway.credentials.keys import Algorithm, Key
from gateway.credentials.principal import Check, CredentialError, CredentialExpired, CredentialNotAccepted
from gateway.credentials.revocations import Revocation, RevocationList, moment_for
from gateway.credentials.spiffe import trust_domain_of
from gateway.credentials.verifier import Verifier
from tests.credentials.forging import ABSENT, LEEWAY, NOW
from tests.credentials.test_issuers import LOGIN, LOGIN_KEY, issuer_of, signed, verifier_of

WORKLOAD = "spiffe://example.org/ns/search/sa/indexer"
SPIRE: dict[str, Any] = {
    "issuer": None,
    "spiffe_trust_domain": "example.org",
    "tenants": [],
    "max_lifetime_seconds": 3600,
    "subjects": {"spiffe://example.org/ns/search/sa/*": {"tenant": "search", "scopes": ["models:read"]}},
}


def spire(**more: Any) -> Issuer:
    return issuer_of(**{**SPIRE, **more})


def svid(header: dict[str, object] | None = None, **changes: object) -> str:
    """As SPIRE makes one where no `jwt_issuer` is set."""
    claims = {
        **dict.fromkeys(("iss", "jti", "tenant", "scope"), ABSENT),
        "aud": ["gateway"],
        "sub": WORKLOAD,
        "iat": NOW,
        "exp": NOW + 300,
        **changes,
    }
    return signed(claims=claims, header={"typ": "JWT", **(header or {})})


def refusal(verifier: Verifier, credential: str) -> CredentialError:
    with pytest.raises(CredentialError) as refused:
        verifier.verify(credential)
    return refused.value


@pytest.mark.parametrize("typ", ["JWT", "JOSE", ABSENT])
def test_svid_without_issuer_is_known_by_the_trust_domain_of_its_subject(typ: object) -> None:
    principal = verifier_of(spire()).verify(svid({"typ": typ}))
    assert (principal.tenant, principal.subject, principal.issuer, principal.scopes) == (
        "search",
        WORKLOAD,
        "spiffe://example.org",
        frozenset({"models:read"}),
    )


def test_svid_with_an_issuer_is_known_by_that_alone() -> None:
    with_issuer = svid(iss=LOGIN)
    assert refusal(verifier_of(spire()), with_issuer).check is Check.ISSUER
    assert verifier_of(spire()).verify(svid(iss="spiffe://example.org")).subject == WORKLOAD
    both = verifier_of(spire(issuer=LOGIN))
    assert both.verify(with_issuer).issuer == both.verify(svid()).issuer == LOGIN
    for iss in ("", None, "https://other.example", "example.org", ["spiffe://example.org"]):
        assert refusal(both, svid(iss=iss)).check is Check.ISSUER


@pytest.mark.parametrize(
    "sub",
    [
        "spiffe://other.org/ns/search/sa/indexer",
        "spiffe://EXAMPLE.org/ns/search/sa/indexer",
        "SPIFFE://example.org/ns/search/sa/indexer",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/ns/search/sa/indexer/",
        "spiffe://example.org//ns/search/sa/indexer",
        "spiffe://example.org/ns/../ns/search/sa/indexer",
        "spiffe://example.org/./search/sa/indexer",
        "spiffe://example.org/ns/search/sa/..",
        "spiffe://example.org/ns/search/sa/ind%65xer",
        "spiffe://example.org:443/ns/search/sa/indexer",
        "spiffe://user@example.org/ns/search/sa/indexer",
        "spiffe://example.org/ns/search/sa/indexer?x",
        "spiffe://example.org/ns/search/sa/indexer#x",
        "spiffe://example.org/ns/search/sa/indexer\n",
        "spiffe://ex\u0430mple.org/ns/search/sa/indexer",
        "system:serviceaccount:search:indexer",
        "example.org",
        "",
        None,
        ["spiffe://example.org/ns/search/sa/indexer"],
        ABSENT,
    ],
)
def test_subject_that_is_no_workload_of_the_trust_domain_is_refused(sub: object) -> None:
    everybody = {"spiffe://example.org/**": {"tenant": "acme", "scopes": ["models:read"]}}
    for issuer in (
        spire(),
        spire(subjects=everybody),
        spire(subjects={}, tenant="acme", claims={"scopes": ""}),
    ):
        assert refusal(verifier_of(issuer), svid(sub=sub)).check in (Check.ISSUER, Check.SUBJECT)
    # Who has the issuer's name says no more with it.
    named = verifier_of(spire(issuer=LOGIN, subjects=everybody))
    assert refusal(named, svid(sub=sub, iss=LOGIN)).check in (Check.SUBJECT, Check.CLAIMS)


def test_each_trust_domain_has_keys_of_its_own() -> None:
    other = spire(
        keys=(Key.generate(Algorithm.ES256, LOGIN_KEY.kid),),
        spiffe_trust_domain="other.org",
        subjects={"spiffe://other.org/**": {"tenant": "acme", "scopes": ["models:read"]}},
    )
    verifier = verifier_of(spire(), other, issuer_of())
    assert verifier.verify(svid())
    forged = svid(sub="spiffe://other.org/ns/search/sa/indexer")
    assert refusal(verifier, forged).check is Check.SIGNATURE


def test_issuer_without_a_trust_domain_needs_both_claims_as_ever() -> None:
    verifier = verifier_of(issuer_of())
    assert refusal(verifier, signed(claims={"iss": ABSENT})).check is Check.ISSUER
    assert refusal(verifier, signed(claims={"iss": ABSENT, "sub": WORKLOAD})).check is Check.ISSUER
    assert refusal(verifier, signed(claims={"iat": ABSENT})).check is Check.CLAIMS


def test_without_iat_the_expiry_is_as_near_as_a_lifetime_may_be() -> None:
    verifier = verifier_of(spire())
    assert verifier.verify(svid(iat=ABSENT)).expires_at == NOW + 300
    assert verifier.verify(svid(iat=ABSENT, exp=NOW + 3600.125)).expires_at == NOW + 3600.125
    assert refusal(verifier, svid(iat=ABSENT, exp=NOW + 3600 + LEEWAY + 1)).check is Check.LIFETIME
    assert refusal(verifier, svid(iat=ABSENT, exp=2**62)).check is Check.LIFETIME
    assert isinstance(refusal(verifier, svid(iat=ABSENT, exp=NOW - LEEWAY - 1)), CredentialExpired)
    assert isinstance(refusal(verifier, svid(iat=None)), CredentialNotAccepted)
    assert refusal(verifier, svid(iat=NOW, exp=NOW + 3601)).check is Check.LIFETIME


def test_without_iat_nothing_escapes_a_revocation_of_its_subject() -> None:
    principal = verifier_of(spire()).verify(svid(iat=ABSENT))
    revocations = RevocationList()
    before = moment_for(NOW, LEEWAY)
    revocations.replace(
        [Revocation(tenant="search", subject=WORKLOAD, before=before, until=int(NOW) + 9999)], NOW
    )
    assert revocations.check(principal)


def test_trust_domain_is_that_of_a_workload_alone() -> None:
    assert trust_domain_of(WORKLOAD) == "example.org"
    assert trust_domain_of("spiffe://a_b-c.d/x") == "a_b-c.d"
    assert trust_domain_of("spiffe://example.org/...") == "example.org"
    assert trust_domain_of("spiffe://example.org/.hidden") == "example.org"
