"""A request body that was taken in whole, and what is changed in it on its way up. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from gateway.wire.json_members import Change


class RequestBody(NamedTuple):
    """The bytes as they came, in pieces; they are never copied into one, for they may be many."""

    received: tuple[bytes, ...] = ()
    changes: tuple[Change, ...] = ()
    """By their places in what was received, none inside another. Of two at one place the later stands in front."""

    @property
    def length(self) -> int:
        """In bytes, changed."""
        length = sum(map(len, self.received))
        for begin, end, raw in self.changes:
            length += len(raw) - (end - begin)
        return length

    def changed(self, change: Change) -> RequestBody:
        """This body with a change more, all other bytes kept."""
        return RequestBody(self.received, (change, *self.changes))

    def at_once(self, most_bytes: int) -> bytes | None:
        """The whole of what goes up, where that is no more; None: it is larger."""
        if not self.changes and len(self.received) == 1:
            piece = self.received[0]
            return piece if len(piece) <= most_bytes else None
        return b"".join(self.pieces()) if self.length <= most_bytes else None

    def pieces(self) -> Iterator[bytes]:
        """What goes up, piece by piece."""
        if not self.changes:
            yield from self.received
            return
        changes = sorted(self.changes, key=lambda change: change.begin)
        at, skip_to = 0, 0
        for piece in self.received:
            end = at + len(piece)
            kept_from = max(0, skip_to - at)
            while changes and changes[0].begin < end:
                change = changes.pop(0)
                if change.begin - at > kept_from:
                    yield piece[kept_from : change.begin - at]
                yield change.raw
                skip_to = change.end
                kept_from = skip_to - at
            if kept_from < len(piece):
                yield piece[kept_from:]
            at = end
        for change in changes:
            yield change.raw
