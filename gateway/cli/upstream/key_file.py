"""The file with a tenant's key: whole or not there, for its owner alone, replaced in one step.

A new key lies beside it first, where a command that was interrupted finds it again: nobody can be told a key twice.
Before there is one, an empty file there says since when one was about to be made: what was made then, and is nowhere,
is what nobody was told. A link is followed: what it leads to is replaced, and it stays.
"""

from __future__ import annotations

import os
import re
import stat
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
        self._real = Path(os.path.realpath(path))  # `resolve` fails for links that lead in a circle
        self.pending_path = self._real.with_name(f".{self._real.name}.next")

    def key(self) -> str | None:
        """The key in force; None: there is none. Raises OSError."""
        return _read(self.path)

    def pending(self) -> str | None:
        """A key that was made and is not in force. Raises OSError."""
        return _read(self.pending_path)

    def about_to_be_made_at(self) -> float | None:
        """Since when a key was about to be made of which nothing was heard; None: none was. Raises OSError."""
        if self.pending() is not None:
            return None
        try:
            return self.pending_path.stat().st_mtime
        except FileNotFoundError:
            return None

    def check(self) -> None:
        """Raise ValueError where others could put something in the file's place, or the gateway could not read what we
        put there, before anything is made."""
        folder = self._real.parent
        if folder.exists() and (dangers := "; ".join(folder_exposures(folder))):
            raise ValueError(dangers)
        before, us = self._before(), os.geteuid()
        if before is not None and us not in (0, before.st_uid):
            raise ValueError(
                f"{self.path} belongs to another user ({before.st_uid}), who could not read what this one ({us}) puts "
                "in its place; run this as that user, or as root"
            )

    def becomes_narrower(self) -> str | None:
        """Who could read the file that is there, and cannot read what takes its place, in words. Raises OSError."""
        before = self._before()
        if before is None or not before.st_mode & stat.S_IROTH:
            return None
        return (
            f"every user of this machine can read {self.path}; what takes its place is for user {before.st_uid} alone: "
            "the gateway has to be that, or root"
        )

    def announce(self) -> None:
        """Note that a key is about to be made. Raises OSError, and ValueError as `check` does."""
        self._write(b"")

    def keep(self, key: str) -> None:
        """Write a key beside the file. Raises OSError, and ValueError as `check` does."""
        self._write(f"{key}\n".encode())

    def put_in_force(self) -> None:
        """Let it take the file's place. Who reads meanwhile has the one or the other. Raises OSError."""
        self._hand_over()
        self.pending_path.replace(self._real)
        sync(self._real.parent)

    def drop_pending(self) -> None:
        """Forget a key that nobody will use. Raises OSError."""
        self.pending_path.unlink(missing_ok=True)

    def _write(self, content: bytes) -> None:
        self.check()
        write_private(self.pending_path, content)
        self._hand_over()

    def _hand_over(self) -> None:
        """Let those read it who read what it replaces, else whom the folder belongs to; the gateway is one of them."""
        before = self._before()
        owner = before or self._real.parent.stat()
        if os.geteuid() == 0 and owner.st_uid != 0:
            os.chown(self.pending_path, owner.st_uid, owner.st_gid)
        if before is not None and before.st_mode & (stat.S_IRGRP | stat.S_IROTH) == stat.S_IRGRP:
            try:
                os.chown(self.pending_path, -1, before.st_gid)
            except PermissionError:
                self.drop_pending()
                raise ValueError(
                    f"group {before.st_gid} can read {self.path}, and could not read what takes its place; run this as "
                    "a member of that group, or as root"
                ) from None
            self.pending_path.chmod(0o640)

    def _before(self) -> os.stat_result | None:
        """What is there of the file that will be replaced."""
        try:
            return self._real.stat()
        except FileNotFoundError:
            return None


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
