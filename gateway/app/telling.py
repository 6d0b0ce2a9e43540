"""What the operator is told: on standard error, in whole lines."""

from __future__ import annotations

import sys


def tell(text: str) -> None:
    """Say one thing to whoever runs this."""
    sys.stderr.write(f"gateway: {text}\n")
    sys.stderr.flush()
