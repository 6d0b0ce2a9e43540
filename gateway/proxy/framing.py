"""What comes around a request's body: the sizes of its chunks, and whatever else they say, which nobody reads."""

from __future__ import annotations

FREE_BYTES = 64 * 1024
PER_BYTE = 32
"""A chunk of one byte has six around it, a signed one of 64 KiB a hundred."""


class Framing:
    """Tells a body that is all but lost in its framing: always on its way, it would outlast every deadline."""

    __slots__ = ("_taken_bytes",)

    def __init__(self) -> None:
        self._taken_bytes = 0

    def begin(self) -> None:
        """A body begins."""
        self._taken_bytes = 0

    def is_all(self, taken_bytes: int, body_bytes: int) -> bool:
        """Whether what has been taken, now so much more, is next to nothing but framing of so much body in all."""
        self._taken_bytes += taken_bytes
        return self._taken_bytes > FREE_BYTES + PER_BYTE * body_bytes
