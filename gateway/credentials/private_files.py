"""Files that only their owner may read, and that are there whole or not at all."""

import fcntl
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_private(path: Path, document: bytes) -> None:
    """Write or replace a file, mode 0600, so that it lasts; makes its directory with mode 0700.

    Who reads meanwhile sees the old file or the new one. Raises OSError.
    """
    directory = path.parent
    draft = directory / f".{path.stem}.{secrets.token_hex(8)}"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(directory)


def read_at_most(path: Path, most_bytes: int) -> bytes | None:
    """What a file holds, in no more memory than that takes; None when it is larger. Raises OSError."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            return None
        return file.read()


def sync(directory: Path) -> None:
    """Make a rename or removal in the directory last through a power cut. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(directory: Path, *, busy: Callable[[], None] | None = None) -> Iterator[None]:
    """Let one process at a time read, change and write there; the directory is made when it is missing.

    `busy` is called where another has to be waited for. Raises OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if busy is not None:
                busy()
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
