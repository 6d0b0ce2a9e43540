"""Pages of a list as the API writes them, cut into what stands around the entries and the entries, and put together
again with others between: every entry keeps its bytes. Pure.

What could be read in two ways is no page: nobody may see an entry that somebody else takes for another one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import orjson

from gateway.wire.json_members import Member, elements, hides_letters, members

DATA: Final = "data"
_MORE: Final = "has_more"
_FIRST: Final = "first_id"
_LAST: Final = "last_id"
_KEPT: Final = frozenset({"object", DATA, _FIRST, _LAST, _MORE})
"""The members of a page that pass. Others may count, or name, what is not the reader's."""

_BETWEEN: Final = re.compile(rb"[ \t\r\n,]*")
_MADE_AT: Final = ("created_at", "created")


class ListedEntry(NamedTuple):
    """An entry of a page."""

    id: str
    made_at: float | None
    """Unix seconds, as far as it says."""

    raw: bytes


class Separators(NamedTuple):
    """What stands before the first of several, between two, and behind the last."""

    before: bytes
    between: bytes
    behind: bytes


class Envelope(NamedTuple):
    """What stands around the entries: each member up to its value, and that value where it stays."""

    parts: tuple[tuple[str, bytes, bytes], ...]
    """Name, the bytes up to the value, the value."""

    members: Separators
    entries: Separators

    @property
    def pages(self) -> bool:
        """Whether the list comes page by page."""
        return any(name == _MORE for name, _, _ in self.parts)

    def around(self, entries: Sequence[tuple[str, bytes]], *, has_more: bool) -> bytes:
        """A page of these entries, each an id and its bytes."""
        first, last = (entries[0][0], entries[-1][0]) if entries else (None, None)
        own = {
            DATA: b"[" + _joined(self.entries, [raw for _, raw in entries]) + b"]",
            _FIRST: orjson.dumps(first),
            _LAST: orjson.dumps(last),
            _MORE: b"true" if has_more else b"false",
        }
        return (
            b"{"
            + _joined(self.members, [begin + own.get(name, raw) for name, begin, raw in self.parts])
            + b"}"
        )


class ListPage(NamedTuple):
    """A page of a list as the upstream answered it."""

    envelope: Envelope
    entries: tuple[ListedEntry, ...]
    has_more: bool


Places = tuple[bool, tuple[tuple[str, int, int], ...], tuple[tuple[str, float | None, int, int], ...]]
"""What was found in a page, in plain values: `has_more`; its members, each by its name and where its value stands; its
entries, each by its id, when it was made, and where it stands."""


def find_page(document: bytes) -> Places | None:
    """Where everything stands in the page that a document is; None where it is none, or could be read in two ways."""
    try:
        whole = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(whole, dict) or not isinstance(whole.get(DATA), list):
        return None
    has_more = whole.get(_MORE, False)
    found = tuple((member.name, member.value_from, member.value_to) for member in members(document))
    if len(dict.fromkeys(name for name, _, _ in found)) != len(found) or type(has_more) is not bool:
        return None
    at = next(begin for name, begin, _ in found if name == DATA)
    entries = []
    for (begin, end), entry in zip(elements(document, at), whole[DATA], strict=True):
        if not is_one_object(document[begin:end], entry):
            return None
        entries.append((entry["id"], _made_at(entry), begin, end))
    return has_more, found, tuple(entries)


def page_in(document: bytes, places: Places) -> ListPage:
    """The page that was found in a document."""
    has_more, found, listed = places
    entries = tuple([ListedEntry(one, made_at, document[begin:end]) for one, made_at, begin, end in listed])
    return ListPage(
        _envelope(document, [Member(*one) for one in found], [(begin, end) for _, _, begin, end in listed]),
        entries,
        has_more,
    )


def read_page(document: bytes) -> ListPage | None:
    """The page that a document is; None where it is none, or could be read in two ways."""
    places = find_page(document)
    return None if places is None else page_in(document, places)


Found = tuple[str, int, int]


def find_object(document: bytes) -> Found | None:
    """The id of an object that was asked for by it, and where it stands; None where it could be read in two ways."""
    try:
        entry = orjson.loads(document)
    except orjson.JSONDecodeError:
        return None
    raw = document.strip(b" \t\r\n")
    begin = document.index(raw)
    return (entry["id"], begin, begin + len(raw)) if is_one_object(raw, entry) else None


def is_one_object(raw: bytes, entry: Any) -> bool:
    """Whether everybody reads the same id in an entry."""
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        return False
    if raw.count(b'"id"') == 1 and not hides_letters(raw):
        return True
    return sum(member.name == "id" for member in members(raw)) == 1


def _envelope(document: bytes, found: Sequence[Member], places: Sequence[tuple[int, int]]) -> Envelope:
    first, last = found[0], found[-1]
    starts = [document.index(b'"', document.index(b"{") + 1)]
    starts += [_behind_gap(document, member.value_to) for member in found[:-1]]
    parts = tuple(
        (member.name, document[start : member.value_from], document[member.value_from : member.value_to])
        for member, start in zip(found, starts, strict=True)
        if member.name in _KEPT
    )
    around = Separators(
        document[document.index(b"{") + 1 : starts[0]],
        document[first.value_to : starts[1]] if len(starts) > 1 else b",",
        document[last.value_to : document.rindex(b"}")],
    )
    data = next(member for member in found if member.name == DATA)
    return Envelope(parts, around, _entry_separators(document, data, places))


def _entry_separators(document: bytes, data: Member, places: Sequence[tuple[int, int]]) -> Separators:
    if not places:
        return Separators(b"", b",", b"")
    before = document[data.value_from + 1 : places[0][0]]
    between = document[places[0][1] : places[1][0]] if len(places) > 1 else b"," + before
    return Separators(before, between, document[places[-1][1] : data.value_to - 1])


def _behind_gap(document: bytes, at: int) -> int:
    gap = _BETWEEN.match(document, at)
    assert gap is not None
    return gap.end()


def _joined(separators: Separators, parts: Sequence[bytes]) -> bytes:
    if not parts:
        return b""
    return separators.before + separators.between.join(parts) + separators.behind


def _made_at(entry: dict[str, Any]) -> float | None:
    for name in _MADE_AT:
        value = entry.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    return None
