"""Issuers as the verifier wants them, from what the operator wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

from gateway.credentials.claims import ClaimNames, claim_path
from gateway.credentials.issuers import UNTYPED, Ceiling, Issuer, Keys, short_type
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Algorithm, KeyProblem
from gateway.credentials.subjects import Grant, Subjects
from gateway.operations.model_patterns import narrowed
from gateway.operations.scopes import ScopeProblem, Vocabulary, expand
from gateway.settings.certificates import trusted_certificates
from gateway.settings.issuer import IssuerSettings
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.settings import Credentials
from gateway.wire.strict_json import strict_object

KeysFromUrl = Callable[[str, IssuerSettings], Keys]
"""Given the short name and the settings of an issuer with a jwks_url, the keys behind it."""


def own_issuer(accepted: Credentials, keys: Keys, vocabulary: Vocabulary) -> Issuer:
    """Return this gateway itself as an issuer."""
    return Issuer(
        name=accepted.issuer,
        audience=accepted.audience,
        keys=keys,
        vocabulary=vocabulary,
        max_lifetime_seconds=accepted.max_lifetime_seconds,
    )


def other_issuers(
    configured: Mapping[str, IssuerSettings],
    *,
    own_name: str,
    vocabulary: Vocabulary,
    keys_from_url: KeysFromUrl,
) -> list[Issuer]:
    """Return the other issuers; raises SettingsInvalid with every problem of all of them."""
    problems: list[Problem] = []
    issuers: list[Issuer] = []
    names = {own_name: "this gateway's own (credentials.issuer)"}
    domains: dict[str, str] = {}
    for short, settings in configured.items():
        where = f"issuers.{short}"
        if settings.name in names:
            key = "issuer" if settings.issuer else "spiffe_trust_domain"
            problems.append(Problem(f"{where}.{key}", f"is also {names[settings.name]}"))
        names[settings.name] = f"that of issuers.{short}"
        domain = settings.spiffe_trust_domain
        if domain in domains:
            problems.append(Problem(f"{where}.spiffe_trust_domain", f"is also that of {domains[domain]}"))
        elif domain is not None:
            domains[domain] = where
        scopes = frozenset[str]()
        try:
            scopes = expand(settings.scopes, vocabulary.scopes)
        except ScopeProblem as problem:
            problems += [Problem(f"{where}.scopes", text) for text in problem.problems]
        try:
            if settings.jwks_ca_file is not None:
                trusted_certificates(settings.jwks_ca_file, key=f"{where}.jwks_ca_file")
        except SettingsInvalid as invalid:
            problems += invalid.problems
        grants = list(_grants(where, settings, scopes, vocabulary, problems))
        try:
            keys = keys_from_url(short, settings) if settings.jwks_url else _static_keys(settings)
        except KeyProblem as problem:
            source = "jwks" if settings.jwks_file is None else "jwks_file"
            problems += [Problem(f"{where}.{source}", text) for text in problem.problems]
            continue
        issuers.append(_issuer(settings, keys, vocabulary, scopes, grants))
    if problems:
        raise SettingsInvalid(problems)
    return issuers


def _grants(
    where: str,
    issuer: IssuerSettings,
    most: frozenset[str],
    vocabulary: Vocabulary,
    problems: list[Problem],
) -> Iterator[Grant]:
    """What the subjects of an issuer get. What an entry has beyond the issuer's own is a mistake in one of them."""
    # Thousands of entries have few sets of scopes and models among them.
    scopes_of = cache(partial(_scopes_within, most=most, vocabulary=vocabulary))
    models_of = cache(partial(_models_within, most=issuer.models))
    for pattern, grant in issuer.subjects.items():
        key = f"{where}.subjects.{pattern}"
        scopes, wrong_scopes = scopes_of(grant.scopes)
        models, wrong_models = models_of(grant.models)
        problems += [Problem(f"{key}.scopes", text) for text in wrong_scopes]
        problems += [Problem(f"{key}.models", text) for text in wrong_models]
        yield Grant(pattern, grant.tenant or issuer.tenant, scopes, models)


def _scopes_within(
    words: tuple[str, ...] | None, *, most: frozenset[str], vocabulary: Vocabulary
) -> tuple[frozenset[str] | None, Sequence[str]]:
    """The scopes that an entry grants, and what is wrong with them."""
    if words is None:
        return None, ()
    try:
        scopes = expand(words, vocabulary.scopes)
    except ScopeProblem as problem:
        return None, problem.problems
    beyond = [word for word in words if not expand([word], vocabulary.scopes) <= most]
    return scopes, [f"beyond the scopes of the issuer itself: {', '.join(beyond)}"] if beyond else ()


def _models_within(
    models: tuple[str, ...] | None, *, most: tuple[str, ...] | None
) -> tuple[tuple[str, ...] | None, Sequence[str]]:
    """The models that an entry grants, and what is wrong with them."""
    if models is None or most is None:
        return most if models is None else models, ()
    beyond = [model for model in models if not narrowed((model,), most)]
    wrong = [f"beyond the models of the issuer itself: {', '.join(beyond)}"] if beyond else ()
    return narrowed(models, most), wrong


def _issuer(
    settings: IssuerSettings,
    keys: Keys,
    vocabulary: Vocabulary,
    scopes: frozenset[str],
    grants: Sequence[Grant],
) -> Issuer:
    claims = settings.claims
    return Issuer(
        name=settings.name,
        audience=settings.audience,
        audience_lists=settings.audience_lists,
        keys=keys,
        vocabulary=vocabulary,
        ceiling=Ceiling(tenants=frozenset(settings.tenants), scopes=scopes, models=settings.models),
        algorithms=frozenset(map(Algorithm, settings.algorithms)),
        types=frozenset(UNTYPED if name == "absent" else short_type(name) for name in settings.types),
        claims=ClaimNames(
            tenant=claim_path(claims.tenant),
            subject=claim_path(claims.subject),
            scopes=claim_path(claims.scopes) if claims.scopes else None,
            models=claim_path(claims.models),
        ),
        tenant=settings.tenant,
        subjects=Subjects(grants) if settings.subjects else None,
        trust_domain=settings.spiffe_trust_domain,
        id_required=settings.require_jti,
        max_lifetime_seconds=settings.max_lifetime_seconds,
        session_seconds=settings.session_seconds,
    )


def _static_keys(settings: IssuerSettings) -> KeyRing:
    """Take the keys that the configuration brings along; raises KeyProblem."""
    if settings.jwks_file is None:
        return KeyRing.published({"keys": list(settings.jwks or ())})
    try:
        return KeyRing.published(strict_object(bytes(settings.jwks_file)), secrets_too=True)
    except KeyProblem:
        raise
    except ValueError:
        raise KeyProblem(f"{settings.jwks_file.path} is no JSON object with distinct members") from None
