"""`python -m tests.day.planted`: the gateway with two faults of its own that nobody else could give it.

Whoever lists files meets a defect. SIGALRM has a thread use up the processor; a second one ends that.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from typing import Any

from gateway.cli import main

_busy = threading.Event()
authorize: Any = importlib.import_module("gateway.middleware.authorize")  # not the function by that name
_check = authorize.check_covered


def check_covered(caller: Any, operation: Any, **more: Any) -> None:
    """Fail as nothing foreseen does."""
    if operation.id == "listFiles":
        raise RuntimeError("planted")
    _check(caller, operation, **more)


def work(*_: object) -> None:
    """Keep a core busy until asked again, before whatever else is on this machine."""
    if _busy.is_set():
        _busy.clear()
        return
    _busy.set()
    threading.Thread(target=spin, daemon=True).start()


def spin() -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -19)
    except PermissionError:
        pass
    while _busy.is_set():
        pass


if __name__ == "__main__":
    authorize.check_covered = check_covered
    signal.signal(signal.SIGALRM, work)
    sys.exit(main())
