"""`python -m gateway`, in which SIGALRM has the loop stand still, as a fault in what it computes would."""

from __future__ import annotations

import signal
import sys
import time

from gateway.cli import main


def stand_still(*_: object) -> None:
    """Do nothing for longer than any test."""
    time.sleep(600)


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, stand_still)
    sys.exit(main())
