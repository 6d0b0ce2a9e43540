"""Who made something while nobody recorded it, as gateways without Redis note for the day on which there is one."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import orjson

from gateway.credentials.private_files import locked, read_at_most, write_private
from gateway.objects.store import Scope

FILE_NAME: Final = "objects-unrecorded.jsonl"
_MOST_BYTES: Final = 64 * 2**20
_log = logging.getLogger("gateway.objects")


class Unrecorded:
    """The tenants that were served without Redis, kept beside the keys. Both methods wait for the disk.

    What none of these is known to own may be theirs all the same, so it is nobody else's.
    """

    def __init__(self, keys_dir: Path | None) -> None:
        self._path = None if keys_dir is None else keys_dir / FILE_NAME

    def note(self, scopes: Iterable[Scope]) -> None:
        """Nobody will know what these make from now on."""
        if self._path is None:
            return
        places = {scope._replace(others=None) for scope in scopes}
        try:
            known = self._read(self._path)
            if places <= known:
                return
            with locked(self._path.parent):
                rows = sorted({*self._read(self._path), *places}, key=str)
                write_private(self._path, b"".join(orjson.dumps(scope[:2]) + b"\n" for scope in rows))
        except (OSError, ValueError, TypeError) as error:
            _log.error(
                "%s cannot be written: say that %s made stored objects unrecorded before you add Redis, by "
                "`gateway objects adopt` or `stored_objects`: %s",
                self._path,
                ", ".join(sorted({scope.tenant for scope in places})),
                error,
            )

    def known(self) -> frozenset[Scope] | None:
        """Those that were noted; None: that cannot be read, and it may be anybody."""
        if self._path is None:
            return frozenset()
        try:
            return self._read(self._path)
        except (OSError, ValueError, TypeError) as error:
            _log.error(
                "%s cannot be read: whoever is left of an account has what it made alone: %s",
                self._path,
                error,
            )
            return None

    def _read(self, path: Path) -> frozenset[Scope]:
        try:
            document = read_at_most(path, _MOST_BYTES)
        except FileNotFoundError:
            return frozenset()
        rows = [orjson.loads(line) for line in (document or b"").splitlines()]
        return frozenset(Scope(str(storage), str(tenant)) for storage, tenant in rows)
