"""Where it is noted which tenants have had which upstream account; and one such place, a file beside the keys.

Of a key there is a digest only. Nothing is ever taken out: that a tenant has had an account stays true.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import orjson

from gateway.credentials.private_files import locked, read_at_most, write_private
from gateway.policy.accounts import Account, Uses

FILE_NAME = "upstream-accounts.jsonl"
"""Beside the keys, and named unlike them: it is none."""

MOST_FILE_BYTES = 64 * 2**20
DEADLINE_SECONDS = 1.0
"""All of it is read at once, and there may be a great deal."""


class AccountsUnavailable(Exception):
    """What is noted of accounts could not be read, or not be kept."""


class AccountStore(Protocol):
    """A place that outlives the process. Every method raises AccountsUnavailable."""

    async def changed(self) -> Uses | None:
        """All that is noted; None when nothing has changed since the last call."""

    async def add(self, uses: Uses) -> None:
        """Note these, whole or not at all as far as a reader can tell them apart."""

    async def try_to_keep(self) -> None:
        """Raise where it can be told beforehand that nothing could be noted."""

    async def close(self) -> None:
        """Let everything go."""


class AccountFile:
    """What the processes of one machine share: mode 0600, a line for each use, replaced as a whole."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / FILE_NAME
        self._seen: tuple[int, int, int] | None = None

    async def changed(self) -> Uses | None:
        return await asyncio.to_thread(self._changed)

    async def add(self, uses: Uses) -> None:
        await asyncio.to_thread(self._add, uses)

    async def try_to_keep(self) -> None:
        there = next(folder for folder in self.path.parents if folder.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise AccountsUnavailable(f"nothing can be written in {self.path.parent}")

    async def close(self) -> None:
        """Nothing is held open."""

    def _changed(self) -> Uses | None:
        try:
            found = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._seen = None
            return {}  # the first start, or somebody took it away: whoever remembers writes it back
        except OSError as error:
            raise _unavailable(self.path, error) from None
        seen = (found.st_ino, found.st_size, found.st_mtime_ns)
        if seen == self._seen:
            return None
        uses = self._read()
        self._seen = seen
        return uses

    def _add(self, new: Uses) -> None:
        try:
            with locked(self.path.parent):
                noted = {**self._read(), **new} if self.path.exists() else dict(new)
                lines = [b"%b %d\n" % (written(*use), own) for use, own in noted.items()]
                write_private(self.path, b"".join(lines))
        except OSError as error:
            raise _unavailable(self.path, error) from None

    def _read(self) -> dict[tuple[str, Account], bool]:
        try:
            document = read_at_most(self.path, MOST_FILE_BYTES)
        except OSError as error:
            raise _unavailable(self.path, error) from None
        if document is None:
            raise AccountsUnavailable(f"{self.path} is larger than {MOST_FILE_BYTES} bytes")
        if not document:
            raise AccountsUnavailable(f"{self.path} is empty: what it said of accounts is lost")
        lines = (line.rpartition(b" ") for line in document.splitlines())
        return dict(read(((use, own) for use, _, own in lines), str(self.path)))


def written(tenant: str, account: Account) -> bytes:
    return orjson.dumps([tenant, *account])


def read(entries: Iterable[tuple[bytes, bytes]], where: str) -> Iterator[tuple[tuple[str, Account], bool]]:
    """What is noted. Of one that cannot be read nobody knows whom it would close: none counts then."""
    for written, own in entries:
        try:
            tenant, place, key, project = orjson.loads(written)
            if not all(isinstance(text, str) for text in (tenant, place, key, project or "")):
                raise ValueError
            yield (tenant, Account(place, key, project)), {b"0": False, b"1": True}[own]
        except (ValueError, TypeError, KeyError):
            raise AccountsUnavailable(f"{where}: what it says of accounts cannot be read") from None


def _unavailable(path: Path, error: OSError) -> AccountsUnavailable:
    return AccountsUnavailable(f"{error.filename or path}: {error.strerror}")
