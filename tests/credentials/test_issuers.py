"""Each issuer is held to its own keys, claims and ceiling; one issuer's word is nothing for another."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.credentials.claims import claim_path
from gateway.credentials.configured_issuers import other_issuers
from gateway.credentials.issue import issue
from gateway.credentials.issuers import Issuer
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Algorithm, Key
from gateway.credentials.principal import (
    CredentialError,
    CredentialExpired,
    CredentialMalformed,
    CredentialNotAccepted,
    Principal,
)
from gateway.credentials.verifier import Verifier
from gateway.operations.scopes import Vocabulary
from gateway.settings.issuer import IssuerSettings
from gateway.settings.section import SettingsInvalid
from gateway.settings.settings import Credentials
from gateway.settings.sources import load
from tests.credentials.forging import ABSENT, DAY, LEEWAY, NOW, b64, changed, json_values

OWN, AUDIENCE = "https://gateway.example", "gateway"
LOGIN, ROBOTS = "https://login.example/", "https://robots.example"
KNOWN = frozenset(
    {
        "chat.completions:write",
        "embeddings:write",
        "files:read",
        "models:read",
        "org.users:read",
        "unlisted:read",
        "usage:read",
    }
)

OURS = Key.generate(Algorithm.EDDSA, "k1")
THEIRS = {algorithm: Key.generate(algorithm, f"{algorithm}".lower()) for algorithm in Algorithm}
LOGIN_KEY = Key.generate(Algorithm.ES256, "k1")
ROBOT_KEY = Key.generate(Algorithm.EDDSA, "k1")
SECRET = THEIRS[Algorithm.HS256]
RING = KeyRing([OURS])

CLAIMS: Mapping[str, object] = {
    "iss": LOGIN,
    "aud": AUDIENCE,
    "sub": "alice",
    "jti": "j1",
    "iat": NOW,
    "exp": NOW + 3600,
    "tenant": "acme",
    "scope": "openid chat.completions:write email models:read",
}


def signed(
    key: Key = LOGIN_KEY,
    claims: Mapping[str, object] | None = None,
    header: Mapping[str, object] | None = None,
    signature: bytes | None = None,
) -> str:
    """A credential of LOGIN; arguments are changes to a good one."""
    good = {"alg": key.algorithm, "kid": key.kid, "typ": "at+jwt"}
    head = b64(orjson.dumps(changed(good, header or {})))
    content = f"{head}.{b64(orjson.dumps(changed(CLAIMS, claims or {})))}"
    return f"{content}.{b64(signature if signature is not None else key.sign(content.encode()))}"


def public(*keys: Key) -> list[dict[str, Any]]:
    return [jwk for key in keys if (jwk := key.public_jwk()) is not None]


def issuer_of(keys: tuple[Key, ...] = (LOGIN_KEY,), **more: object) -> Issuer:
    configured: dict[str, Any] = {
        "issuer": LOGIN,
        "audience": AUDIENCE,
        "jwks": public(*keys),
        "tenants": ["acme", "beta"],
        "scopes": ["*"],
        **more,
    }
    return built(IssuerSettings.model_validate(configured))


def built(configured: IssuerSettings) -> Issuer:
    [issuer] = other_issuers(
        {"login": configured},
        own_name=OWN,
        vocabulary=Vocabulary(dict.fromkeys(KNOWN, 1)),
        keys_from_url=lambda _n, _s: KeyRing([]),
    )
    return issuer


def verifier_of(*others: Issuer, **options: Any) -> Verifier:
    return Verifier(
        RING,
        Credentials(issuer=OWN, audience=AUDIENCE, **{"cache_size": 100, **options}),
        others=others,
        clock=lambda: NOW,
    )


def verified(credential: str, **settings_of_issuer: object) -> Principal:
    return verifier_of(issuer_of(**settings_of_issuer)).verify(credential)  # type: ignore[arg-type]


def own_credential(**more: Any) -> str:
    return issue(
        RING,
        Credentials(issuer=OWN, audience=AUDIENCE),
        **{"tenant": "acme", "subject": "svc", "scopes": ["models:read"], "ttl_seconds": 60, **more},
        clock=lambda: NOW,
    ).credential


# Keys and names.


def test_own_and_other_issuers_are_verified_side_by_side() -> None:
    robots = issuer_of((ROBOT_KEY,), issuer=ROBOTS)
    verifier = verifier_of(issuer_of(), robots)
    assert verifier.verify(own_credential()).subject == "svc"
    assert verifier.verify(signed()).subject == "alice"
    assert verifier.verify(signed(ROBOT_KEY, {"iss": ROBOTS, "sub": "r2"})).subject == "r2"


@pytest.mark.parametrize("claimed", [OWN, LOGIN, ROBOTS])
@pytest.mark.parametrize("key", [OURS, LOGIN_KEY, ROBOT_KEY], ids=["ours", "login's", "robots'"])
def test_key_counts_for_its_own_issuer_only_whatever_its_kid(claimed: str, key: Key) -> None:
    """All three keys are called k1."""
    verifier = verifier_of(issuer_of(), issuer_of((ROBOT_KEY,), issuer=ROBOTS))
    credential = signed(key, {"iss": claimed, "scope": "models:read"})
    if {OWN: OURS, LOGIN: LOGIN_KEY, ROBOTS: ROBOT_KEY}[claimed] is key:
        assert verifier.verify(credential)
    else:
        with pytest.raises(CredentialNotAccepted):
            verifier.verify(credential)


@pytest.mark.parametrize(
    "iss", [LOGIN[:-1], LOGIN + "x", LOGIN.upper(), "", None, [LOGIN], {LOGIN: 1}, 1, ABSENT]
)
def test_issuer_is_known_by_its_exact_name(iss: object) -> None:
    with pytest.raises(CredentialNotAccepted, match="iss"):
        verified(signed(claims={"iss": iss}))


def test_two_issuers_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="same name"):
        verifier_of(issuer_of(), issuer_of())


def test_issuer_no_longer_trusted_is_refused_though_verified_before() -> None:
    other = issuer_of()
    verifier = verifier_of(other)
    verifier.verify(signed())
    verifier.trust(RING, Credentials(issuer=OWN, audience=AUDIENCE), [])
    with pytest.raises(CredentialNotAccepted):
        verifier.verify(signed())


def test_change_of_our_own_keys_leaves_other_issuers_alone() -> None:
    verifier = verifier_of(issuer_of())
    verifier.use(KeyRing([]))
    assert verifier.verify(signed())
    with pytest.raises(CredentialNotAccepted):
        verifier.verify(own_credential())


@pytest.mark.parametrize("algorithm", [Algorithm.EDDSA, Algorithm.ES256, Algorithm.RS256])
def test_every_asymmetric_algorithm_works_also_for_keys_that_do_not_name_it(algorithm: Algorithm) -> None:
    key = THEIRS[algorithm]
    [jwk] = public(key)
    del jwk["alg"], jwk["use"]
    assert verified(signed(key), keys=(), jwks=[jwk])


def test_algorithm_beyond_those_allowed_is_refused() -> None:
    with pytest.raises(CredentialNotAccepted, match="alg"):
        verified(signed(), algorithms=["EdDSA"])


def test_kids_in_base64_are_taken_from_others_and_never_from_ourselves() -> None:
    key = Key.generate(Algorithm.EDDSA, "x")
    [jwk] = public(key)
    jwk["kid"] = "ab+/cd=="
    assert verified(signed(key, header={"kid": "ab+/cd=="}), keys=(), jwks=[jwk])
    with pytest.raises(CredentialNotAccepted, match="kid is not the name of a key"):
        verifier_of().verify(signed(OURS, {"iss": OWN}, {"kid": "ab+/cd=="}))


def test_hmac_secret_counts_only_from_a_file_and_only_when_allowed(tmp_path: Any) -> None:
    file = tmp_path / "set.json"
    file.write_bytes(orjson.dumps({"keys": [SECRET.jwk()]}))
    file.chmod(0o600)

    def from_file(**more: object) -> Verifier:
        issuer = {"issuer": LOGIN, "audience": AUDIENCE, "tenants": ["acme"], "scopes": ["*"]} | more
        read = load(flags={"issuers": {"login": {**issuer, "jwks_file": str(file)}}}, environ={})
        return verifier_of(built(read.issuers["login"]))

    assert from_file(algorithms=["HS256"]).verify(signed(SECRET))
    with pytest.raises(CredentialNotAccepted, match="alg"):
        from_file().verify(signed(SECRET))
    file.chmod(0o604)
    assert from_file(algorithms=["HS256"]).verify(signed(SECRET))  # of which a start warns
    file.chmod(0o602)
    with pytest.raises(SettingsInvalid, match="chmod o-w"):
        from_file(algorithms=["HS256"])


# The rules of every issuer hold for others too.

REFUSED: dict[str, tuple[str, type[CredentialError]]] = {
    "three parts missing": ("a.b", CredentialMalformed),
    "signature of nobody": (signed(signature=b"\0" * 64), CredentialNotAccepted),
    "signature empty": (signed(signature=b""), CredentialNotAccepted),
    "alg none": (signed(header={"alg": "none"}, signature=b""), CredentialNotAccepted),
    "alg of another family": (signed(header={"alg": "HS256"}), CredentialNotAccepted),
    "kid unknown": (signed(header={"kid": "k2"}), CredentialNotAccepted),
    "kid missing": (signed(header={"kid": ABSENT}), CredentialNotAccepted),
    "kid too long": (signed(header={"kid": "k" * 129}), CredentialNotAccepted),
    "typ a number": (signed(header={"typ": 1}), CredentialNotAccepted),
    "typ of a logout token": (signed(header={"typ": "logout+jwt"}), CredentialNotAccepted),
    "typ of an ID token": (signed(header={"typ": "id+jwt"}), CredentialNotAccepted),
    "header jwk": (signed(header={"jwk": public(LOGIN_KEY)[0]}), CredentialNotAccepted),
    "header crit": (signed(header={"crit": ["exp"]}), CredentialNotAccepted),
    "aud of another": (signed(claims={"aud": "account"}), CredentialNotAccepted),
    "aud a list of others": (
        signed(claims={"aud": ["account", AUDIENCE + "s", None]}),
        CredentialNotAccepted,
    ),
    "aud an empty list": (signed(claims={"aud": []}), CredentialNotAccepted),
    "aud a list in a list": (signed(claims={"aud": [[AUDIENCE]]}), CredentialNotAccepted),
    "aud an object": (signed(claims={"aud": {AUDIENCE: AUDIENCE}}), CredentialNotAccepted),
    "aud ours in a longer text": (signed(claims={"aud": f"{AUDIENCE} account"}), CredentialNotAccepted),
    "iat missing": (signed(claims={"iat": ABSENT}), CredentialNotAccepted),
    "iat future": (signed(claims={"iat": NOW + LEEWAY + 1}), CredentialNotAccepted),
    "exp missing": (signed(claims={"exp": ABSENT}), CredentialNotAccepted),
    "exp true": (signed(claims={"exp": True}), CredentialNotAccepted),
    "exp far beyond numbers": (signed(claims={"exp": 1e308}), CredentialNotAccepted),
    "iat far before numbers": (signed(claims={"iat": -1e308}), CredentialNotAccepted),
    "iat future by a fraction": (signed(claims={"iat": NOW + LEEWAY + 0.5}), CredentialNotAccepted),
    "exp a string": (signed(claims={"exp": str(NOW + 60)}), CredentialNotAccepted),
    "exp after the longest lifetime": (signed(claims={"exp": NOW + DAY + 1}), CredentialNotAccepted),
    "nbf future": (signed(claims={"nbf": NOW + LEEWAY + 1}), CredentialNotAccepted),
    "sub missing": (signed(claims={"sub": ABSENT}), CredentialNotAccepted),
    "sub with newline": (signed(claims={"sub": "a\nb"}), CredentialNotAccepted),
    "jti a number": (signed(claims={"jti": 7}), CredentialNotAccepted),
    "jti null": (signed(claims={"jti": None}), CredentialNotAccepted),
    "tenant missing": (signed(claims={"tenant": ABSENT}), CredentialNotAccepted),
    "tenant of others": (signed(claims={"tenant": "gamma"}), CredentialNotAccepted),
    "tenant a pattern": (signed(claims={"tenant": "*"}), CredentialNotAccepted),
    "tenant a list": (signed(claims={"tenant": ["acme"]}), CredentialNotAccepted),
    "tenant a path": (signed(claims={"tenant": "../acme"}), CredentialNotAccepted),
    "scope missing": (signed(claims={"scope": ABSENT}), CredentialNotAccepted),
    "scope a number": (signed(claims={"scope": 1}), CredentialNotAccepted),
    "scope of very many patterns": (
        signed(claims={"scope": [f"a{n}.*" for n in range(65)]}),
        CredentialNotAccepted,
    ),
    "scope a list of numbers": (signed(claims={"scope": [1]}), CredentialNotAccepted),
    "models a number": (signed(claims={"models": 1}), CredentialNotAccepted),
    "models with newline": (signed(claims={"models": ["a\n"]}), CredentialNotAccepted),
    "expired": (signed(claims={"iat": NOW - 7200, "exp": NOW - LEEWAY}), CredentialExpired),
}


@pytest.mark.parametrize("case", REFUSED)
def test_credential_of_another_issuer_is_refused(case: str) -> None:
    """The first word of a case not accepted is what the reason has to name."""
    credential, expected = REFUSED[case]
    with pytest.raises(CredentialError) as refused:
        verified(credential)
    assert type(refused.value) is expected
    if expected is CredentialNotAccepted:
        assert case.split()[0] in refused.value.reason.split(), refused.value.reason


def test_untyped_credential_is_taken_where_the_operator_says_so() -> None:
    credential = signed(header={"typ": ABSENT})
    assert verified(credential, types=["absent"])
    with pytest.raises(CredentialNotAccepted, match="typ"):
        verified(signed(), types=["absent"])
    with pytest.raises(CredentialNotAccepted, match="typ"):
        verified(signed(header={"typ": "JWT"}), types=["at+jwt"])


@pytest.mark.parametrize("typ", [ABSENT, "", "JWT", "jwt", "at+jwt", "application/at+jwt", "JOSE", "jose"])
def test_types_of_login_servers_are_taken_without_a_word_of_the_operator(typ: object) -> None:
    assert verified(signed(header={"typ": typ}))


def test_any_type_is_taken_that_the_operator_lists_and_then_no_other() -> None:
    assert verified(signed(header={"typ": "Robot+JWT"}), types=["application/robot+jwt"])
    with pytest.raises(CredentialNotAccepted, match="typ"):
        verified(signed(), types=["robot+jwt"])


@pytest.mark.parametrize("audience", [[AUDIENCE, "account"], ["https://a.example", AUDIENCE, 7], [AUDIENCE]])
def test_audience_may_be_one_of_a_list_unless_the_operator_wants_it_alone(audience: list[object]) -> None:
    credential = signed(claims={"aud": audience})
    assert verified(credential)
    if audience == [AUDIENCE]:
        assert verified(credential, audience_lists=False)
        return
    with pytest.raises(CredentialNotAccepted, match="aud is not this audience alone"):
        verified(credential, audience_lists=False)


def test_audience_of_our_own_credentials_is_never_one_of_several() -> None:
    with pytest.raises(CredentialNotAccepted, match="aud is not this audience alone"):
        verifier_of().verify(signed(OURS, {"iss": OWN, "scope": "models:read", "aud": [AUDIENCE, "other"]}))


def test_times_may_have_fractions_but_not_in_our_own_credentials() -> None:
    times = {"iat": NOW - 0.25, "nbf": NOW - 0.5, "exp": NOW + 59.75}
    principal = verified(signed(claims=times))
    assert (principal.issued_at, principal.expires_at) == (NOW - 0.25, NOW + 59.75)
    with pytest.raises(CredentialNotAccepted, match="iat is not whole unix seconds"):
        verifier_of().verify(signed(OURS, {"iss": OWN, "scope": "models:read", **times}))


def test_longest_lifetime_is_each_issuers_own() -> None:
    with pytest.raises(CredentialNotAccepted, match="exp"):
        verified(signed(), max_lifetime_seconds=3599)
    assert verified(signed(), max_lifetime_seconds=3600)


# Claims.


def test_principal_says_what_the_mapped_claims_say() -> None:
    credential = signed(
        claims={
            "https://login.example/tenant.id": "beta",
            "realm_access": {"roles": ["files:read", "offline_access", "models:read"]},
            "client": {"name": "batch"},
            "allowed": ["gpt-4o", "text-*"],
        }
    )
    principal = verified(
        credential,
        claims={
            "tenant": "https://login.example/tenant.id",
            "subject": "client.name",
            "scopes": "realm_access.roles",
            "models": "allowed",
        },
    )
    assert principal == Principal(
        tenant="beta",
        subject="batch",
        scopes=frozenset({"files:read", "models:read"}),
        credential_id="j1",
        issued_at=NOW,
        expires_at=NOW + 3600,
        models=("gpt-4o", "text-*"),
        issuer=LOGIN,
        key_id="k1",
    )


@pytest.mark.parametrize(
    "org", ["acme", ["acme"], [{"id": "acme"}], {"id": {"id": "acme"}}, {"ID": "acme"}, None, {}], ids=repr
)
def test_nested_claim_that_is_not_there_is_refused(org: object) -> None:
    with pytest.raises(CredentialNotAccepted, match=r"org\.id"):
        verified(signed(claims={"org": org}), claims={"tenant": "org.id"})


def test_dotted_name_never_means_a_claim_with_a_dot() -> None:
    """Whoever may write claims at the top must not be able to stand in for a nested one."""
    with pytest.raises(CredentialNotAccepted):
        verified(signed(claims={"org.id": "acme"}), claims={"tenant": "org.id"})
    assert claim_path("org.id") == ("org", "id")
    for name in ("https://a.example/b.c", "a.example/tenant", "urn:a.b"):
        assert claim_path(name) == (name,)


def test_list_of_names_leads_to_a_claim_whatever_those_are_called() -> None:
    claims = {
        "kubernetes.io": {"namespace": "acme", "serviceaccount": {"name": "batch"}},
        "resource_access": {"my.client/a:b": {"roles": ["models:read"]}},
    }
    principal = verified(
        signed(claims=claims),
        claims={
            "tenant": ["kubernetes.io", "namespace"],
            "subject": ["kubernetes.io", "serviceaccount", "name"],
            "scopes": ["resource_access", "my.client/a:b", "roles"],
        },
    )
    assert (principal.tenant, principal.subject) == ("acme", "batch")
    assert principal.scopes == {"models:read"}
    with pytest.raises(CredentialNotAccepted, match=r"kubernetes\.io\.namespace"):
        verified(signed(), claims={"tenant": ["kubernetes.io", "namespace"]})


@pytest.mark.parametrize("name", [[], [""], "", 7, ["a", 7], ["a"] * 17, {"a": "b"}, None, "a" * 257])
def test_path_that_leads_nowhere_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="expected the name of a claim"):
        IssuerSettings.model_validate({**GOOD, "claims": {"tenant": name}})


def test_fixed_tenant_is_the_tenant_whatever_the_claim_says() -> None:
    principal = verified(signed(claims={"tenant": "beta"}), tenant="robots", tenants=[])
    assert principal.tenant == "robots"


def test_star_among_tenants_means_any_but_only_of_tenant_ids() -> None:
    assert verified(signed(claims={"tenant": "gamma"}), tenants=["*"]).tenant == "gamma"
    with pytest.raises(CredentialNotAccepted):
        verified(signed(claims={"tenant": "*"}), tenants=["*"])


def test_issuer_without_scopes_of_its_own_grants_all_that_it_may() -> None:
    credential = signed(claims={"scope": ABSENT})
    principal = verified(credential, claims={"scopes": ""}, scopes=["files:*", "models:read"])
    assert principal.scopes == {"files:read", "models:read"}


def test_credential_without_jti_is_known_by_what_was_signed() -> None:
    first, second = signed(claims={"jti": ABSENT}), signed(claims={"jti": ABSENT, "sub": "bob"})
    named, other = verified(first), verified(second)
    assert named.credential_id.startswith("sha256:") and len(named.credential_id) == 39
    assert named.credential_id != other.credential_id
    with pytest.raises(CredentialNotAccepted, match="jti"):
        verified(first, require_jti=True)


def test_second_signature_over_the_same_words_is_the_same_credential() -> None:
    """Of an ECDSA signature (r, s) anybody can make (r, -s), which is valid too: it must not escape revocation."""
    credential = signed(claims={"jti": ABSENT})
    content, _, signature = credential.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    flipped = raw[:32] + (order - int.from_bytes(raw[32:], "big")).to_bytes(32, "big")
    again = f"{content}.{b64(flipped)}"
    assert again != credential
    assert verified(again).credential_id == verified(credential).credential_id


# The ceiling.


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (["*"], {"chat.completions:write", "models:read"}),
        (["*:read"], {"models:read"}),
        (["inference"], {"chat.completions:write", "models:read"}),
        (["files:read"], set()),
    ],
    ids=["everything", "reading", "a group", "nothing of it"],
)
def test_scopes_beyond_the_ceiling_are_left_out(most: list[str], expected: set[str]) -> None:
    assert verified(signed(), scopes=most).scopes == expected


def test_scopes_granted_by_name_only_are_beyond_a_star() -> None:
    credential = signed(claims={"scope": "org.users:read unlisted:read usage:read models:read"})
    assert verified(credential).scopes == {"models:read"}
    assert verified(credential, scopes=["*", "org.*"]).scopes == {"models:read", "org.users:read"}
    assert verified(credential, scopes=["usage:read"]).scopes == {"usage:read"}


@pytest.mark.parametrize("spelled", [str, str.split], ids=["text", "list"])
@pytest.mark.parametrize(
    ("claimed", "most", "expected"),
    [
        ("inference", ["*"], {"chat.completions:write", "embeddings:write", "models:read"}),
        ("openid inference email", ["models:read"], {"models:read"}),
        ("files:* models:read", ["*"], {"files:read", "models:read"}),
        ("*", ["*"], {"chat.completions:write", "embeddings:write", "files:read", "models:read"}),
        (
            "*",
            ["*", "org.*", "usage:read", "unlisted:read"],
            KNOWN - {"org.users:read", "usage:read", "unlisted:read"},
        ),
        ("org.*", ["*", "org.*"], {"org.users:read"}),
        ("org.*", ["*"], set()),
        ("read-only", ["files:*"], {"files:read"}),
        ("inferense no:* ** :read", ["*"], set()),
    ],
)
def test_patterns_and_groups_are_what_they_mean_before_they_meet_the_ceiling(
    claimed: str, most: list[str], expected: set[str], spelled: Callable[[str], object]
) -> None:
    assert verified(signed(claims={"scope": spelled(claimed)}), scopes=most).scopes == expected


@pytest.mark.parametrize(
    ("claimed", "most", "expected"),
    [
        (ABSENT, None, None),
        (ABSENT, ["gpt-4o*"], ("gpt-4o*",)),
        (["gpt-4o"], None, ("gpt-4o",)),
        (["gpt-4o"], ["gpt-4o*"], ("gpt-4o",)),
        (["gpt-4o", "o1"], ["gpt-4o*"], ("gpt-4o",)),
        (["*"], ["gpt-4o*", "o1"], ("gpt-4o*", "o1")),
        (["gpt-*"], ["gpt-4o*", "o1"], ("gpt-4o*",)),
        ("gpt-4o o1", ["o1"], ("o1",)),
        (["o1"], ["gpt-*"], ()),
        ([], ["gpt-*"], ()),
    ],
)
def test_models_are_what_credential_and_ceiling_both_allow(
    claimed: object, most: object, expected: object
) -> None:
    assert verified(signed(claims={"models": claimed}), models=most).models == expected


def test_limits_claim_of_another_issuer_is_not_ours_and_means_nothing() -> None:
    assert verified(signed(claims={"limits": "plenty"})).limits is None


def test_own_limits_are_read_and_one_that_cannot_be_kept_is_refused() -> None:
    principal = verifier_of().verify(own_credential(limits={"max_requests_per_1_minute": 5}))
    assert principal.limits == {"max_requests_per_1_minute": 5}
    refused: tuple[object, ...] = (
        {"max_requests_per_1_hour": 5},
        {"max_requests_per_1_minute": 0},
        {"max_requests_per_1_minute": 2**60},
        {"max_requests_per_1_minute": True},
        {"max_requests_per_1_minute": "5"},
        [],
        None,
    )
    for limits in refused:
        credential = signed(OURS, {"iss": OWN, "scope": "models:read", "limits": limits})
        with pytest.raises(CredentialNotAccepted, match="limits"):
            verifier_of().verify(credential)
        if limits:
            with pytest.raises(ValueError, match="not issued"):
                own_credential(limits=limits)


# Nothing but the good pass.

NAMES = st.sampled_from([*CLAIMS, "nbf", "models", "limits", "org", "id"])
JSON = json_values(NAMES, st.sampled_from([OWN, LOGIN, ROBOTS, AUDIENCE, "acme", "models:read", "*", "k1"]))
ALL = verifier_of(
    issuer_of(models=["gpt-*"]),
    issuer_of(
        (ROBOT_KEY,), issuer=ROBOTS, tenants=["beta"], claims={"tenant": "org.id", "scopes": "org.scopes"}
    ),
    cache_size=0,
)


@settings(max_examples=600, deadline=None)
@given(st.sampled_from([OURS, LOGIN_KEY, ROBOT_KEY]), st.dictionaries(NAMES, JSON, max_size=4))
def test_any_signed_claims_are_refused_or_stay_below_the_ceiling_of_who_signed(
    key: Key, changes: dict[str, object]
) -> None:
    claims = changed(CLAIMS, changes)
    try:
        principal = ALL.verify(signed(key, changes))
    except CredentialError as error:
        assert error.reason.isprintable()
        return
    assert {OWN: OURS, LOGIN: LOGIN_KEY, ROBOTS: ROBOT_KEY}[str(claims["iss"])] is key
    assert claims["aud"] == AUDIENCE or AUDIENCE in list(claims["aud"])  # type: ignore[call-overload]
    assert NOW - LEEWAY < principal.expires_at <= principal.issued_at + 90 * DAY
    assert principal.subject.isprintable() and principal.credential_id.isprintable()
    if key is not OURS:
        assert principal.expires_at <= principal.issued_at + DAY
        assert principal.tenant in (["acme", "beta"] if key is LOGIN_KEY else ["beta"])
        assert principal.scopes <= {"chat.completions:write", "embeddings:write", "files:read", "models:read"}
    if key is LOGIN_KEY:
        assert principal.models is not None
        assert all(model.startswith("gpt-") for model in principal.models)


@settings(max_examples=300, deadline=None)
@given(
    st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "jwk", "x"]), JSON, max_size=3),
    st.binary(max_size=80),
    st.sampled_from([OWN, LOGIN, ROBOTS]),
)
def test_any_header_without_a_signature_of_the_issuer_is_refused(
    header: dict[str, object], signature: bytes, iss: str
) -> None:
    with pytest.raises(CredentialError):
        ALL.verify(signed(LOGIN_KEY, {"iss": iss}, header, signature))


# What the operator writes.

GOOD: dict[str, Any] = {
    "issuer": LOGIN,
    "audience": AUDIENCE,
    "jwks_url": "https://login.example/keys",
    "tenants": ["acme"],
    "scopes": ["inference"],
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"jwks_url": "http://login.example/keys"}, "https only"),
        ({"jwks_url": "http://10.0.0.1/keys"}, "https only"),
        ({"jwks_url": "http://127.0.0.1.example/keys"}, "https only"),
        ({"jwks_url": "http://0.0.0.0/keys"}, "https only"),
        ({"jwks_url": "file:///etc/passwd"}, "https"),
        ({"jwks_url": "ftp://login.example/keys"}, "https"),
        ({"jwks_url": "https:///keys"}, "https"),
        ({"jwks_url": "https://user:secret@login.example/keys"}, "no login"),
        ({"jwks_url": None}, "exactly one of"),
        ({"jwks": []}, "exactly one of"),
        ({"jwks_file": {"path": "x.json", "content": ""}}, "exactly one of"),
        ({"tenants": []}, "either tenant"),
        ({"tenant": "acme"}, "either tenant"),
        ({"tenant": "../acme", "tenants": []}, "tenant id"),
        ({"scopes": []}, "scopes must not be empty"),
        ({"types": []}, "types must not be empty"),
        ({"algorithms": ["HS256"]}, "HS256 needs jwks_file"),
        ({"algorithms": ["RS512"]}, "EdDSA"),
        ({"max_lifetime_seconds": 91 * DAY}, "less than"),
        ({"audience": ""}, "at least 1"),
        ({"scope": "x"}, "Extra inputs"),
    ],
    ids=str,
)
def test_configuration_that_would_trust_too_much_is_refused(changes: dict[str, Any], problem: str) -> None:
    IssuerSettings.model_validate(GOOD)
    with pytest.raises(ValueError, match=problem) as refused:
        IssuerSettings.model_validate({**GOOD, **changes})
    if "secret" in str(changes):
        assert "login" in str(refused.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8/k", "http://localhost/k", "http://[::1]:9/k"])
def test_plain_http_is_for_this_machine_only(url: str) -> None:
    assert IssuerSettings.model_validate({**GOOD, "jwks_url": url}).jwks_url == url


def test_every_problem_of_every_issuer_is_told() -> None:
    private = {"path": "private.json", "content": orjson.dumps({"keys": [LOGIN_KEY.jwk()]}).decode()}
    static = {name: value for name, value in GOOD.items() if name != "jwks_url"}
    configured = {
        "a": {**GOOD, "scopes": ["inferense", "nothing:*"]},
        "b": {**GOOD},
        "c": {**GOOD, "issuer": OWN},
        "d": {**static, "issuer": "d", "jwks_file": {"path": "nonsense.json", "content": "no JSON"}},
        "e": {**static, "issuer": "e", "jwks_file": private},
        "f": {**static, "issuer": "f", "jwks": []},
    }
    with pytest.raises(SettingsInvalid) as invalid:
        other_issuers(
            {name: IssuerSettings.model_validate(members) for name, members in configured.items()},
            own_name=OWN,
            vocabulary=Vocabulary(dict.fromkeys(KNOWN, 1)),
            keys_from_url=lambda _n, _s: KeyRing([]),
        )
    told = [str(problem) for problem in invalid.value.problems]
    assert [text.partition(":")[0] for text in told] == [
        *("issuers.a.scopes", "issuers.a.scopes", "issuers.b.issuer", "issuers.c.issuer"),
        *("issuers.d.jwks_file", "issuers.e.jwks_file", "issuers.f.jwks"),
    ]
    assert str(LOGIN_KEY.jwk()["d"]) not in "".join(told)
