"""What the commands about stored objects share: the registry, and whom they are about."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from gateway.cli.drawing import complain, remark
from gateway.cli.options import add_settings, check_tenant, settings_from
from gateway.cli.stores import PATIENCE_SECONDS, quiet_redis
from gateway.limits.store import StoreUnavailable
from gateway.objects.store import Named, Scope
from gateway.operations.stored_kinds import StoredKind, StoredKinds
from gateway.operations.table import OperationTable
from gateway.policy.accounts import storage_of
from gateway.policy.tenants import TenantPolicy, tenant_policies
from gateway.settings.section import Problem, SettingsInvalid, revealed
from gateway.settings.settings import Settings

if TYPE_CHECKING:
    from gateway.objects.redis_objects import RedisObjects


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command has at hand."""

    store: RedisObjects
    settings: Settings
    policies: dict[str, TenantPolicy]
    kinds: StoredKinds

    async def scopes(self, tenant: str | None = None, storage: str | None = None) -> list[Scope]:
        """Tenants of the configuration and those that are remembered, each with where its objects are stored.

        Raises ValueError for a tenant, or a storage, that nobody knows.
        """
        known = {*await self.store.scopes(), *map(scope_of, self.policies.values())}
        of_tenant = [scope for scope in sorted(known, key=str) if tenant in (None, scope.tenant)]
        if not of_tenant and tenant is not None:
            check_tenant(self.settings, tenant)
        found = [scope for scope in of_tenant if storage in (None, scope.storage)]
        if not found and storage is not None:
            places = ", ".join(sorted({scope.storage for scope in of_tenant}))
            raise ValueError(f"nothing is stored at {storage!r}; there are {places or 'no storages'}")
        return found

    async def scope(self, tenant: str, storage: str | None) -> Scope:
        """The one of a tenant. Raises ValueError where there are several."""
        policy = self.policies.get(tenant)
        if storage is None and policy is not None:
            return scope_of(policy)
        found = await self.scopes(tenant, storage)
        if len(found) > 1:
            places = " and ".join(scope.storage for scope in found)
            raise ValueError(f"{tenant} has had objects at {places}: say which with --storage")
        return found[0]

    async def owners(self, storage: str, named: Sequence[Named]) -> list[list[str]]:
        """The tenants that have each of these objects there."""
        owners: list[list[str]] = [[] for _ in named]
        for scope in await self.scopes(storage=storage):
            for of_one, owns in zip(owners, await self.store.look(scope, named), strict=True):
                if owns:
                    of_one.append(scope.tenant)
        return owners


def scope_of(policy: TenantPolicy) -> Scope:
    """Where a tenant's objects are stored."""
    return Scope(storage_of(policy.access.base_url), policy.id)


def add(
    actions: Any, name: str, run: Callable[[argparse.Namespace], int], **words: str
) -> argparse.ArgumentParser:
    """Add one action."""
    command: argparse.ArgumentParser = actions.add_parser(name, **words)
    add_settings(command)
    command.add_argument(
        "--storage",
        metavar="PLACE",
        help="what stores them: the host of the upstream, with its path unless it is the public API",
    )
    command.set_defaults(run=run)
    return command


def kind_of(name: str) -> StoredKind:
    """Raise ValueError for what is no kind."""
    kinds = StoredKinds.load().kinds
    if name not in kinds:
        raise ValueError(f"{name!r} is no kind of stored objects; there are {', '.join(kinds)}")
    return kinds[name]


def lines_of_input(what: str) -> TextIO:
    """Standard input; who sits at a terminal is told that it is read."""
    if sys.stdin.isatty():
        remark(f"reading {what} from standard input; Ctrl-D ends it")
    return sys.stdin


@asynccontextmanager
async def _asked(settings: Settings, url: str) -> AsyncIterator[Asked]:
    from gateway.objects.redis_objects import RedisObjects

    store = RedisObjects(url, prefix=settings.redis_prefix, deadline_seconds=PATIENCE_SECONDS)
    try:
        policies = tenant_policies(settings, OperationTable.load())
        yield Asked(store, settings, policies, StoredKinds.load())
    finally:
        await store.close()


async def _run(settings: Settings, url: str, work: Callable[[Asked], Awaitable[int]]) -> int:
    async with _asked(settings, url) as asked:
        return await work(asked)


def answered(options: argparse.Namespace, work: Callable[[Asked], Awaitable[int]]) -> int:
    """Do it with the registry at hand; the exit code. Raises SettingsInvalid without one."""
    settings = settings_from(options)
    url = revealed(settings.redis_url)
    if url is None:
        raise SettingsInvalid(
            [Problem("redis_url", "is not set, and without Redis nobody records whose stored objects are")]
        )
    with quiet_redis():
        try:
            return asyncio.run(_run(settings, url, work))
        except StoreUnavailable as unavailable:
            complain(f"the registry of stored objects cannot be asked: {unavailable}")
            return 1
