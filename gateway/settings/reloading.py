"""Following the configuration while running: re-read whole, taken over whole, or not at all."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from gateway.settings.section import SettingsInvalid
from gateway.settings.settings import Settings
from gateway.settings.sources import tenant_files

_log = logging.getLogger("gateway.configuration")

FOLLOW_SECONDS = 1.0

_Fingerprint = tuple[tuple[str, int, int, int, int], ...]


class Configuration:
    """Re-reads the settings on demand and whenever one of their files has changed.

    `take` puts new settings in force and returns the names of those that need a restart; it raises
    SettingsInvalid to refuse them. `loaded` is told whether a reload went well.
    """

    def __init__(
        self,
        *,
        read: Callable[[], Settings],
        file: Path | None,
        take: Callable[[Settings], Awaitable[Iterable[str]]],
        loaded: Callable[[bool], None],
    ) -> None:
        self._read = read
        self._file = file
        self._take = take
        self._loaded = loaded
        self._tenants_path: Path | None = None
        self._task: asyncio.Task[None] | None = None
        self._one_at_a_time = asyncio.Lock()
        self._reloads: set[asyncio.Task[bool]] = set()

    async def start(self, settings: Settings) -> None:
        """Follow the files from now on."""
        self._tenants_path = settings.tenants_path
        self._seen = await asyncio.to_thread(self._fingerprint)
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, *self._reloads, return_exceptions=True)

    def reload_soon(self) -> None:
        """Reload without waiting for it; for a signal's handler."""
        task = asyncio.create_task(self.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)

    async def reload(self) -> bool:
        """Read everything again. What is wrong is said, counted, and changes nothing."""
        async with self._one_at_a_time:  # an older reading must not be taken over after a newer one
            return await self._reload()

    async def _reload(self) -> bool:
        try:
            settings = await asyncio.to_thread(self._read)
            needing_restart = sorted(await self._take(settings))
        except Exception as invalid:  # noqa: BLE001 (whatever the files hold, what is in force stays in force)
            problems = invalid.problems if isinstance(invalid, SettingsInvalid) else [invalid]
            for problem in problems:
                _log.error("configuration not reloaded: %s", problem)
            self._loaded(False)
            return False
        self._tenants_path = settings.tenants_path
        _log.warning("configuration reloaded: %d tenants", len(settings.tenants))
        for name in needing_restart:
            _log.warning("configuration: %s has changed and takes effect at the next start", name)
        self._loaded(True)
        return True

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(FOLLOW_SECONDS)
            seen = await asyncio.to_thread(self._fingerprint)
            if seen != self._seen:
                self._seen = seen
                await self.reload()

    def _fingerprint(self) -> _Fingerprint:
        files = [] if self._file is None else [self._file]
        if self._tenants_path is not None:
            try:
                files += tenant_files(self._tenants_path)
            except OSError:
                pass  # counts as a change, and the reload will say what is wrong
        return tuple(_state(path) for path in files)


def _state(path: Path) -> tuple[str, int, int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return str(path), 0, 0, 0, 0
    # A file can be replaced by one of the same size and time.
    return str(path), status.st_mtime_ns, status.st_size, status.st_ino, status.st_ctime_ns
