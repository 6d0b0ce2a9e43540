"""Which operation comes closest to a path that is none: for whoever has mistyped it. Pure.

Two paths are alike by the pairs of letters that both have, version, parameters and what looks like an id left out.
Whoever sends made-up paths costs little: a path is cut, and compared with prepared sets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from gateway.operations.operation import Operation

_MOST_CHARACTERS: Final = 160
_ALIKE_ENOUGH: Final = 0.55
_BEGINNING: Final = 0.6
"""How alike a path is to those that go on behind it, and to those behind which it goes on."""

_SAME_METHOD: Final = 0.04
_SAME_END: Final = 0.01
"""Both end in what differs from request to request, or neither does."""


@dataclass(frozen=True)
class Nearest:
    """The operations that somebody could have meant."""

    operations: Iterable[Operation]
    _known: list[tuple[str, frozenset[str], Operation]] = field(default_factory=list, init=False)

    def to(self, method: str, path: str) -> Operation | None:
        """The one that is most alike; None where none is alike enough. Linear in what is known, and bounded."""
        if not self._known:
            self._known.extend(
                (text, _pairs(text), operation)
                for operation in self.operations
                if not operation.is_administration and not operation.is_session
                for text in (_words(operation.path),)
            )
        path = path[:_MOST_CHARACTERS].casefold()
        asked, ends_in_id = _words(path), _is_id(path.rpartition("/")[2])
        pairs = _pairs(asked)
        best, found = _ALIKE_ENOUGH, None
        for text, known, operation in self._known if pairs else ():
            alike = 2 * len(pairs & known) / (len(pairs) + len(known))
            goes_on = asked.startswith(f"{text}/")
            if alike < _BEGINNING and (goes_on or text.startswith(f"{asked}/")):
                alike = _BEGINNING
            if operation.method == method:
                alike += _SAME_METHOD
            if operation.path.endswith("}") == (ends_in_id or goes_on):
                alike += _SAME_END
            if alike > best:
                best, found = alike, operation
        return found


def _words(path: str) -> str:
    """A path without what differs from request to request."""
    return "".join(
        f"/{segment}" for segment in path.split("/") if segment not in ("", "v1") and not _is_id(segment)
    )


def _is_id(segment: str) -> bool:
    return segment.startswith("{") or (segment != "v1" and any(map(str.isdigit, segment)))


def _pairs(text: str) -> frozenset[str]:
    return frozenset(text[at : at + 2] for at in range(len(text) - 1))
