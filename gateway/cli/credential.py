"""`gateway credential`: issue the credentials that tenants call with, explain, list and withdraw them."""

from __future__ import annotations

import argparse
import asyncio
import getpass
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from gateway.cli import inspection
from gateway.cli.command_line import nearest
from gateway.cli.drawing import document, listing, remark, say, shown
from gateway.cli.first_run import ring_of
from gateway.cli.options import (
    add_settings,
    check_tenant,
    date,
    duration,
    in_words,
    settings_from,
)
from gateway.cli.register import enter
from gateway.cli.stores import shared_credentials
from gateway.credentials.claims import MAX_SUBJECT_CHARACTERS
from gateway.credentials.issue import Issued, IssuedCredential, issue
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import KeyProblem
from gateway.credentials.revocation_file import RevocationFile
from gateway.credentials.revocations import (
    Revocation,
    RevocationList,
    RevocationsUnavailable,
    moment_for,
)
from gateway.limits.terms import Dimension, Quota
from gateway.operations.scopes import expand, groups_first, is_scope
from gateway.operations.table import OperationTable
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.settings import Settings


def register(verbs: Any) -> None:
    """Add the commands."""
    group = verbs.add_parser("credential", help="issue, explain, list and revoke credentials")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_issue(actions)
    inspection.register(actions)
    _add_revoke(actions)
    command = actions.add_parser("list", help="print what was issued and has not expired (needs Redis)")
    add_settings(command)
    command.add_argument("--tenant", help="only those of this tenant")
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=_list)


def _add_issue(actions: Any) -> None:
    command = actions.add_parser("issue", help="print a new credential, this once")
    add_settings(command)
    command.add_argument("--tenant", required=True, help="who pays")
    command.add_argument("--subject", help="who calls (default: the user who issues it)")
    command.add_argument(
        "--scope",
        action="append",
        required=True,
        metavar="SCOPE",
        help="a scope, a pattern such as 'files:*', or a group such as inference; may be repeated",
    )
    command.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="a model, or a pattern such as 'gpt-4o*'; may be repeated (default: all that the tenant may use)",
    )
    command.add_argument(
        "--limit",
        action="append",
        default=[],
        type=_limit,
        metavar="NAME=VALUE",
        help="a limit of its own below the tenant's, such as max_requests_per_1_minute=10; may be repeated",
    )
    command.add_argument("--ttl", type=duration, default=30 * 86400, metavar="30d", help="lifetime")
    command.set_defaults(run=_issue)


def _add_revoke(actions: Any) -> None:
    command = actions.add_parser("revoke", help="withdraw one credential, or all issued until now")
    add_settings(command)
    which = command.add_mutually_exclusive_group()
    which.add_argument("--jti", metavar="ID", help="the credential of this id")
    which.add_argument("--tenant", help="everything of this tenant that was issued until now")
    command.add_argument("--subject", help="with --tenant: only what this subject has")
    command.set_defaults(run=_revoke)


