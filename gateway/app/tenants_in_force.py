"""The tenants in force: those of the configuration, judged by what their upstream accounts have had."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from gateway.app.account_memory import AccountMemory
from gateway.limits.terms import OnStoreFailure
from gateway.objects.registry import Registry
from gateway.objects.store import Scope
from gateway.objects.unrecorded import Unrecorded
from gateway.operations.table import OperationTable
from gateway.policy.accounts import Uses, storage_of
from gateway.policy.tenants import (
    StoredObjects,
    TenantBook,
    TenantPolicy,
    account_uses,
    closed_to,
    judged,
    registered,
    tenant_policies,
)
from gateway.settings.settings import Settings

LOOK_SECONDS = 1.0
"""Between two looks at what other gateways have noted."""

_log = logging.getLogger("gateway.accounts")


class TenantsInForce:
    """Keeps the book of tenants current: with the configuration, and with what other gateways note of accounts.

    Until `start` has read what is remembered, stored objects are open by the operator's word alone. Raises
    SettingsInvalid for a configuration that cannot be in force.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        table: OperationTable,
        memory: AccountMemory,
        registry: Registry | None = None,
        unrecorded: Unrecorded | None = None,
    ) -> None:
        self._settings = settings
        self._table = table
        self._memory = memory
        self._registry = registry
        self._unrecorded = unrecorded or Unrecorded(None)
        self._never_recorded: frozenset[Scope] | None = frozenset()
        self._said: list[str] = []
        self._noted: list[str] = []
        self._changed: Callable[[], None] = _nothing
        self._follower: asyncio.Task[None] | None = None
        self.book = TenantBook(tenant_policies(settings, table, memory.history))

    @property
    def on_store_failure(self) -> OnStoreFailure:
        """What decides while the limits' store is away."""
        return self._settings.on_store_failure

    def tell(self, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever other tenants, or other rules about them, are in force."""
        self._changed = changed

    async def start(self) -> None:
        """Remember who has which account, and put that in force; then follow it."""
        known = await self._remember(self.book.policies)
        if self._registry is not None:
            self._never_recorded = await asyncio.to_thread(self._unrecorded.known)
        self._put(self.book.policies, known)
        self._follower = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait({self._follower})
        await self._memory.close()

    async def prepare(self, settings: Settings) -> Callable[[], None]:
        """Judge a new configuration and note its accounts; returns what puts it in force. Raises SettingsInvalid.

        What is noted of one that is not put in force then stays so: it might have been.
        """
        policies = await asyncio.to_thread(tenant_policies, settings, self._table)
        known = await self._remember(policies)

        def put() -> None:
            self._settings = settings
            self._put(policies, known)

        return put

    async def _remember(self, policies: Mapping[str, TenantPolicy]) -> Uses:
        """Note the accounts of these, and that nobody records them where that is so; returns what was known before."""
        if self._registry is not None:
            await self._memory.look()
        else:
            await asyncio.to_thread(self._unrecorded.note, map(_scope_of, policies.values()))
        known = self._memory.history.uses
        await self._memory.remember(account_uses(policies))
        return known

    def _put(self, policies: Mapping[str, TenantPolicy], known: Uses | None = None) -> None:
        has_registry = self._registry is not None  # whatever the settings say: they count at a restart
        self.book.policies = {
            tenant_id: _doubted(policy, self._never_recorded)
            for tenant_id, policy in judged(policies, self._memory.history, has_registry=has_registry).items()
        }
        if self._registry is not None:
            self._registry.in_force(
                {
                    **dict(_recorded(self.book.policies, known)),
                    **dict.fromkeys(self._never_recorded or (), False),
                },
                checked=[
                    policy.scope
                    for policy in self.book.policies.values()
                    if policy.registered and policy.scope is not None
                ],
            )
        sentences = closed_to(self.book.policies.values())
        if sentences != self._said:
            for sentence in sentences or ["Stored objects are closed to no tenant any more."]:
                _log.warning("%s", sentence)
        notes = registered(self.book.policies.values())
        if notes != self._noted:
            for note in notes or ["No tenant works by the registry of stored objects any more."]:
                _log.info("%s", note)
        self._said, self._noted = sentences, notes
        self._changed()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if await self._memory.look():
                    self._put(self.book.policies)
            except Exception:  # noqa: BLE001 (what is known holds; without further looks nothing new would close)
                _log.exception("looking at what is remembered of upstream accounts failed")


def _recorded(
    policies: Mapping[str, TenantPolicy], known: Uses | None
) -> Iterator[tuple[Scope, bool | None]]:
    """For each tenant whether all that it makes is recorded; None: what was said of it before holds.

    Of one that is alone nobody waits for the record, so that a kill, or a client that leaves, can have something made
    of which nobody hears.
    """
    for tenant_id, policy in policies.items():
        scope = policy.scope or _scope_of(policy)
        if policy.objects in (StoredObjects.OPEN, StoredObjects.REFUSED):
            yield scope, False
        else:
            is_new = known is not None and (tenant_id, policy.account) not in known
            yield scope, True if is_new and policy.registered else None


def _doubted(policy: TenantPolicy, never_recorded: frozenset[Scope] | None) -> TenantPolicy:
    """The same tenant; what nobody knows is not its own where another had the account while nobody recorded."""
    scope = policy.scope
    if scope is None or not scope.others:
        return policy
    if never_recorded is not None and not any(
        Scope(scope.storage, other) in never_recorded for other in scope.others
    ):
        return policy
    return replace(policy, scope=scope._replace(others=None))


def _scope_of(policy: TenantPolicy) -> Scope:
    return Scope(storage_of(policy.access.base_url), policy.id)


def _nothing() -> None:
    """Nobody wants to know."""
