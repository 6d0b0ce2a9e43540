"""What a service manager that waits for it is told: sd_notify(3), `Type=notify` and its watchdog."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from time import CLOCK_MONOTONIC, clock_gettime_ns

_SEND_SECONDS = 0.2
_MOST_STATUS_CHARACTERS = 1000


class Notifier:
    """Tells systemd how the gateway is; silent where nobody listens. Nothing that goes wrong here is an error."""

    def __init__(self, address: str | None = None, *, watchdog_seconds: float | None = None) -> None:
        """`address` is a path, or begins with `@` where it stands in no file system."""
        self._address = address
        self._serving = ""
        self.watchdog_seconds = watchdog_seconds
        """Within so many seconds it must be told that the gateway lives; None: it does not ask."""

    @classmethod
    def from_environ(cls, environ: MutableMapping[str, str]) -> Notifier:
        """Take what systemd says there, out of it: no process that is started from here must speak for the gateway."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds = environ.pop("WATCHDOG_USEC", "")
        whose = environ.pop("WATCHDOG_PID", "")
        if address is None or address[:1] not in ("/", "@"):
            return cls()
        asked = microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        ours = whose in ("", str(os.getpid()))
        return cls(address, watchdog_seconds=int(microseconds) / 1e6 if asked and ours else None)

    def ready(self, status: str) -> None:
        """It serves; `status` in words for `systemctl status`."""
        self._serving = status
        self._tell("READY=1", _status(status))

    def reloaded(self, *, well: bool) -> None:
        """It serves again after `reloading`, by the new settings or, if they are wrong, by those before."""
        wrong = "" if well else "; the new configuration is wrong and not in force"
        self._tell("READY=1", _status(self._serving + wrong))

    def reloading(self, status: str) -> None:
        """It reads its settings anew; `reloaded` must follow, whatever became of it."""
        self._tell(
            "RELOADING=1", f"MONOTONIC_USEC={clock_gettime_ns(CLOCK_MONOTONIC) // 1000}", _status(status)
        )

    def stopping(self, status: str, *, most_seconds: float) -> None:
        """It stops, which takes at most so long: systemd waits for that, if its own timeout is shorter."""
        self._tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(most_seconds * 1e6)}", _status(status))

    def watchdog(self) -> None:
        """It lives."""
        self._tell("WATCHDOG=1")

    async def tell_while_live(self, live: Callable[[], bool]) -> None:
        """Say that it lives for as long as it does, twice as often as asked; runs until it is cancelled.

        It runs on the loop that serves, so that the watchdog bites when that hangs.
        """
        if self.watchdog_seconds is None:
            return
        while True:
            if live():
                self.watchdog()
            await asyncio.sleep(self.watchdog_seconds / 2)

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_SECONDS)
            sender.sendto("\n".join(lines).encode(), address)


def _status(words: str) -> str:
    return "STATUS=" + " ".join(words.split())[:_MOST_STATUS_CHARACTERS]
