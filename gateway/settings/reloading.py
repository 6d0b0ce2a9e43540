"""Following the configuration while running: re-read whole, taken over whole, or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar

from gateway.settings.effect import tenant_changes, when
from gateway.settings.section import SettingsInvalid
from gateway.settings.seen import Seen

_log = logging.getLogger("gateway.configuration")

FOLLOW_SECONDS = 1.0

Read = TypeVar("Read")
"""What is read: settings, or what was gathered for others to judge."""


class Configuration(Generic[Read]):
    """Re-reads the settings on demand, and whenever a file that they were read from has changed.

    `read` notes every such file, those of secrets, certificates and issuers' keys as well.
    `take` puts new settings in force and returns the names of those that are not followed and have changed; it raises
    SettingsInvalid to refuse them. `loaded` is told whether a reload went well. `tenants` are those of what was read,
    by their ids. `replaceable`: those names can take effect without a new start, for there are workers to replace.
    """

    def __init__(
        self,
        *,
        read: Callable[[Seen], Read],
        take: Callable[[Read], Awaitable[Iterable[str]]],
        loaded: Callable[[bool], None],
        tenants: Callable[[Read], Mapping[str, Any]],
        replaceable: bool = False,
    ) -> None:
        self._read = read
        self._take = take
        self._loaded = loaded
        self._tenants = tenants
        self._tenants_now: Mapping[str, Any] = {}
        self._replaceable = replaceable
        self._seen = Seen()
        self._task: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._reloads: set[asyncio.Task[bool]] = set()

    async def start(self, settings: Read) -> None:
        """Follow the files from now on: those that these settings, which are in force, were read from."""
        self._tenants_now = self._tenants(settings)
        try:
            is_same = await asyncio.to_thread(self._looked_at) == settings
        except SettingsInvalid:
            is_same = False
        if not is_same:
            await self.reload()
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following; nobody waits for what is being read."""
        if self._task is not None:
            for task in (self._task, *self._reloads):
                task.cancel()
            await asyncio.gather(self._task, *self._reloads, return_exceptions=True)

    def reload_soon(self) -> asyncio.Task[bool]:
        """Reload without waiting for it, for a signal's handler; the result is whether it went well."""
        task = asyncio.create_task(self.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        return task

    async def reload(self) -> bool:
        """Read everything again. What is wrong is said, counted, and changes nothing."""
        async with self._one_at_a_time:  # an older reading must not be taken over after a newer one
            return await self._reload()

    async def _reload(self) -> bool:
        try:
            settings = await asyncio.to_thread(self._looked_at)
            waiting = sorted(await self._take(settings))
        except Exception as invalid:  # noqa: BLE001 (whatever the files hold, what is in force stays in force)
            problems = invalid.problems if isinstance(invalid, SettingsInvalid) else [invalid]
            for problem in problems:
                _log.error("configuration not reloaded: %s", problem)
            self._loaded(False)
            return False
        for warning in self._seen.warnings:
            _log.warning("configuration: %s", warning)
        before, self._tenants_now = self._tenants_now, self._tenants(settings)
        changes = tenant_changes(before, self._tenants_now)
        _log.info("configuration reloaded; tenants %s", changes or "as before")
        for name in waiting:
            effect = when(name, replaceable=self._replaceable)
            _log.warning("configuration: %s has changed and takes effect %s", name, effect)
        self._loaded(True)
        return True

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            try:
                if await asyncio.to_thread(self._seen.changed):
                    await self.reload()
            except Exception:  # noqa: BLE001 (without further looks nothing would ever be followed)
                _log.exception("looking for changes of the configuration failed")

    def _looked_at(self) -> Read:
        """Read the settings, and note what they were read from; what could not be read is followed as before."""
        seen = Seen()
        try:
            settings = self._read(seen)
        except BaseException:
            self._seen = Seen({**self._seen.files, **seen.files})
            raise
        self._seen = seen
        return settings
