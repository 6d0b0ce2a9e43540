"""Issuers as the verifier wants them, from what the operator wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gateway.credentials.issuers import UNTYPED, Ceiling, ClaimNames, Issuer, Keys, claim_path, short_type
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Algorithm, KeyProblem
from gateway.operations.scopes import ScopeProblem, Vocabulary, expand
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
    for short, settings in configured.items():
        where = f"issuers.{short}"
        if settings.issuer in names:
            problems.append(Problem(f"{where}.issuer", f"is also {names[settings.issuer]}"))
        names[settings.issuer] = f"that of issuers.{short}"
        scopes = frozenset[str]()
        try:
            scopes = expand(settings.scopes, vocabulary.scopes)
        except ScopeProblem as problem:
            problems += [Problem(f"{where}.scopes", text) for text in problem.problems]
        try:
            keys = keys_from_url(short, settings) if settings.jwks_url else _static_keys(settings)
        except KeyProblem as problem:
            source = "jwks" if settings.jwks_file is None else "jwks_file"
            problems += [Problem(f"{where}.{source}", text) for text in problem.problems]
            continue
        issuers.append(_issuer(settings, keys, vocabulary, scopes))
    if problems:
        raise SettingsInvalid(problems)
    return issuers


def _issuer(settings: IssuerSettings, keys: Keys, vocabulary: Vocabulary, scopes: frozenset[str]) -> Issuer:
    claims = settings.claims
    return Issuer(
        name=settings.issuer,
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
