"""Remembers which tenants have had which upstream account, also over restarts."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from gateway.app.account_store import (
    DEADLINE_SECONDS,
    AccountFile,
    AccountStore,
    AccountsUnavailable,
)
from gateway.policy.accounts import Account, History, Uses
from gateway.redis.observer import NOBODY, Observer
from gateway.redis.schema import DEFAULT_PREFIX

_log = logging.getLogger("gateway.accounts")


class AccountMemory:
    """What is noted in Redis where there is one, else beside the keys; without either, in this process alone.

    With Redis the file is a copy, from which a Redis that lost its data gets it back: one that is there and cannot be
    read may know what Redis does not. No method fails: what cannot be read or kept is said once, and the history says
    that it is not known, or not kept.
    """

    def __init__(
        self,
        *,
        redis_url: str | None,
        keys_dir: Path | None,
        redis_prefix: str = DEFAULT_PREFIX,
        deadline_seconds: float = DEADLINE_SECONDS,
        redis_observer: Observer = NOBODY,
    ) -> None:
        """`deadline_seconds`: of one question to Redis."""
        redis = _shared(redis_url, redis_prefix, deadline_seconds, redis_observer) if redis_url else None
        file = None if keys_dir is None else AccountFile(keys_dir)
        self._store: AccountStore | None = redis or file
        self._copy = None if redis is None else file
        self._copied: dict[tuple[str, Account], bool] | None = None
        self._copies = True
        self._known: dict[tuple[str, Account], bool] = {}
        self._unwritten: dict[tuple[str, Account], bool] = {}
        self._lost: dict[tuple[str, Account], bool] = {}
        self._has_read = self._store is None
        self._reads = self._has_read
        self._one_at_a_time = asyncio.Lock()
        self.trouble: str | None = None
        """Why something cannot be read or kept at the moment."""

    @property
    def history(self) -> History:
        """What is known now."""
        return History(dict(self._known), known=self._knows_all, unwritten=frozenset(self._unwritten))

    @property
    def _knows_all(self) -> bool:
        return self._has_read and (self._copy is None or self._copied is not None)

    async def remember(self, uses: Uses) -> None:
        """Note what is to be in force, before it is. What is noted already costs no question."""
        if self._has_read and not self._new_of(uses):
            return
        async with self._one_at_a_time:
            if not self._has_read:
                await self._read()
            new = self._new_of(uses)
            self._known |= new
            if self._store is not None:
                self._unwritten |= new
            await self._write()
            await self._read()  # of two gateways that begin together one at least sees the other

    async def recall(self, uses: Uses) -> History:
        """What a start with these would find; notes nothing: for who only wants to know."""
        async with self._one_at_a_time:
            await self._read()
            new = self._new_of(uses)
            if new and self._store is not None:
                try:
                    await self._store.try_to_keep()
                except AccountsUnavailable as unavailable:
                    self._unwritten |= new
                    self._in_trouble(unavailable)
            return self.history

    async def look(self) -> bool:
        """Read what others have noted, note what could not be noted before; whether the history is another now."""
        async with self._one_at_a_time:
            before = (self._knows_all, len(self._unwritten))
            changed = await self._read()
            await self._write()
            return changed or before != (self._knows_all, len(self._unwritten))

    def _new_of(self, uses: Uses) -> dict[tuple[str, Account], bool]:
        return {use: own for use, own in uses.items() if self._known.get(use) is not own}

    async def close(self) -> None:
        """Let everything go."""
        if self._store is not None:
            await self._store.close()

    async def _read(self) -> bool:
        """Take over what is noted; whether any of it was new."""
        if self._store is None:
            return False
        new = await self._read_copy()
        try:
            found = await self._store.changed()
        except AccountsUnavailable as unavailable:
            self._reads = False
            self._in_trouble(unavailable)
            return new
        self._has_read = self._reads = True
        if found is None:
            return new
        self._lost = {
            use: own for use, own in self._known.items() if use not in found and use not in self._unwritten
        }
        before = dict(self._known)
        self._known |= found
        self._known |= self._unwritten
        return new or before != self._known

    async def _read_copy(self) -> bool:
        """Begin with what was known here last."""
        if self._copy is None or self._copied is not None:
            return False
        try:
            self._copied = dict(await self._copy.changed() or {})
        except AccountsUnavailable as unavailable:
            self._in_trouble(unavailable)
            return False
        self._known = {**self._copied, **self._known}
        return bool(self._copied)

    async def _write(self) -> None:
        """Note what is not noted yet, or was and got lost."""
        if self._store is None:
            return
        owed = {**self._lost, **self._unwritten}
        if owed:
            try:
                await self._store.add(owed)
            except AccountsUnavailable as unavailable:
                self._in_trouble(unavailable)
                return
            self._lost, self._unwritten = {}, {}
        elif not self._reads:
            return  # with nothing to write it is not known that there is no trouble any more
        if self.trouble is not None and self._knows_all:
            _log.warning("what is remembered of upstream accounts can be read and kept again")
            self.trouble = None
        await self._write_copy()

    async def _write_copy(self) -> None:
        if self._copy is None or self._copied is None:
            return
        missing = {use: own for use, own in self._known.items() if self._copied.get(use) is not own}
        if not missing:
            return
        try:
            await self._copy.add(missing)
        except AccountsUnavailable as unavailable:
            if self._copies:
                _log.info("upstream accounts are remembered in Redis alone: %s", unavailable)
            self._copies = False
            return
        self._copied |= missing
        self._copies = True

    def _in_trouble(self, unavailable: AccountsUnavailable) -> None:
        if self.trouble is None:
            _log.error("what is remembered of upstream accounts cannot be read or kept: %s", unavailable)
        self.trouble = str(unavailable)


def _shared(redis_url: str, prefix: str, deadline_seconds: float, observer: Observer) -> AccountStore:
    # Imported here, as in every room: Redis's client takes 40 ms and 6 MB, which who has no Redis need not pay.
    from gateway.app.redis_accounts import RedisAccounts

    return RedisAccounts(redis_url, prefix=prefix, deadline_seconds=deadline_seconds, observer=observer)
