"""What a start, or the first request, would find wrong with settings that are valid by themselves."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from gateway.app.own_upstream import refuse_itself
from gateway.cli.command_line import nearest
from gateway.cli.first_run import check_nobody_has_any
from gateway.cli.options import keyless
from gateway.credentials.configured_issuers import other_issuers
from gateway.credentials.key_fetch import FetchFailed, read_bearer
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import KeyProblem
from gateway.credentials.revocation_file import RevocationFile
from gateway.credentials.revocations import RevocationsUnavailable
from gateway.credentials.trust import unreadable
from gateway.operations.table import OperationTable
from gateway.policy.identities import identities_in
from gateway.policy.tenants import tenant_policies
from gateway.proxy.identity_endpoint import subject_of
from gateway.settings.certificates import trusted_certificates
from gateway.settings.section import Problem, SettingsInvalid, revealed, split_address
from gateway.settings.served_certificate import served_certificate
from gateway.settings.settings import Settings
from gateway.traces.collector import spans_to
from gateway.wire.token_exchange import SubjectUnusable


def foreseen(settings: Settings, known: Iterable[Problem]) -> list[Problem]:
    """Every problem that is not known already; of a key that has one, no other is looked for."""
    keys = {problem.key for problem in known}
    found: list[Problem] = []
    if "tenants" not in keys:
        found += _tenants_of_issuers(
            settings, {key.split(".")[1] for key in keys if key.startswith("tenants.")}
        )
    if not any(key.startswith(("tenants", "upstream", "OPENAI_")) for key in keys):
        found += keyless(settings)
    for use in _USES:
        try:
            use(settings)
        except SettingsInvalid as invalid:
            found += invalid.problems
    for look in (unusable_redis, _keys, _revocations, _bearers_of_issuers):
        found += look(settings)
    return [problem for problem in found if problem.key not in keys]


def foreseen_here(settings: Settings) -> Iterator[str]:
    """What would go wrong on this machine, which need not be the one that it is for."""
    for key, address in (("listen", settings.listen), ("admin_listen", settings.admin_listen)):
        host, _ = split_address(address)
        try:
            for family, kind, protocol, _, where in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
                with socket.socket(family, kind, protocol) as listener:
                    listener.bind(where)
        except OSError as error:
            yield f"{key}: {host} is no address of this machine: {error.strerror}"
    for key, identity in identities_in(settings):
        try:
            subject_of(identity.token_file)
        except SubjectUnusable as unusable:
            yield f"{key}.token_file: {identity.token_file} {unusable}; until it is there nothing opens that upstream"


def unusable_redis(settings: Settings) -> Iterator[Problem]:
    """What is wrong with the URL of Redis, asking nobody."""
    url = revealed(settings.redis_url)
    if url is None:
        return
    from gateway.redis.servers import RedisServers  # and its client, which most who check do without

    try:
        RedisServers.parse(url)
    except ValueError as error:
        yield Problem("redis_url", str(error))


def _keys(settings: Settings) -> Iterator[Problem]:
    """What keeps the keys from being read, or the first one from being made."""
    folder = settings.keys_dir
    try:
        folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        yield Problem("keys_dir", f"{folder} cannot be looked into: {error.strerror}")
        return
    if folder.exists() and not folder.is_dir():
        yield Problem("keys_dir", f"{folder} is a file; expected a folder, in which keys are files")
        return
    try:
        if folder.exists() and len(KeyRing.load(folder)):
            return
    except KeyProblem as problem:
        yield from (Problem("keys_dir", text) for text in problem.problems)
        return
    if not any(unusable_redis(settings)):
        try:
            check_nobody_has_any(settings)
        except SettingsInvalid as invalid:
            yield from invalid.problems
            return
    above = next(parent for parent in (folder, *folder.absolute().parents) if os.path.lexists(parent))
    if not above.is_dir():
        what = "a link that leads nowhere" if above.is_symlink() else "a file"
        yield Problem("keys_dir", f"{folder} cannot be made: {above} is {what}")
    elif not os.access(above, os.W_OK | os.X_OK):
        yield Problem(
            "keys_dir", f"{folder} holds no key, and none can be made: {above} is not ours to write"
        )


def _revocations(settings: Settings) -> Iterator[Problem]:
    try:
        there = settings.keys_dir.is_dir()
    except OSError:
        return  # said of the keys
    if settings.redis_url is None and there:
        unread = asyncio.run(_unread(settings.keys_dir))
        if unread is not None:
            yield unreadable(unread)


async def _unread(keys_dir: Path) -> str | None:
    try:
        await RevocationFile(keys_dir).changed()
    except RevocationsUnavailable as unavailable:
        return str(unavailable)
    return None


def _tenants_of_issuers(settings: Settings, unsound: Collection[str]) -> Iterator[Problem]:
    """Tenants that issuers may speak for, and that nobody has configured, not even in an unsound way."""
    tenants = {*settings.tenants, *unsound}
    for name, issuer in settings.issuers.items():
        field = "tenants" if issuer.tenant is None else "tenant"
        spoken_for = [(field, tenant) for tenant in issuer.tenants or (issuer.tenant,)]
        spoken_for += [
            (f"subjects.{pattern}.tenant", grant.tenant) for pattern, grant in issuer.subjects.items()
        ]
        for key, tenant in spoken_for:
            if tenant is not None and tenant not in tenants and tenant != "*":
                near = nearest(tenant, tenants)
                yield Problem(
                    f"issuers.{name}.{key}", f"the configuration has no tenant {tenant!r}{near}: all get 403"
                )


def _bearers_of_issuers(settings: Settings) -> Iterator[Problem]:
    """Files that open key sets and cannot be read now: a start does not wait for one, and has no keys without."""
    for name, issuer in settings.issuers.items():
        if issuer.jwks_bearer_token_file is not None:
            try:
                read_bearer(issuer.jwks_bearer_token_file)
            except FetchFailed as failed:
                yield Problem(f"issuers.{name}.jwks_bearer_token_file", str(failed))


_USES: tuple[Callable[[Settings], object], ...] = (
    refuse_itself,
    lambda settings: trusted_certificates(settings.upstream.ca_file),
    lambda settings: served_certificate(settings, now=time.time()),
    lambda settings: other_issuers(
        settings.issuers,
        own_name=settings.credentials.issuer,
        vocabulary=OperationTable.load().vocabulary,
        keys_from_url=lambda _name, _issuer: KeyRing([]),
    ),
    lambda settings: tenant_policies(settings, OperationTable.load()),
    lambda settings: spans_to(settings.traces, worker=0, lost=lambda _: None),
)
"""What a start makes of settings; each raises SettingsInvalid with what it cannot use."""
