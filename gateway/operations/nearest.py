"""Which operation comes closest to a path that is none: for whoever has mistyped it. Pure.

Two paths are alike by the pairs of letters that both have, version, parameters and what looks like an id left out.
Whoever sends made-up paths costs little: a path is cut, and compared with prepared bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from gateway.operations.operation import Operation

_MOST_CHARACTERS: Final = 160
_ALIKE_ENOUGH: Final = 0.55
_BEGINNING: Final = 0.6
"""How alike a path is to those that go on behind it, and to those behind which it goes on."""

_SAME_METHOD: Final = 0.04
_SAME_END: Final = 0.01
"""Both end in what differs from request to request, or neither does."""


class _Known(NamedTuple):
    """What operations of one path, as far as it is compared, are found by."""

    text: str
    pairs: int
    """A bit for each pair of letters that it has."""

    size: int
    operations: tuple[Operation, ...]


class Nearest:
    """The operations that somebody could have meant."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._operations = operations
        self._bits: dict[str, int] = {}
        """By the pairs of letters that operations have, the bit that stands for each."""

        self._known: list[_Known] = []

    def to(self, method: str, path: str) -> Operation | None:
        """The one that is most alike; None where none is alike enough. Linear in what is known, and bounded."""
        if not self._known:
            self._prepare()
        path = path[:_MOST_CHARACTERS].casefold()
        asked, ends_in_id = _words(path), _is_id(path.rpartition("/")[2])
        asked_pairs = _pairs(asked)
        pairs, count = self._bits_of(asked_pairs), len(asked_pairs)
        best, found = _ALIKE_ENOUGH, None
        for text, known, known_count, operations in self._known if count else ():
            alike = 2 * (pairs & known).bit_count() / (count + known_count)
            goes_on = asked.startswith(text) and asked.startswith("/", len(text))
            if alike < _BEGINNING and (
                goes_on or (text.startswith(asked) and text.startswith("/", len(asked)))
            ):
                alike = _BEGINNING
            if alike + _SAME_METHOD + _SAME_END <= best:
                continue
            for operation in operations:
                likeness = alike
                if operation.method == method:
                    likeness += _SAME_METHOD
                if operation.path.endswith("}") == (ends_in_id or goes_on):
                    likeness += _SAME_END
                if likeness > best:
                    best, found = likeness, operation
        return found

    def _prepare(self) -> None:
        by_text: dict[str, list[Operation]] = {}
        for operation in self._operations:
            if not operation.is_administration and not operation.is_session:
                by_text.setdefault(_words(operation.path), []).append(operation)
        for text, operations in by_text.items():
            pairs = _pairs(text)
            for pair in pairs:
                self._bits.setdefault(pair, 1 << len(self._bits))
            self._known.append(_Known(text, self._bits_of(pairs), len(pairs), tuple(operations)))

    def _bits_of(self, pairs: frozenset[str]) -> int:
        return sum(bit for pair in pairs if (bit := self._bits.get(pair)))


def _words(path: str) -> str:
    """A path without what differs from request to request."""
    return "".join(
        f"/{segment}" for segment in path.split("/") if segment not in ("", "v1") and not _is_id(segment)
    )


def _is_id(segment: str) -> bool:
    return segment.startswith("{") or (segment != "v1" and any(map(str.isdigit, segment)))


def _pairs(text: str) -> frozenset[str]:
    return frozenset(text[at : at + 2] for at in range(len(text) - 1))
