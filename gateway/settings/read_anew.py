"""Files of the configuration that are read again and again, for whoever writes them may do so at any time."""

from __future__ import annotations

import os
from pathlib import Path


def read_anew(file: Path, most_bytes: int) -> bytes:
    """What a file holds now, up to one byte more than that. Raises OSError. A pipe is empty: nobody waits for it."""
    with open(file, "rb", opener=_without_waiting) as stream:
        return stream.read(most_bytes + 1) or b""


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)
