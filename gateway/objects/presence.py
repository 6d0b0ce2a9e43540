"""Which tenants are in force, as the store is told; and whether what it had of them is still there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from time import monotonic
from typing import Final

from gateway.limits.store import StoreUnavailable
from gateway.objects.marks import Marks
from gateway.objects.store import Begun, ObjectStore, Scope

LOOK_SECONDS: Final = 30.0
_LOST_LOOK_SECONDS: Final = 3.0
"""While somebody may be about to bring back what is lost."""

_AT_ONCE: Final = 32

_log = logging.getLogger("gateway.objects")


class Presence:
    """Tells the store of each tenant in force until it has confirmed, and looks again every half minute."""

    def __init__(self, store: ObjectStore, marks: Marks) -> None:
        self._store = store
        self._marks = marks
        self._in_force: frozenset[Scope] = frozenset()
        self._checked: frozenset[Scope] = frozenset()
        self._owed: dict[Scope, bool | None] = {}
        self._lost: dict[Scope, float] = {}
        self._looked_at = monotonic()

    @property
    def lost(self) -> int:
        """Tenants to whom only what is recorded is open, and is lost, until somebody has said that this is known."""
        return sum(scope in self._lost for scope in self._checked)

    @property
    def owes(self) -> bool:
        """Whether the store has still to be told of somebody."""
        return bool(self._owed) or self._is_time

    @property
    def _is_time(self) -> bool:
        return monotonic() - self._looked_at > (_LOST_LOOK_SECONDS if self._lost else LOOK_SECONDS)

    def put(self, scopes: Mapping[Scope, bool | None], checked: Iterable[Scope]) -> None:
        """These are in force from now on, and to those that are `checked` only what is recorded is open.

        Whether all that each makes is recorded, from the first; None: as before.
        """
        self._in_force = frozenset(
            _place(scope) for scope, recorded in scopes.items() if recorded is not False
        )
        self._checked = frozenset(map(_place, checked))
        for scope, recorded in scopes.items():
            self._owe(_place(scope), recorded)

    def not_wholly(self, scope: Scope) -> None:
        """Something that the tenant has made will never be recorded."""
        self._owe(_place(scope), recorded=False)

    def saw(self, scope: Scope, mark: str) -> bool:
        """The store has this mark of a tenant, which is in force or once was; whether that has to be looked at."""
        if self._marks.follow(scope, mark):
            return False
        place = _place(scope)
        if place in self._lost or not (place in self._in_force or self._marks.get(place)):
            return False
        self._owe(place, recorded=None)
        return True

    async def start(self) -> None:
        """Begin with what was known here last."""
        await asyncio.to_thread(self._marks.load)

    async def tell(self) -> bool:
        """Tell the store what it has still to be told; whether it took all."""
        if self._is_time:
            self._looked_at = monotonic()
            for scope in self._in_force if not self._lost else tuple(self._lost):
                self._owed.setdefault(scope, None)
        owed = list(self._owed.items())
        new = dict[Scope, str]()
        for at in range(0, len(owed), _AT_ONCE):
            some = owed[at : at + _AT_ONCE]
            for (scope, recorded), begun in zip(
                some, await asyncio.gather(*(self._begin(*one) for one in some)), strict=True
            ):
                if begun is None:
                    continue
                if self._owed.get(scope) is recorded:
                    self._owed.pop(scope, None)
                # Who is in force no more has nobody who would miss it, and nothing opens by it.
                if scope in self._in_force and self._is_lost(scope, begun):
                    continue
                if not (self._marks.follow(scope, begun.mark) and self._marks.is_kept(scope)):
                    new[scope] = begun.mark
        if new:
            await asyncio.to_thread(self._marks.keep, new)
        return not self._owed

    async def _begin(self, scope: Scope, recorded: bool | None) -> Begun | None:
        try:
            mark = "" if recorded is False else self._marks.get(scope)
            return await self._store.begin(scope, recorded=recorded, mark=mark)
        except StoreUnavailable:
            return None

    def _is_lost(self, scope: Scope, begun: Begun) -> bool:
        if begun.lost_since is None:
            if self._lost.pop(scope, None) is not None:
                _log.warning(
                    "stored objects of %s at %s: the loss is acknowledged", scope.tenant, scope.storage
                )
            return False
        if scope not in self._lost:
            _log.error(
                "what was recorded of the stored objects of %s at %s is lost: Redis has forgotten it%s; `gateway "
                "objects import` brings it back, `gateway objects acknowledge` says that it is gone",
                scope.tenant,
                scope.storage,
                ", and all that it made before is closed to it" if scope in self._checked else "",
            )
        self._lost[scope] = begun.lost_since
        return True

    def _owe(self, scope: Scope, recorded: bool | None) -> None:
        """What was said otherwise of a tenant holds; what is not known is nothing said."""
        before = self._owed.get(scope)
        if before is None or recorded is False:
            self._owed[scope] = recorded


def _place(scope: Scope) -> Scope:
    return scope if scope.others is None else scope._replace(others=None)
