"""Revocations in a file beside the keys: for gateways without Redis, and to survive Redis for those with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from gateway.credentials.key_ring import REVOCATIONS_FILE
from gateway.credentials.private_files import locked, read_at_most, write_private
from gateway.credentials.revocations import Revocation, RevocationsUnavailable
from gateway.settings.exposure import exposures
from gateway.wire.strict_json import strict_object

MAX_FILE_BYTES = 16 * 2**20


class RevocationFile:
    """A RevocationStore in `revocations.json` of the key directory, mode 0600, replaced as a whole.

    A missing file says that nothing is revoked, until one was seen: then its loss changes nothing.
    """

    def __init__(self, keys_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = keys_dir / REVOCATIONS_FILE
        self._clock = clock
        self._seen: tuple[int, int, int] | None = None

    async def changed(self) -> frozenset[Revocation] | None:
        return await asyncio.to_thread(self._changed)

    async def add(self, revocation: Revocation) -> None:
        await asyncio.to_thread(self._add, {revocation})

    async def merge(self, revocations: Iterable[Revocation]) -> None:
        """Keep these beside those that are there; writes nothing when all of them are."""
        await asyncio.to_thread(self._add, set(revocations))

    async def close(self) -> None:
        """Nothing is held open."""

    def _changed(self) -> frozenset[Revocation] | None:
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            if self._seen is not None:
                raise RevocationsUnavailable(f"{self.path} is gone") from None
            return frozenset()
        except OSError as error:
            raise _unavailable(self.path, error) from None
        seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        if seen == self._seen:
            return None
        entries = self._read()
        self._seen = seen
        return entries

    def _add(self, new: set[Revocation]) -> None:
        try:
            with locked(self.path.parent):
                present = self._read() if self.path.exists() else frozenset()
                if new <= present:
                    return
                now = self._clock()
                kept = sorted(entry.encode() for entry in present | new if entry.until > now)
                write_private(self.path, b'{"revocations": [\n' + b",\n".join(kept) + b"\n]}\n")
        except OSError as error:
            raise _unavailable(self.path, error) from None

    def _read(self) -> frozenset[Revocation]:
        try:
            for danger in exposures(self.path.parent, self.path, secret=True):
                raise RevocationsUnavailable(f"{self.path}: {danger}")
            document = read_at_most(self.path, MAX_FILE_BYTES)
            if document is None:
                raise RevocationsUnavailable(f"{self.path} is larger than {MAX_FILE_BYTES} bytes")
            entries = strict_object(document).get("revocations")
            if not isinstance(entries, list):
                raise RevocationsUnavailable(f'{self.path} has no list "revocations"')
            return frozenset(Revocation.read(entry) for entry in entries)
        except OSError as error:
            raise _unavailable(self.path, error) from None
        except ValueError as error:
            raise RevocationsUnavailable(f"{self.path}: {error}") from None


def _unavailable(path: Path, error: OSError) -> RevocationsUnavailable:
    return RevocationsUnavailable(f"{error.filename or path}: {error.strerror}")
