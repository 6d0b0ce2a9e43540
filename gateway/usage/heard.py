"""How much sound a session was sent, and what became of it: by the bytes that went up, not by the events. Pure."""

from __future__ import annotations

_ENVELOPE_BYTES = 55
"""Of a client's event that has nothing but sound, beside it."""

_MOST_ITEMS = 256


class Heard:
    """Counts sound in bytes, as they are when base64 has been undone."""

    __slots__ = ("_items", "_sent", "_taken")

    def __init__(self) -> None:
        self._sent = 0
        self._taken = 0
        """How much of that nobody waits for any more."""

        self._items: dict[str, int] = {}
        """What was taken for items of which nobody has said that they are written down."""

    def add(self, event_bytes: int) -> None:
        """A client's event went up: most of those that are large are sound."""
        if event_bytes > _ENVELOPE_BYTES:
            self._sent += (event_bytes - _ENVELOPE_BYTES) * 3 // 4

    @property
    def waiting(self) -> int:
        """How much has not been taken for anything yet."""
        return self._sent - self._taken

    def speech_began(self, lead_bytes: int) -> None:
        """A voice is heard: what was sent before it, but for so much, was silence."""
        self._taken = max(self._taken, self._sent - lead_bytes)

    def take(self, item: str | None = None) -> int:
        """What waited is taken for an item, or dropped where there is none; how much that was."""
        taken, self._taken = self.waiting, self._sent
        if item is not None:
            if len(self._items) >= _MOST_ITEMS:
                taken += self._items.pop(next(iter(self._items)))
            self._items[item] = taken
        return taken

    def written_down(self, item: str) -> int:
        """An item has been written down, or never will be; how much it is."""
        return self._items.pop(item, 0)

    def not_written_down(self) -> int:
        """How much all the others are, which are forgotten by that."""
        size = sum(self._items.values())
        self._items.clear()
        return size
