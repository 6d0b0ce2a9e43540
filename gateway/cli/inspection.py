"""`gateway credential inspect`: what a credential says, what it may do, and why it would be refused."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from gateway.cli.drawing import complain, document, facts, shown
from gateway.cli.options import add_credential, add_settings, credential_from, date, settings_from
from gateway.cli.subjects import entry_in_words, short_name
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import KeyProblem
from gateway.credentials.principal import (
    CredentialExpired,
    CredentialMalformed,
    CredentialMissing,
    CredentialRevoked,
    CredentialUndecided,
)
from gateway.credentials.trust import Trust
from gateway.credentials.verifier import Inspection, inspect
from gateway.operations.scopes import expand
from gateway.operations.table import OperationTable
from gateway.settings.section import revealed
from gateway.settings.settings import Settings
from gateway.wire.strict_json import strict_object

_TIMES = ("iat", "nbf", "exp")
_NAME_CHARACTERS = 10


def register(actions: Any) -> None:
    """Add the command."""
    command = actions.add_parser("inspect", help="explain a credential: claims, key, what it may do")
    add_settings(command)
    add_credential(command)
    command.add_argument(
        "--jwks",
        type=Path,
        metavar="FILE",
        help="verify by this key set, saved from /.well-known/jwks.json, instead of --keys-dir",
    )
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Explain; exit code 0 when a gateway with this configuration would accept the credential, else 1."""
    credential = credential_from(options, os.environ)
    settings = settings_from(options)
    ring = _ring(settings) if options.jwks is None else _public_ring(options.jwks)
    found = asyncio.run(_inspect(settings, ring, credential))
    table = OperationTable.load()
    said = [*_said(found, settings), *_allowed(found, settings, table), ("verdict", _verdict(found))]
    if options.json:
        summary = {
            name: text for name, text in said if not name.startswith(" ")
        }  # others are members of the claims
        own_words = {"header": found.header, "claims": found.claims and dict(found.claims)}
        document({"accepted": found.refusal is None, **summary, **own_words})
    else:
        facts([(name, shown(text)) for name, text in said], within=_NAME_CHARACTERS)
    return 0 if found.refusal is None else 1


def _ring(settings: Settings) -> KeyRing:
    """The keys at hand; none is no error here, the claims can be shown all the same."""
    try:
        return KeyRing.load(settings.keys_dir)
    except KeyProblem as problem:
        complain(*problem.problems)
        return KeyRing([])


def _public_ring(path: Path) -> KeyRing:
    try:
        return KeyRing.published(strict_object(path.read_bytes()))
    except KeyProblem:
        raise
    except ValueError:
        raise ValueError(f"{path} is no JSON object with distinct members") from None


async def _inspect(settings: Settings, ring: KeyRing, credential: str) -> Inspection:
    """Look at a credential as a gateway would that has just started."""
    trust = Trust(
        settings.credentials,
        settings.issuers,
        ring=ring,
        vocabulary=OperationTable.load().vocabulary,
        keys_dir=settings.keys_dir,
        redis_url=revealed(settings.redis_url),
        redis_prefix=settings.redis_prefix,
    )
    await trust.start()
    try:
        return inspect(credential, trust.verifier)
    finally:
        await trust.close()


def _said(found: Inspection, settings: Settings) -> Iterator[tuple[str, str]]:
    """The credential's own words, and whether they are proved."""
    if found.header is not None:
        yield "header", _json(found.header)
    if found.claims is None:
        return
    signer = found.signer
    yield "claims", "NOT PROVED: anybody can write this" if signer is None else "proved by the signature"
    for name, value in found.claims.items():
        seconds = f" ({date(value)})" if name in _TIMES and type(value) is int else ""
        yield f"  {name}", f"{_json(value)}{seconds}"
    yield "issuer", _issuer(found, settings)
    yield "key", "none that is known" if signer is None else f"{signer.kid} ({signer.algorithm})"


def _issuer(found: Inspection, settings: Settings) -> str:
    if found.issuer is None:
        return "unknown"
    short = short_name(found.issuer, settings)
    if short is None:
        return "this gateway"
    unnamed = found.claims is not None and "iss" not in found.claims
    return f"issuers.{short} of the configuration{', by the trust domain of sub' if unnamed else ''}"


def _allowed(found: Inspection, settings: Settings, table: OperationTable) -> Iterator[tuple[str, str]]:
    """What a credential that is accepted may do, and which entry of subjects says so."""
    entry = entry_in_words(found, settings)
    if entry is not None:
        yield "subject", entry
    principal = found.principal
    if principal is None:
        return
    yield from _version(principal.scope_version, table.vocabulary.version)
    tenant = settings.tenants.get(principal.tenant)
    if tenant is None:
        yield "tenant", f"{principal.tenant} is not in this configuration: everything is answered 403"
        return
    yield (
        "tenant",
        principal.tenant + ("" if tenant.enabled else ", which is disabled: everything is answered 403"),
    )
    of_tenant = expand(tenant.scopes, table.scopes)
    usable = principal.scopes & of_tenant
    yield "scopes", _folded(usable, principal.scope_version, table) or "none"
    if principal.scopes - of_tenant:
        yield (
            "  not",
            f"{_folded(principal.scopes - of_tenant, principal.scope_version, table)} (beyond what the tenant may use)",
        )
    operations = [
        operation.id
        for operation in table
        if operation.scope in usable
        and (operation.is_contained or settings.allow_uncontained)
        and (not operation.is_administration or settings.upstream.admin_api_key is not None)
    ]
    yield "may do", f"{len(operations)} of {len(table.operations)} operations: {' '.join(operations)}"
    models = "all" if tenant.models is None else " ".join(tenant.models) or "none"
    if principal.models is not None:
        models = f"{' '.join(principal.models) or 'none'}, of those of the tenant ({models})"
    yield "models", models
    if (tenant.unmetered or settings.unmetered) == "refuse":
        yield "unmetered", "refused: of all that, what costs something is open where a limit counts it"
    for name, capacity in (principal.limits or {}).items():
        yield "limit", f"{name} {capacity}, unless that of the tenant is lower"


def _folded(scopes: frozenset[str], version: int | None, table: OperationTable) -> str:
    """Scopes as people read them: whole groups first."""
    groups, rest = table.vocabulary.folded(scopes, version)
    return " ".join((*groups, *rest))


def _version(version: int | None, newest: int) -> Iterator[tuple[str, str]]:
    """By which version groups and patterns are meant, where there are any."""
    if version is None:
        return
    said = "groups and patterns mean what they meant then"
    if version > newest:
        said = f"newer than {newest}, all that is known here: what came later is left out"
    yield "version", f"{version} of the operations: {said}"


def _verdict(found: Inspection) -> str:
    match found.refusal:
        case None:
            return "accepted"
        case CredentialMalformed() | CredentialMissing():
            answer = "malformed"
        case CredentialUndecided():
            return f"not decided, 503: {found.refusal.reason}"
        case CredentialExpired():
            answer = "expired"
        case CredentialRevoked():
            answer = "revoked"
        case _:
            answer = "not accepted"
    return f"refused with 401, as {answer}: {found.refusal.reason}"


def _json(value: object) -> str:
    if isinstance(value, Mapping):
        value = dict(value)
    return orjson.dumps(value).decode()
