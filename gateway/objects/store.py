"""What the registry of stored objects is asked and told, and by which words. Pure but for the store's own methods.

An entry says that an object of a kind is a tenant's. It is made from what the upstream has answered, and from nothing
else; it outlives the tenant's configuration. Entries of one tenant are in one place of a cluster.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple, Protocol


class Scope(NamedTuple):
    """Whose objects, and where they are stored."""

    storage: str
    """What stores them: the same id in two of these means two objects (`policy.accounts.storage_of`)."""

    tenant: str
    others: tuple[str, ...] | None = None
    """None: what the registry does not know is nobody's. Else the tenants that once had the account, of whom none is
    left: what nobody knows is the tenant's own, as long as all that each of these made has been recorded."""


class Named(NamedTuple):
    """An object that is asked for."""

    kind: str
    id: str


class Intent(NamedTuple):
    """That an exchange is about to have something made; what is left of these was made unseen, or never."""

    exchange_id: str
    kind: str
    subject: str
    at: float
    """Unix seconds."""


class Made(NamedTuple):
    """An object that the upstream says it has made."""

    kind: str
    id: str
    created_at: float
    """Unix seconds, by the upstream's word; else when it was answered."""

    expires_at: float | None = None
    """When the upstream forgets it, where it says so."""


class Entry(NamedTuple):
    """An object of a listed kind, as the registry has it."""

    id: str
    created_at: float
    """Unix seconds; the fraction keeps those of one second in the order in which they were recorded."""


class Begun(NamedTuple):
    """What the store knows of a tenant's entries as a whole."""

    mark: str
    """Made when the first was about to come, and how many have: another one, or fewer, and entries are gone."""

    lost_since: float | None
    """Unix seconds; None: nothing is lost, or the operator has acknowledged it."""


class ObjectStore(Protocol):
    """Keeps entries and intents. Every method raises StoreUnavailable (of limits) and nothing else.

    What is looked up or recorded leaves in the turn of the loop in which that is asked for, unless it is much.
    """

    saw: Callable[[Scope, str], bool]
    """Is told, with each look, the mark of what the store has of a tenant; empty: it has nothing. Says whether that is
    not what is remembered, so that what the store does not know may be what it has lost."""

    def look(
        self, scope: Scope, named: Sequence[Named], intent: Intent | None = None
    ) -> asyncio.Future[list[bool]]:
        """Whether each may be used in this scope, in one round trip that also notes the intent.

        The intent is noted only if all may. With nothing named and no intent it only tells that the store is there.
        Who cancels it does not stop what has left.
        """

    def record(self, scope: Scope, made: Sequence[Made], intent_id: str | None = None) -> asyncio.Future[int]:
        """Make them the tenant's, and forget the intent; how many are new. Doing it again changes nothing."""

    async def forget_intent(self, scope: Scope, exchange_id: str) -> None:
        """Nothing was made."""

    async def free(self, scope: Scope, named: Sequence[Named], *, unseen: bool = False) -> int:
        """The upstream has them no longer, or the operator wants the entries gone; how many there were.

        `unseen`: the upstream has said no more than that it does not have them. What was recorded a few minutes ago
        stays, for an upstream may not see at once what it has made; and what goes by itself does.
        """

    async def page(
        self, scope: Scope, kind: str, *, after: Entry | None, ascending: bool, count: int
    ) -> list[Entry]:
        """Entries of a listed kind behind `after` by creation, newest first unless `ascending`."""

    async def find(self, scope: Scope, kind: str, object_id: str) -> Entry | None:
        """An entry of a listed kind by its id; None where the tenant has none."""

    async def count(self, scope: Scope, kind: str) -> int:
        """How many entries of a kind the tenant has."""

    async def begin(
        self, scope: Scope, *, recorded: bool | None, mark: str = "", acknowledged: bool = False
    ) -> Begun:
        """The tenant comes into force there, or still is.

        `recorded`: for the first time, and all that it makes is recorded from now on; once False was said of a tenant,
        that stays so. None: it was there before. `mark` is what is remembered of the store: where it has another one,
        entries are lost, until the operator has `acknowledged` that.
        """

    def intents(self, scope: Scope) -> AsyncIterator[Intent]:
        """Those that are left, oldest first."""

    async def close(self) -> None:
        """Let go of connections; nothing else may be called afterwards."""