def _user() -> str:
    """Who runs this: by name, or by the number alone where, as in a container, it has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # the latter since Python 3.13
        return str(os.getuid())


def _issue(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    check_tenant(settings, options.tenant)
    most_seconds = settings.credentials.max_lifetime_seconds
    if options.ttl > most_seconds:
        raise ValueError(
            f"--ttl {in_words(options.ttl)}: at most {in_words(most_seconds)} (credentials.max_lifetime_seconds)"
        )
    if options.limit and settings.is_apart:
        raise SettingsInvalid(
            [
                Problem(
                    "workers", "several of them keep no limits without Redis; set redis_url, or workers = 1"
                )
            ]
        )
    scopes = _words(settings, options.tenant, options.scope)
    ring, made = ring_of(settings)
    if made:
        remark(f"made a signing key in {settings.keys_dir}")
    subject = _user() if options.subject is None else options.subject
    asyncio.run(_wait_for_revocations(settings, options.tenant, subject))
    issued = issue(
        ring,
        settings.credentials,
        tenant=options.tenant,
        subject=subject,
        scopes=scopes,
        ttl_seconds=options.ttl,
        models=options.model,
        limits=dict(options.limit),
    )
    principal = issued.principal
    asyncio.run(_enter(settings, issued))
    remark(
        f"credential {principal.credential_id} of {principal.subject} (tenant {principal.tenant}) "
        f"until {date(principal.expires_at)}; it is shown this once"
    )
    print(issued.credential)
    return 0


async def _wait_for_revocations(settings: Settings, tenant: str, subject: str) -> None:
    """Wait until a new credential is not revoked already: a revocation reaches a little into the future."""
    try:
        revocations = await _revocations(settings)
    except RevocationsUnavailable:
        return  # whoever issues while Redis is gone is told so
    before = revocations.before(tenant, subject)
    wait_seconds = before - time.time()
    if wait_seconds > 0:
        remark(
            f"what is dated before {date(before)} is revoked already: issuing in {math.ceil(wait_seconds)} s"
        )
        await asyncio.sleep(wait_seconds)


async def _revocations(settings: Settings) -> RevocationList:
    """What is revoked, as running gateways read it."""
    revocations = RevocationList()
    async with shared_credentials(settings) as shared:
        store = shared or RevocationFile(settings.keys_dir)
        revocations.replace(await store.changed() or (), time.time())
    return revocations


def _words(settings: Settings, tenant_id: str, wanted: Iterable[str]) -> list[str]:
    """The scopes, patterns and groups asked for. Says what of them the gateway would refuse all the same."""
    known = OperationTable.load().scopes
    words = [word for argument in wanted for word in argument.replace(",", " ").split()]
    if not words:
        raise ValueError(
            "--scope is empty: a credential without scopes may do nothing; `gateway routes` lists them"
        )
    beyond = sorted(expand(words, known) - expand(settings.tenants[tenant_id].scopes, known))
    if beyond:
        remark(f"the tenant {tenant_id} may not use {', '.join(beyond)}: these will be refused")
    return words


def _revoke(options: argparse.Namespace) -> int:
    if options.subject is not None and options.tenant is None:
        options.command_line.error("--subject needs --tenant ID as well: subjects belong to a tenant")
    if options.jti is None and options.tenant is None:
        options.command_line.error("one of --jti ID and --tenant ID is required")
    if options.jti is not None and not _is_name(options.jti):
        raise ValueError("--jti takes the id of a credential, as `gateway credential inspect` shows it")
    if options.subject is not None and not _is_name(options.subject):
        raise ValueError(
            f"--subject takes who calls, 1 to {MAX_SUBJECT_CHARACTERS} printable characters; without it, all of the "
            "tenant's are revoked"
        )
    settings = settings_from(options)
    try:
        say(asyncio.run(_withdraw(settings, options)))
    except RevocationsUnavailable as unavailable:
        instead = (
            ""
            if settings.redis_url
            else "; without redis_url revocations need a keys_dir that can be written"
        )
        raise ValueError(f"nothing was revoked: {unavailable}{instead}") from None
    return 0


def _is_name(text: str) -> bool:
    """Whether a credential can have it as its id or its subject: what none has would revoke none."""
    return text.isprintable() and 0 < len(text) <= MAX_SUBJECT_CHARACTERS


async def _enter(settings: Settings, issued: Issued) -> None:
    try:
        await enter(settings, issued)
    except RevocationsUnavailable as unavailable:
        remark(f"`gateway credential list` will not show this credential: {unavailable}")


async def _withdraw(settings: Settings, options: argparse.Namespace) -> str:
    """Revoke what the options name, and return what was done."""
    leeway_seconds = settings.credentials.leeway_seconds
    now = time.time()
    lifetimes = [issuer.max_lifetime_seconds for issuer in settings.issuers.values()]
    longest_seconds = max([settings.credentials.max_lifetime_seconds, *lifetimes])
    until = math.ceil(now + longest_seconds + leeway_seconds)
    async with shared_credentials(settings) as shared:
        store = shared or RevocationFile(settings.keys_dir)
        place = f"Redis {shared.server}" if shared else str(settings.keys_dir)
        notice = f"gateways that share {place} refuse it within two seconds"
        if options.jti is not None:
            known = [] if shared is None else [one for one in await shared.issued() if one.id == options.jti]
            if known:
                until = math.ceil(known[0].expires_at + leeway_seconds)
            elif shared is not None:
                remark(f"no credential {options.jti} is in the register; revoking it all the same")
            await store.add(Revocation(credential=options.jti, until=until))
            whose = "".join(f" of {one.subject} (tenant {one.tenant})" for one in known)
            return f"revoked credential {options.jti}{whose}; {notice}"
        if options.tenant not in settings.tenants:
            issued = [] if shared is None else await shared.issued()
            _check_known(settings, options.tenant, issued)
        before = moment_for(now, leeway_seconds)
        until = math.ceil(before + longest_seconds + leeway_seconds)
        await store.add(
            Revocation(tenant=options.tenant, subject=options.subject, before=before, until=until)
        )
    whose = (
        f"tenant {options.tenant}" if options.subject is None else f"{options.subject} of {options.tenant}"
    )
    return (
        f"revoked everything of {whose} dated before {date(before)}, for issuers' clocks may be "
        f"{leeway_seconds:g} s ahead; what is to be valid is issued after that; {notice}"
    )


def _list(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    try:
        issued, revocations = asyncio.run(_issued(settings))
    except RevocationsUnavailable as unavailable:
        raise ValueError(str(unavailable)) from None
    if options.tenant is not None:
        _check_known(settings, options.tenant, issued)
    retired = _retired_keys(settings, issued)
    rows = []
    for one in issued:
        if options.tenant in (None, one.tenant):
            state = "key retired" if one.key in retired else "valid"
            state = "revoked" if revocations.check(one.principal) else state
            rows.append((one, state))
    if options.json:
        document([asdict(one) | {"state": state} for one, state in rows])
        return 0
    listing(
        ("ID", "TENANT", "SUBJECT", "ISSUED", "EXPIRES", "KEY", "STATE", "SCOPES"),
        [
            (
                *(one.id, shown(one.tenant), shown(one.subject), date(one.issued_at), date(one.expires_at)),
                *(one.key, state, " ".join(_shown(one.scopes))),
            )
            for one, state in rows
        ],
    )
    return 0


def _check_known(settings: Settings, tenant: str, issued: Iterable[IssuedCredential]) -> None:
    """Raise ValueError for a tenant that is not configured, and of which the register knows nothing either."""
    if not any(one.tenant == tenant for one in issued):
        check_tenant(settings, tenant)


def _shown(words: Sequence[str]) -> list[str]:
    """What a credential grants, groups first: in its own words, or what scopes add up to that it spells out."""
    if not all(map(is_scope, words)):
        return groups_first(words)
    groups, rest = OperationTable.load().vocabulary.folded(words)
    return [*groups, *rest]


def _retired_keys(settings: Settings, issued: Iterable[IssuedCredential]) -> set[str]:
    """The keys that signed and are no longer in the ring, where the ring is at hand."""
    try:
        ring = KeyRing.load(settings.keys_dir)
    except KeyProblem:
        return set()
    return {one.key for one in issued if ring.get(one.key) is None}


async def _issued(settings: Settings) -> tuple[list[IssuedCredential], RevocationList]:
    async with shared_credentials(settings) as shared:
        if shared is None:
            raise ValueError(
                "there is no register of issued credentials without Redis; set redis_url to have one"
            )
        revocations = RevocationList()
        revocations.replace(await shared.changed() or (), time.time())
        return await shared.issued(), revocations


def _limit(text: str) -> tuple[str, int]:
    """`NAME=VALUE` as the limit of a dimension."""
    name, _, value = text.partition("=")
    names = ", ".join(Dimension)
    if name not in list(Dimension):
        raise argparse.ArgumentTypeError(f"{name!r} is no limit{nearest(name, Dimension)}; there are {names}")
    if not (value.isascii() and value.isdigit() and int(value) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} needs a positive whole number after '='")
    try:
        Quota(Dimension(name), int(value), key="")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return name, int(value)
