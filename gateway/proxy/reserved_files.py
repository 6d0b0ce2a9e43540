"""Files that are kept open so that there is one to open when the process has no more."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TypeVar

_NO_MORE = frozenset({errno.EMFILE, errno.ENFILE})

T = TypeVar("T")


class ReservedFiles:
    """So many files, open for nothing until one is needed."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._files: list[int] = []
        self.fill()

    def fill(self) -> None:
        """Open what is missing, as far as that can be had."""
        try:
            while len(self._files) < self._count:
                self._files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass  # another time

    def use(self, opening: Callable[[], T]) -> T:
        """What opens a file, with one of the reserved ones in exchange where there is no other.

        Raises OSError when that does not help either.
        """
        while True:
            try:
                return opening()
            except OSError as error:
                # Another thread may take what is closed here; then the next one has to do.
                if error.errno not in _NO_MORE or not self._files:
                    raise
            os.close(self._files.pop())

    def close(self) -> None:
        """Keep nothing any more."""
        while self._files:
            os.close(self._files.pop())
