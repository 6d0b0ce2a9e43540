"""A terminal on which a program draws as long as it runs, and a person who looks at it and presses keys."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pyte

from tests.kit.command import environment, words
from tests.kit.waiting import until


class LiveTerminal:
    """What stands on it, and what is done at it."""

    def __init__(self, process: subprocess.Popen[bytes], ours: int, screen: pyte.Screen) -> None:
        self.process = process
        self.raw = b""
        """Everything that was written to it."""

        self._ours = ours
        self._screen = screen
        self._stream = pyte.ByteStream(screen)
        self.before: list[Any] = termios.tcgetattr(ours)

    @property
    def lines(self) -> list[str]:
        """What stands there, without blanks at the ends of lines."""
        return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The same as one text."""
        return "\n".join(self.lines)

    @property
    def is_as_before(self) -> bool:
        """Whether it echoes and hands lines on again, and shows its cursor."""
        return termios.tcgetattr(self._ours)[:4] == self.before[:4] and not self._screen.cursor.hidden

    def press(self, keys: str) -> None:
        """Press keys, as fast as that goes."""
        os.write(self._ours, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        """Drag its corner."""
        self._screen.resize(lines, columns)
        _set_size(self._ours, columns, lines)
        os.killpg(self.process.pid, signal.SIGWINCH)

    async def shows(self, text: str, within_seconds: float = 15.0) -> None:
        """Wait until it stands there; fails when it does not."""
        try:
            await until(lambda: text in self.text, within_seconds)
        except AssertionError:
            raise AssertionError(f"{text!r} does not stand there:\n{self.text}") from None

    async def exit_code(self) -> int:
        """Wait for the program's end."""
        await until(lambda: self.process.poll() is not None, 10)
        await asyncio.sleep(0.1)  # what it wrote last is being read
        return self.process.wait()

    def read(self) -> None:
        """Take what the program has written."""
        try:
            piece = os.read(self._ours, 65536)
        except OSError:
            asyncio.get_running_loop().remove_reader(self._ours)
            return
        self.raw += piece
        self._stream.feed(piece)


@asynccontextmanager
async def live_terminal(
    *arguments: str, columns: int = 80, lines: int = 24, **environ: str
) -> AsyncIterator[LiveTerminal]:
    """Run a command on a terminal of that size; it is gone afterwards, whatever happened."""
    ours, theirs = pty.openpty()
    _set_size(theirs, columns, lines)
    process = subprocess.Popen(
        words(arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment({"TERM": "xterm-256color"} | environ),
        start_new_session=True,
        preexec_fn=_control,
    )
    terminal = LiveTerminal(process, ours, pyte.Screen(columns, lines))
    loop = asyncio.get_running_loop()
    loop.add_reader(ours, terminal.read)
    try:
        yield terminal
    finally:
        loop.remove_reader(ours)
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
        os.close(theirs)


def _control() -> None:
    """Have Ctrl-C of that terminal reach this session."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _set_size(descriptor: int, columns: int, lines: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
