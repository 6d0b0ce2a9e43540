"""The file with a tenant's key: whole or not there, for its owner alone, replaced in one step.

A new key lies beside it first, where a command that was interrupted finds it again: nobody can be told a key twice.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from gateway.credentials.private_files import read_at_most, sync, write_private
from gateway.settings.exposure import folder_exposures

_MOST_BYTES = 4096
_HIDDEN = re.compile(r"[.*…•]{2,}|…|•")
_LEAST_SHOWN = 4
"""Letters at the end of a redacted key, below which it could be too many."""


class KeyFile:
    """Where the gateway reads a tenant's key, and where the next one waits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pending_path = path.with_name(f".{path.name}.next")

    def key(self) -> str | None:
        """The key in force; None: there is none. Raises OSError."""
        return _read(self.path)

    def pending(self) -> str | None:
        """A key that was made and is not in force. Raises OSError."""
        return _read(self.pending_path)

    def check(self) -> None:
        """Raise ValueError where others could put something in the file's place, before anything is made."""
        folder = self.path.parent
        if folder.exists() and (dangers := "; ".join(folder_exposures(folder))):
            raise ValueError(dangers)

    def keep(self, key: str) -> None:
        """Write a key beside the file, for whom the folder belongs to. Raises OSError."""
        self.check()
        write_private(self.pending_path, f"{key}\n".encode())
        owner = self.path.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:  # else the gateway, which is not root, could not read it
            os.chown(self.pending_path, owner.st_uid, owner.st_gid)

    def put_in_force(self) -> None:
        """Let it take the file's place. Who reads meanwhile has the one or the other. Raises OSError."""
        self.pending_path.replace(self.path)
        sync(self.path.parent)

    def drop_pending(self) -> None:
        """Forget a key that nobody will use. Raises OSError."""
        self.pending_path.unlink(missing_ok=True)


def _read(path: Path) -> str | None:
    try:
        held = read_at_most(path, _MOST_BYTES)
    except FileNotFoundError:
        return None
    try:
        key = (held or b"").decode("ascii").strip()
    except UnicodeError:
        key = ""
    if held is None or (held.strip() and not key):
        raise ValueError(f"{path}: holds something else than a key")
    return key or None


def is_of(key: str | None, redacted: str) -> bool:
    """Whether a key is the one that the upstream shows like this, such as `sk-a...wxyz`.

    Raises ValueError where too little is shown to tell.
    """
    if key is None:
        return False
    shown = _HIDDEN.split(redacted)
    first, last = shown[0], shown[-1]
    if len(shown) < 2 or len(last) < _LEAST_SHOWN - 1 or len(first) + len(last) < _LEAST_SHOWN:
        raise ValueError("the upstream shows too little of its keys to tell which one is in the file")
    return len(key) > len(first) + len(last) and key.startswith(first) and key.endswith(last)
