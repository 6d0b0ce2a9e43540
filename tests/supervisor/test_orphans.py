"""What process 1 inherits."""

from __future__ import annotations

import subprocess
import sys

# Process 1 of a container is played by one that adopts the children of its dead children.
ADOPTS = """
import ctypes, os, subprocess, sys, time
from gateway.supervisor.orphans import reap_others
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
ours = subprocess.Popen([sys.executable, "-c", "pass"])
parent = subprocess.run(["sh", "-c", "sleep 0.1 & echo $!"], capture_output=True, text=True)
orphan = int(parent.stdout)
end = time.monotonic() + 20
while os.path.exists(f"/proc/{orphan}") and time.monotonic() < end:
    reap_others({ours.pid})
    if not os.path.exists(f"/proc/{orphan}"):
        break
    ours.poll() if time.monotonic() > end - 19 else None
    time.sleep(0.01)
print(os.path.exists(f"/proc/{orphan}"), ours.wait())
"""


def test_orphans_are_let_go_and_ends_of_our_own_are_left_to_who_awaits_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", ADOPTS], capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stdout == "False 0\n"
