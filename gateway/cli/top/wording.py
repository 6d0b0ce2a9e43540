"""Numbers as they are read at a glance: few digits, one unit, and a dash where nothing is known. Pure."""

from __future__ import annotations

import re

UNKNOWN = "-"
_PERIOD = re.compile(r"_per_1_(minute|day)")


def rate(per_second: float | None) -> str:
    """So many a second."""
    if per_second is None:
        return UNKNOWN
    if 0 < per_second < 0.05:
        return "<0.1"
    return "0" if not per_second else f"{per_second:.1f}" if per_second < 100 else count(per_second)


def count(number: float | None) -> str:
    """So many, in thousands and millions where they are."""
    if number is None:
        return UNKNOWN
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            scaled = number / size
            return f"{scaled:.1f}{unit}" if scaled < 99.95 else f"{scaled:.0f}{unit}"
    return f"{number:.0f}"


def amount(number: float | None) -> str:
    """So many bytes."""
    if number is None:
        return UNKNOWN
    for unit, unit_bytes in (("G", 2**30), ("M", 2**20), ("K", 2**10)):
        if number >= unit_bytes:
            return f"{number / unit_bytes:.1f}{unit}"
    return f"{number:.0f}B"


def time(seconds: float | None) -> str:
    """So long."""
    if seconds is None:
        return UNKNOWN
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} m" if hours < 48 else f"{hours // 24} d {hours % 24:02} h"


def part(ratio: float | None) -> str:
    """Such a part of it."""
    return UNKNOWN if ratio is None else f"{ratio:.0%}"


def dimension(key: str) -> str:
    """A limit's key as a few words: `requests/minute`."""
    return _PERIOD.sub(r"/\1", key).removeprefix("max_")


def bar(ratio: float, cells: int) -> str:
    """A part of it, drawn in so many characters; more than all of it is full."""
    full = min(cells, int(ratio * cells))
    return "#" * full + "." * (cells - full)
