"""What waits for the registry on disk: it survives the process, and whoever runs there next tells it.

Files are private, written whole, and taken away when all in them has been told. Telling twice changes nothing, so that
who dies in between, or two who tell at once, do no harm; one at a time tells all the same. Every method may wait for
the disk: none is for the event loop.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from gateway.credentials.private_files import read_at_most, write_private
from gateway.objects.steps import Step

FOLDER: Final = "objects-waiting"
"""Beside the keys."""

MOST_FILES: Final = 20_000
MOST_BYTES: Final = 64 * 2**20
_ENDING: Final = ".jsonl"
_UNREADABLE: Final = ".unreadable"
_COUNTED_SECONDS: Final = 2.0
_DRAFT_SECONDS: Final = 3600.0
_log = logging.getLogger("gateway.objects")


class SpoolFull(OSError):
    """As much waits as may."""


class Kept(NamedTuple):
    """What a file holds."""

    path: Path
    steps: Sequence[Step]
    is_whole: bool
    """Whether all in it could be read."""


class _Size(NamedTuple):
    at: float
    files: int
    bytes: int


class Spool:
    """The folder of one machine's gateways."""

    def __init__(self, keys_dir: Path, *, most_files: int = MOST_FILES, most_bytes: int = MOST_BYTES) -> None:
        self.folder = keys_dir / FOLDER
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._size = _Size(float("-inf"), 0, 0)

    def put(self, steps: Sequence[Step]) -> None:
        """Keep steps, all or none. Raises OSError: SpoolFull, or what the disk says."""
        document = b"".join(step.written() for step in steps)
        size = self._sized()
        if size.files >= self._most_files or size.bytes + len(document) > self._most_bytes:
            raise SpoolFull(
                f"{self.folder} holds {size.files} files and {size.bytes} bytes, as much as it may"
            )
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}-{len(steps)}{_ENDING}"
        write_private(self.folder / name, document)
        self._size = _Size(size.at, size.files + 1, size.bytes + len(document))

    def files(self) -> list[Path]:
        """What waits, oldest first."""
        try:
            return sorted(
                path for path in self.folder.iterdir() if path.suffix == _ENDING and path.name[0] != "."
            )
        except (FileNotFoundError, NotADirectoryError):
            return []

    def waiting(self) -> int:
        """How many steps that is, by the names of the files."""
        return sum(_steps_in(path) for path in self.files())

    def read(self, path: Path) -> Kept:
        """What a file says, as far as it can be read; nothing if it has been told meanwhile. Raises OSError."""
        try:
            document = read_at_most(path, self._most_bytes)
        except FileNotFoundError:
            return Kept(path, (), is_whole=True)
        lines = (document or b"").splitlines()
        steps = [step for line in lines if (step := _step_in(line)) is not None]
        return Kept(path, steps, is_whole=len(steps) == len(lines) == _steps_in(path))

    def done(self, kept: Kept) -> None:
        """All that could be read in it has been told. What could not is set aside, and said. Raises OSError."""
        path = kept.path
        if kept.is_whole:
            path.unlink(missing_ok=True)
            return
        aside = path.with_suffix(_UNREADABLE)
        path.rename(aside)
        _log.error(
            "%s says less than the registry of stored objects has to be told: %d of %d answers could be read; "
            "`gateway objects import` reads it as well once it is mended",
            *(aside, len(kept.steps), _steps_in(path)),
        )

    def lock(self) -> int | None:
        """Be the one who tells; returns what to `unlock`, None where somebody else does, or nothing waits.

        Raises OSError.
        """
        try:
            descriptor = os.open(self.folder, os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            pass  # a disk that knows no locks: to tell twice changes nothing
        return descriptor

    def unlock(self, descriptor: int) -> None:
        """Let others tell."""
        os.close(descriptor)

    def try_to_keep(self) -> None:
        """Raise OSError where nothing could be kept."""
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
            raise PermissionError(f"nothing can be written in {there}")

    def _sized(self) -> _Size:
        now = time.monotonic()
        if now - self._size.at > _COUNTED_SECONDS:
            sizes = list(self._sizes())
            self._size = _Size(now, len(sizes), sum(sizes))
        return self._size

    def _sizes(self) -> Iterator[int]:
        for path in self.files():
            try:
                yield path.stat().st_size
            except FileNotFoundError:
                pass  # told meanwhile

    def sweep(self) -> None:
        """Take away what somebody died writing: it was promised to nobody."""
        for draft in self.folder.glob(".*"):
            try:
                if time.time() - draft.stat().st_mtime > _DRAFT_SECONDS:
                    draft.unlink()
            except FileNotFoundError:
                pass  # its writer lives


def _step_in(line: bytes) -> Step | None:
    try:
        return Step.read(line)
    except ValueError:
        return None


def _steps_in(path: Path) -> int:
    count = path.stem.rpartition("-")[2]
    return int(count) if count.isdecimal() else 1
