"""A terminal that gives keys as they are pressed, and is as it was afterwards, whatever happened."""

from __future__ import annotations

import os
import re
import termios
import tty
from types import TracebackType
from typing import Any

_KEYS = re.compile(r"\x1b\[[0-9;]*[A-Za-z~]|\x1bO[A-Z]|.", re.DOTALL)


class Keys:
    """The keys of a terminal, without echo; Ctrl-C and Ctrl-Z are signals still. Nothing where there is no terminal."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.are_there = os.isatty(descriptor)
        self._before: list[Any] | None = None

    def __enter__(self) -> Keys:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.give_back()

    def take(self) -> None:
        """Have keys from now on."""
        if self.are_there:
            self._before = termios.tcgetattr(self.descriptor)
            tty.setcbreak(self.descriptor)

    def give_back(self) -> None:
        """Leave the terminal as it was."""
        if self._before is not None:
            termios.tcsetattr(self.descriptor, termios.TCSADRAIN, self._before)
            self._before = None

    def pressed(self) -> list[str]:
        """The keys that have been pressed; none where the terminal is gone."""
        try:
            text = os.read(self.descriptor, 1024).decode("utf-8", "replace")
        except OSError:
            text = ""
        if not text:
            self.are_there = False
        return _KEYS.findall(text)
