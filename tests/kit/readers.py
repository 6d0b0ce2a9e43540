"""The processes that read large JSON for the gateways of this test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def readers(of: int | None = None) -> list[int]:
    """Their ids, of all gateways here, or of the one that is this process."""
    gateway = os.getpid() if of is None else of

    def found() -> Iterator[int]:
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                pid, parent = int(stat.parent.name), int(stat.read_text().rpartition(")")[2].split()[1])
                command = (stat.parent / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == gateway and b"reading_process" in command:
                yield pid

    return sorted(found())
