"""What a container's first process inherits: processes whose parent has died, and that nobody else would reap."""

from __future__ import annotations

import os
from collections.abc import Collection


def reap_others(ours: Collection[int]) -> None:
    """Let those go that have ended and are none of ours, whose ends others await."""
    while True:
        try:
            ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if ended is None or ended.si_pid in ours:
            return  # which is awaited just now; the next ones have time
        os.waitpid(ended.si_pid, 0)
