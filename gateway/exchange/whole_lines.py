"""Lines that arrive whole, however many processes write to one pipe, file, terminal or journal.

What is written at once is no more than a pipe takes at once: the kernel then puts nobody else's bytes between.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

MOST_BYTES = 4096
"""PIPE_BUF, as Linux has it; a line must not be longer."""


class NotWritten(OSError):
    """A portion could not be written, but for its beginning; `rest` is what is missing."""

    def __init__(self, error: OSError, rest: memoryview) -> None:
        super().__init__(error.errno, error.strerror)
        self.rest = rest


def portions(lines: bytes) -> Iterator[memoryview]:
    """Whole lines, as many as may be written at once; a longer line by itself."""
    view, at = memoryview(lines), 0
    while at < len(lines):
        end = lines.rfind(b"\n", at, at + MOST_BYTES) + 1 or lines.find(b"\n", at) + 1 or len(lines)
        yield view[at:end]
        at = end


def write(descriptor: int, portion: memoryview, *, most_seconds: float | None = None) -> None:
    """Write a portion, waiting for whoever reads, also where the descriptor itself does not wait.

    With `most_seconds` it waits no longer than that, even where the descriptor would: then TimeoutError. Raises
    NotWritten when nobody reads any more, or a disk is full.
    """
    if most_seconds is not None:
        _wait(descriptor, most_seconds)
    while portion:
        try:
            portion = portion[os.write(descriptor, portion) :]
        except BlockingIOError:
            _wait(descriptor, most_seconds)
        except OSError as error:
            raise NotWritten(error, portion) from None


def _wait(descriptor: int, most_seconds: float | None) -> None:
    """Return when a portion can be written."""
    room = select.poll()
    room.register(descriptor, select.POLLOUT)
    if not room.poll(None if most_seconds is None else most_seconds * 1000):
        raise TimeoutError
