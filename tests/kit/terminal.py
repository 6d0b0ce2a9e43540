"""A command as a person at a terminal sees it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from dataclasses import dataclass

from tests.kit.command import environment, words

_STYLE = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Screen:
    """What stood there when the command had ended, both of its outputs."""

    code: int
    styled: str

    @property
    def text(self) -> str:
        """Without colours."""
        return _STYLE.sub("", self.styled)

    @property
    def widest(self) -> int:
        """Characters of the longest line."""
        return max(map(len, self.text.splitlines()), default=0)


async def on_terminal(*arguments: str, columns: int = 80, **environ: str) -> Screen:
    """Run a command to its end on a terminal of so many columns."""
    return await asyncio.to_thread(_run, words(arguments), columns, {"TERM": "xterm-256color"} | environ)


def _run(command: tuple[str, ...], columns: int, environ: dict[str, str]) -> Screen:
    ours, theirs = pty.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with subprocess.Popen(
            command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment(environ),
            start_new_session=True,
        ) as process:
            os.close(theirs)
            theirs = -1
            shown = b"".join(iter(lambda: _piece(ours), b""))
            code = process.wait(60)
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)
    return Screen(code, shown.decode().replace("\r\n", "\n"))


def _piece(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody has the other end any more
        return b""
