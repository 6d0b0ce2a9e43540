"""Which of another issuer's subjects count, and what each gets: patterns, and nothing that is only like one."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.credentials.configured_issuers import other_issuers
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.principal import Check, CredentialNotAccepted
from gateway.credentials.subjects import Grant, Subjects
from gateway.settings.issuer import IssuerSettings
from gateway.settings.section import SettingsInvalid
from gateway.settings.subjects import parts_of
from tests.credentials.forging import ABSENT
from tests.credentials.test_issuers import LOGIN, issuer_of, signed, verified, verifier_of


def subjects(*patterns: str) -> Subjects:
    return Subjects(Grant(pattern, "acme", None, None) for pattern in patterns)


def winner(subject: str, *patterns: str) -> str | None:
    grant = subjects(*patterns).grant(subject)
    return None if grant is None else grant.pattern


SERVICE = "system:serviceaccount:"
MATCHES = (
    (f"{SERVICE}search:*", f"{SERVICE}search:indexer"),
    (f"{SERVICE}search:*", f"{SERVICE}search:a.b-c"),
    (f"{SERVICE}search:indexer", f"{SERVICE}search:indexer"),
    (f"{SERVICE}team-*:batch", f"{SERVICE}team-a:batch"),
    (f"{SERVICE}*-prod:api", f"{SERVICE}search-prod:api"),
    (f"{SERVICE}**", f"{SERVICE}search:indexer"),
    ("spiffe://example.org/ns/search/sa/*", "spiffe://example.org/ns/search/sa/indexer"),
    ("spiffe://example.org/**", "spiffe://example.org/ns/search/sa/indexer"),
    ("repo:acme@1/app@2:ref:refs/heads/*", "repo:acme@1/app@2:ref:refs/heads/main"),
    ("repo:acme@1/**", "repo:acme@1/app@2:ref:refs/heads/feature/x"),
    ("**", "anybody/at:all"),
    ("*", "7f000001-0000-4000-8000-000000000000"),
    ("Jürgen Müller", "Jürgen Müller"),
    ("a*b", "axb"),
    ("*", "*"),
)

MATCHES_NOT = (
    # `*` stays inside of its part, and stands for something.
    (f"{SERVICE}search:*", f"{SERVICE}search:"),
    (f"{SERVICE}search:*", f"{SERVICE}search"),
    (f"{SERVICE}search:*", f"{SERVICE}search:a:b"),
    (f"{SERVICE}search:*", f"{SERVICE}search:a/b"),
    (f"{SERVICE}*:indexer", f"{SERVICE}a:b:indexer"),
    (f"{SERVICE}team-*:batch", f"{SERVICE}team-:batch"),
    (f"{SERVICE}search:*", f"{SERVICE}search-evil:indexer"),
    (f"{SERVICE}search:*", f"x{SERVICE}search:indexer"),
    ("spiffe://example.org/ns/*/sa/batch", "spiffe://example.org/ns/a/sa/x/sa/batch"),
    ("spiffe://example.org/**", "spiffe://example.org"),
    ("spiffe://example.org/**", "spiffe://example.org/"),
    ("spiffe://example.org/**", "spiffe://example.org.evil.test/ns/a"),
    ("spiffe://example.org/**", "spiffe://evil@example.org/ns/a"),
    ("*", "a:b"),
    ("a*b", "ab"),
    ("*", ""),
    ("**", ""),
    # Case counts, and nothing is decoded or made alike.
    (f"{SERVICE}search:*", f"{SERVICE}Search:indexer"),
    (f"{SERVICE}search:*", f"{SERVICE}search%3Aindexer"),
    (f"{SERVICE}search:*", f"{SERVICE}search:%61"),
    ("spiffe://example.org/ns/*", "spiffe://example.org/ns/a%2Fsa%2Fb"),
    ("spiffe://example.org/**", "spiffe://example.org/ns/a%2fb"),
    (f"{SERVICE}search:*", f"{SERVICE}se\u0430rch:indexer"),
    (f"{SERVICE}search:*", f"{SERVICE}search:\u0456ndexer"),
    (f"{SERVICE}*:indexer", f"{SERVICE}search\uff1aevil:indexer"),
    (f"{SERVICE}**", f"{SERVICE}search:\u0456ndexer"),
    (f"{SERVICE}search:*", f"{SERVICE}search:a b"),
    (f"{SERVICE}search:*", f"{SERVICE}search:a\n"),
    (f"{SERVICE}search:*", f"{SERVICE}search:a\x00"),
    (f"{SERVICE}search:indexer", f"{SERVICE}search:indexer\n"),
    (f"{SERVICE}search:*", f"{SERVICE}search:a\\b"),
    ("a.c", "abc"),
    ("[ab]", "a"),
    ("a?", "ab"),
)


@pytest.mark.parametrize(("pattern", "subject"), MATCHES)
def test_pattern_matches(pattern: str, subject: str) -> None:
    assert winner(subject, pattern) == pattern


@pytest.mark.parametrize(("pattern", "subject"), MATCHES_NOT)
def test_pattern_matches_nothing_that_is_only_like_it(pattern: str, subject: str) -> None:
    assert winner(subject, pattern) is None


@pytest.mark.parametrize(
    ("subject", "ordered"),
    [
        ("a:b:c", ["a:b:c", "a:b:*", "a:b:**", "a:*:c", "a:*:*", "a:**", "*:b:c", "*:*:*", "**"]),
        ("team-prod:x", ["team-prod:*", "team-*:x", "team*:x", "*prod:x", "*:x", "**"]),
        ("ab-cd", ["ab-cd", "ab-*", "a*cd", "a*d", "a*", "*cd", "*d", "*"]),
        ("a/b", ["a/b", "a/*", "*/b", "**"]),
    ],
)
def test_the_first_part_in_which_two_patterns_differ_decides_whatever_their_order(
    subject: str, ordered: list[str]
) -> None:
    while ordered:
        assert winner(subject, *ordered) == winner(subject, *reversed(ordered)) == ordered[0]
        ordered = ordered[1:]


def test_a_more_exact_beginning_that_leads_nowhere_takes_nothing_away() -> None:
    assert winner("a:b:c", "a:b:x", "a:*:c") == "a:*:c"
    assert winner("a:b:c", "a:b:x", "a:b*:c", "**") == "**"


def by_the_book(pattern: str, subject: str) -> bool:
    """What the documents say, by a regular expression."""
    translated = "".join(
        {"**": r"[!-$&-\[\]-~]+", "*": r"[!-$&-.0-9;-\[\]-~]+"}.get(piece, re.escape(piece))
        for piece in re.split(r"(\*\*|\*)", pattern)
    )
    return re.fullmatch(translated, subject) is not None


def specificity(pattern: str) -> list[tuple[int, ...]]:
    """Of what is looked at first, the greatest wins."""
    return [
        (2, 0, 0) if "*" not in part else (0, 0, 0) if part == "**" else (1, *map(len, part.split("*")))
        for part in parts_of(pattern)
    ]


TEXT = st.text(alphabet="ab:/-", min_size=1, max_size=7)


@st.composite
def written(draw: st.DrawFn) -> str:
    parts = parts_of(draw(TEXT))
    for number, part in enumerate(parts):
        if draw(st.booleans()):
            at = draw(st.integers(0, len(part.rstrip(":/"))))
            parts[number] = part[:at] + "*" + part[at:]
    return "".join(parts) + draw(st.sampled_from(["", "", "**"] if parts[-1][-1] in ":/" else [""]))


@given(st.lists(written(), min_size=1, max_size=8, unique=True), TEXT)
def test_look_up_is_what_all_patterns_one_by_one_would_say(patterns: list[str], subject: str) -> None:
    matching = [pattern for pattern in patterns if by_the_book(pattern, subject)]
    expected = max(matching, key=specificity, default=None)
    assert winner(subject, *patterns) == expected


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "a**",
        "**:b",
        "a:**:b",
        "a:b**",
        "***",
        "a*b*c",
        "a:x*y*:b",
        "a\nb",
        "a\u202eb",
        "a\x00",
        "s" * 513,
    ],
)
def test_pattern_that_could_mean_two_things_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError):
        settings(subjects={pattern: {"tenant": "acme"}})


def settings(**more: Any) -> IssuerSettings:
    return IssuerSettings.model_validate(
        {"issuer": LOGIN, "audience": "gateway", "jwks_url": "https://x.test/keys", "scopes": ["*"], **more}
    )


def test_ten_thousand_entries_are_looked_up_as_fast_as_ten() -> None:
    many = {f"{SERVICE}team-{n}:*": {"tenant": f"t{n}", "scopes": ["models:read"]} for n in range(9_990)}
    many |= {f"{SERVICE}*-{n}:job": {"tenant": "acme"} for n in range(10)}
    began = time.perf_counter()
    issuer = issuer_of(tenants=[], subjects=many)
    assert time.perf_counter() - began < 5.0
    assert issuer.subjects is not None and len(issuer.subjects) == 10_000
    began = time.perf_counter()
    for n in range(1_000):
        assert issuer.grant(f"{SERVICE}team-{n}:x").tenant == f"t{n}"
        assert issuer.subjects.grant(f"{SERVICE}nobody-{n}x:x") is None
    assert (time.perf_counter() - began) / 2_000 < 0.0005, "seconds for each"
    with pytest.raises(ValidationError, match="10000"):
        settings(subjects={**many, "one": {"tenant": "acme"}})


# What a subject gets.

SUBJECTS: dict[str, Any] = {
    "tenants": [],
    "subjects": {
        "system:serviceaccount:search:*": {
            "tenant": "search",
            "scopes": ["chat.completions:write"],
            "models": ["gpt-4o*"],
        },
        "system:serviceaccount:search:admin": {"tenant": "search", "scopes": ["*"]},
        "system:serviceaccount:plain:*": {"tenant": "acme"},
    },
}


def of_kubernetes(**changes: object) -> str:
    """A credential that says nothing of tenants and scopes."""
    claims = {"tenant": ABSENT, "scope": ABSENT, "sub": "system:serviceaccount:search:indexer", **changes}
    return signed(claims=claims)


def test_subject_gets_what_its_entry_says_without_any_claim_of_its_own() -> None:
    principal = verified(of_kubernetes(), **SUBJECTS)
    assert (principal.tenant, principal.scopes, principal.models) == (
        "search",
        frozenset({"chat.completions:write"}),
        ("gpt-4o*",),
    )
    admin = verified(of_kubernetes(sub="system:serviceaccount:search:admin"), **SUBJECTS)
    assert "embeddings:write" in admin.scopes and admin.models is None


def test_what_a_credential_says_of_itself_narrows_and_never_widens_what_its_entry_says() -> None:
    said = of_kubernetes(
        tenant="beta", scope="models:read chat.completions:write", models=["gpt-4o-mini", "o3"]
    )
    principal = verified(said, **SUBJECTS)
    assert (principal.tenant, principal.scopes, principal.models) == (
        "search",
        frozenset({"chat.completions:write"}),
        ("gpt-4o-mini",),
    )
    assert verified(of_kubernetes(scope="models:read"), **SUBJECTS).scopes == frozenset()


def test_entry_without_scopes_leaves_them_to_the_credential() -> None:
    with pytest.raises(CredentialNotAccepted, match="scope"):
        verified(of_kubernetes(sub="system:serviceaccount:plain:x"), **SUBJECTS)
    said = of_kubernetes(sub="system:serviceaccount:plain:x", scope="models:read")
    assert verified(said, **SUBJECTS).scopes == {"models:read"}
    every = verified(of_kubernetes(sub="system:serviceaccount:plain:x"), **SUBJECTS, claims={"scopes": ""})
    assert "files:read" in every.scopes


def test_subject_that_no_entry_names_is_refused_and_the_reason_names_it() -> None:
    with pytest.raises(CredentialNotAccepted, match="system:serviceaccount:other:x") as refused:
        verified(of_kubernetes(sub="system:serviceaccount:other:x"), **SUBJECTS)
    assert refused.value.check is Check.SUBJECT


def test_entry_without_a_tenant_has_that_of_the_issuer_or_of_a_claim() -> None:
    fixed = {"tenants": [], "tenant": "acme", "subjects": {"alice": {"scopes": ["models:read"]}}}
    assert verified(signed(claims={"tenant": "beta"}), **fixed).tenant == "acme"
    claimed = {"tenants": ["acme", "beta"], "subjects": {"alice": {}, "bob": {"tenant": "beta"}}}
    assert verified(signed(claims={"tenant": "acme"}), **claimed).tenant == "acme"
    assert verified(signed(claims={"tenant": "acme", "sub": "bob"}), **claimed).tenant == "beta"
    with pytest.raises(CredentialNotAccepted, match="may not speak for"):
        verified(signed(claims={"tenant": "gamma"}), **claimed)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"subjects": {"a": {}}}, "'a' of subjects"),
        ({"subjects": {"a": {"tenant": "x"}, "b": {}}}, "'b' of subjects"),
        ({"tenant": "acme", "subjects": {"a": {"tenant": "beta"}}}, "given to 'beta'"),
        ({"tenants": ["acme"], "subjects": {"a": {"tenant": "beta"}}}, "given to 'beta'"),
        ({"tenant": "acme", "tenants": ["acme"], "subjects": {"a": {}}}, "either tenant"),
        ({"subjects": {}}, "either tenant"),
        ({"subjects": {"a": {"tenant": "no tenant"}}}, "tenant id"),
        ({"subjects": {"a": {"tenant": "acme", "scopes": []}}}, "at least 1"),
        ({"subjects": {"a": {"tenant": "acme", "tennant": "x"}}}, "tennant"),
    ],
)
def test_entries_that_contradict_their_issuer_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        settings(**wrong)


def test_entry_beyond_what_its_issuer_may_grant_is_a_problem_that_says_where() -> None:
    with pytest.raises(SettingsInvalid) as invalid:
        issuer_of(
            tenants=[],
            scopes=["models:read"],
            models=["gpt-4o*"],
            subjects={
                "a": {"tenant": "acme", "scopes": ["models:read", "files:read"], "models": ["o3"]},
                "b": {"tenant": "acme", "scopes": ["nonsense"]},
                "c": {"tenant": "acme", "scopes": ["models:read"], "models": ["gpt-4o-mini", "gpt-*"]},
            },
        )
    assert sorted(problem.key for problem in invalid.value.problems) == [
        "issuers.login.subjects.a.models",
        "issuers.login.subjects.a.scopes",
        "issuers.login.subjects.b.scopes",
    ]
    assert "files:read" in str(invalid.value) and "itself: o3" in str(invalid.value)


def test_what_is_left_of_a_principal_goes_by_the_entries_of_now() -> None:
    principal = verified(of_kubernetes(), **SUBJECTS)
    entry = SUBJECTS["subjects"]["system:serviceaccount:search:*"]

    def left(**changed: object) -> Any:
        changed_subjects = {"system:serviceaccount:search:*": {**entry, **changed}}
        return verifier_of(issuer_of(tenants=[], subjects=changed_subjects)).remaining(principal)

    assert left() == principal
    assert left(models=["gpt-4o-mini"]).models == ("gpt-4o-mini",)
    assert left(scopes=["models:read"]).scopes == frozenset()
    with pytest.raises(CredentialNotAccepted, match="any more"):
        left(tenant="beta")
    with pytest.raises(CredentialNotAccepted) as refused:
        verifier_of(issuer_of(tenants=[], subjects={"x": {"tenant": "acme"}})).remaining(principal)
    assert refused.value.check is Check.SUBJECT


def test_the_nearest_pattern_and_where_it_differs_can_be_told() -> None:
    some = subjects("system:serviceaccount:serch:*", "spiffe://example.org/**", "system:node:*")
    assert some.nearest("system:serviceaccount:search:x") == ("system:serviceaccount:serch:*", "serch:")
    assert some.nearest("system:serviceaccount:serch") == ("system:serviceaccount:serch:*", "serch:")


def test_two_issuers_of_one_trust_domain_are_refused() -> None:
    with pytest.raises(SettingsInvalid, match=r"issuers\.b\.spiffe_trust_domain"):
        other_issuers(
            {
                name: IssuerSettings.model_validate(
                    {
                        "spiffe_trust_domain": "example.org",
                        "audience": "gateway",
                        "jwks_url": "https://x.test/keys",
                        "tenant": "acme",
                        "scopes": ["models:read"],
                        **more,
                    }
                )
                for name, more in (("a", {}), ("b", {"issuer": "https://spire.test"}))
            },
            own_name="gateway",
            vocabulary=verifier_of()._vocabulary,
            keys_from_url=lambda _name, _settings: KeyRing([]),
        )
