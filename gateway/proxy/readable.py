"""Since when what has been read from a connection could have been: what its client waits for begins there.

A loop reads late what came while it was busy. The loop's own clock says when it last looked who has sent something;
what came while it did not look at all only the kernel knows. That is asked where it matters: when the loop is late,
and once for each connection, which may have waited to be accepted.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from typing import Any

CLOCK_SECONDS = 0.002
"""The loop's own clock counts whole milliseconds, and may be that of the system's last tick."""

LATE_SECONDS = 0.003
"""By so much a timer of a loop that has nothing else to do may come too late."""

_IS_LINUX = sys.platform == "linux"
_CLOCK_MONOTONIC_COARSE = 6
_TICK_SECONDS = time.clock_getres(_CLOCK_MONOTONIC_COARSE) if _IS_LINUX else 0.0

_AGE = struct.Struct("=52xI")
"""`tcpi_last_data_recv` of `tcp_info`, in milliseconds, behind all that is of no interest here."""


def age_seconds(sock: Any) -> float:
    """How long ago a connection's last bytes came, at least; 0 where nobody says."""
    if sock is None or not _IS_LINUX:
        return 0.0
    try:
        # uvloop's own way makes a socket of Python's each time, which takes several times as long. The family does not
        # matter: this is asked of TCP.
        asked = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, sock.fileno())
    except (OSError, ValueError):
        return 0.0
    try:
        milliseconds: int = _AGE.unpack(asked.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _AGE.size))[0]
    except (OSError, struct.error):
        return 0.0
    finally:
        asked.detach()  # it is not ours
    # The kernel counts its ticks, and one that has just begun like a whole one.
    return max(0.0, milliseconds / 1000 - _TICK_SECONDS)
