"""`python -m tests.day.planted`: the gateway with faults of its own that nobody else could give it in a minute.

Whoever lists files meets a defect. SIGALRM has a thread use up the processor; a second one ends that. MOST_SERIES is
how many series there may be, MOST_WAITING how many objects may wait for Redis, MOST_OBJECTS how many answers for the
registry of stored objects, on disk and in memory.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.exchange import series_room
from gateway.objects import spool, waiting
from gateway.usage import late_register

series_room.MOST_SERIES = int(
    os.environ.get("MOST_SERIES", series_room.MOST_SERIES)
)  # before it is a default
late_register.MOST_WAITING = int(os.environ.get("MOST_WAITING", late_register.MOST_WAITING))

_most = int(os.environ.get("MOST_OBJECTS", spool.MOST_FILES))
for keeps, name in ((spool.Spool, "most_files"), (waiting.Waiting, "most")):
    vars(keeps)["__init__"].__kwdefaults__[name] = _most

main = importlib.import_module("gateway.cli").main
_busy = threading.Event()
authorize: Any = importlib.import_module("gateway.middleware.authorize")  # not the function by that name
_check = authorize.check_covered


def check_covered(caller: Any, operation: Any, **more: Any) -> None:
    """Fail as nothing foreseen does."""
    if operation.id == "listFiles":
        raise RuntimeError("planted")
    _check(caller, operation, **more)


def work(*_: object) -> None:
    """Keep the processor busy until asked again, before whatever else is on this machine."""
    if _busy.is_set():
        _busy.clear()
        return
    _busy.set()
    threading.Thread(target=spin, daemon=True).start()


def spin() -> None:
    """Work before whatever else is on this machine, with hardly a rest.

    All threads do: one that holds the interpreter's lock and is kept from running by others would keep this one too.
    """
    for thread in Path("/proc/self/task").iterdir():
        with suppress(
            ProcessLookupError,  # it has ended meanwhile
            PermissionError,  # a machine that has nothing else to do will do
        ):
            os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))
    threading.Thread(target=digest, daemon=True).start()
    while _busy.is_set():
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass
        time.sleep(0.0001)


def digest() -> None:
    """Work beside it, without the interpreter's lock, like anybody else.

    A virtual machine whose host is busy has less than a core in a core.
    """
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    much = bytes(32 * 1024 * 1024)
    while _busy.is_set():
        hashlib.sha256(much)


if __name__ == "__main__":
    authorize.check_covered = check_covered
    signal.signal(signal.SIGALRM, work)
    sys.exit(main())
