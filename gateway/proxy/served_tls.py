"""What connections by TLS share, and what each of them is at."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Final

from gateway.proxy.bites import Turns
from gateway.proxy.large_reads import FULL_READ_BYTES


class Stage:
    """What a connection by TLS is at."""

    SILENT: Final = 0
    """Nothing has come yet."""

    SHAKING: Final = 1
    """The handshake is under way."""

    OPEN: Final = 2
    ENDED: Final = 3
    """We have said our end: what still comes is dropped."""

    PLAIN: Final = 4
    """The client does not speak TLS, and is told so."""

    LEFT: Final = 5
    """The client has said its end, or cannot be understood any more: it gets what it was sent before, and no more."""


class ServedTls:
    """What the connections of a server share that come by TLS."""

    def __init__(self, turns: Turns, *, handshake_seconds: float, failed: Callable[[str], None]) -> None:
        """`handshake_seconds`: for a handshake to be over; `failed` is told of one that came to nothing: `handshake`,
        or `plain_http` for a request without any.
        """
        self.context: ssl.SSLContext | None = None
        """How newcomers are served; None: without TLS."""

        self.turns = turns
        self.handshake_seconds = handshake_seconds
        self.failed = failed
        self.buffer = memoryview(bytearray(FULL_READ_BYTES))
        """What is read into: nothing of it is needed when the next read comes, whoever's that is."""
