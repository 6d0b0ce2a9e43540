"""Pages of a tenant's own out of lists of what everybody behind one key has stored: what is decided. Pure.

Where the registry knows all that is a tenant's, it says which entries a page has and in which order: by the second of
their creation, and in one second in the order in which they were recorded. So no entry is in two pages of one
iteration, and none is missed, wherever its bytes come from: from the upstream's own pages, which show many at once, or
from asking for the one object.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self
from urllib.parse import quote, unquote_plus

import orjson

from gateway.errors import BadRequest
from gateway.objects.store import Entry
from gateway.operations.operation import Operation
from gateway.operations.stored_kinds import StoredKind, StoredKinds
from gateway.policy.caller import Caller
from gateway.wire.list_pages import ListedEntry

AFTER: Final = "after"
BEFORE: Final = "before"
_LIMIT: Final = "limit"
_ORDER: Final = "order"
_OWN_WORDS: Final = (_LIMIT, _ORDER, AFTER, BEFORE)
_METADATA: Final = re.compile(r"metadata\[(.*)\]", re.DOTALL)
_NUMBER: Final = re.compile(r"[0-9]{1,6}")
_LEAST_WALKED: Final = 100
_MOST_WALKED: Final = 1_000
"""Entries of one of the upstream's pages that is walked through: more would be megabytes at once."""

_ABOUT_SECONDS: Final = 60.0


def filtered_kind(caller: Caller, operation: Operation) -> StoredKind | None:
    """The kind whose list an operation is, where the caller may see its own of it alone; None: it passes as it is."""
    return StoredKinds.load().place_of(operation).lists if caller.asks_registry(operation) else None


@dataclass(frozen=True, slots=True)
class ListQuery:
    """What a client asks of a list."""

    kind: StoredKind
    path: str
    rest: tuple[str, ...]
    """The parts of the query as they came, but for those that say which page."""

    limit_part: str | None
    limit: int | None
    """How many entries the page may have; None where nobody, or nobody sane, says so."""

    order: str | None
    after: str | None
    before: str | None
    wanted: Mapping[str, str] = field(default_factory=dict)
    """Members that entries must have, each with its value."""

    metadata: Mapping[str, str] = field(default_factory=dict)
    is_plain: bool = True
    """Whether nothing is asked but what can be told of an object by itself."""

    @classmethod
    def read(cls, kind: StoredKind, target: str) -> Self:
        """Raise BadRequest for what could be read in two ways."""
        path, _, text = target.partition("?")
        rest: list[str] = []
        own: dict[str, str] = {}
        wanted: dict[str, str] = {}
        metadata: dict[str, str] = {}
        limit_part, is_plain = None, True
        for part in filter(None, text.split("&")):
            name, _, value = (unquote_plus(half) for half in part.partition("="))
            if name in _OWN_WORDS:
                if name in own:
                    raise BadRequest(f"{name!r} stands twice in the query.", param=name)
                own[name] = value
                if name == _LIMIT:
                    limit_part = part
                elif name == _ORDER:
                    rest.append(part)
                continue
            rest.append(part)
            if (found := _METADATA.fullmatch(name)) is not None and found[1] not in metadata:
                metadata[found[1]] = value
            elif (member := kind.filters.get(name)) is not None and member not in wanted:
                wanted[member] = value
            else:
                is_plain = False
        stated = own.get(_LIMIT, "")
        limit = int(stated) if _NUMBER.fullmatch(stated) else None
        return cls(
            kind,
            path,
            tuple(rest),
            limit_part,
            limit if limit is not None and 1 <= limit <= kind.most_listed else None,
            own.get(_ORDER),
            own.get(AFTER) or None,
            own.get(BEFORE) or None,
            wanted,
            metadata,
            is_plain,
        )

    @property
    def size(self) -> int:
        """How many entries the page has, if there are so many."""
        return self.kind.usually_listed if self.limit is None else self.limit

    @property
    def page_size(self) -> int:
        """How many entries of the upstream's are asked for at once, at first."""
        return min(self.widest, max(_LEAST_WALKED, self.size + 1))

    @property
    def widest(self) -> int:
        """How many are asked for at once where few of them are the tenant's."""
        return min(self.kind.most_listed, _MOST_WALKED)

    @property
    def is_filtered(self) -> bool:
        """Whether some of the tenant's own may not be in it."""
        return bool(self.wanted or self.metadata) or not self.is_plain

    @property
    def is_ascending(self) -> bool:
        """Whether the oldest come first, as far as the query and the kind say."""
        return (self.order or self.kind.usually_ordered) == "asc"

    def cursors(self) -> list[tuple[str, str]]:
        """The objects that the query names, each by its parameter."""
        return [(name, value) for name, value in ((AFTER, self.after), (BEFORE, self.before)) if value]

    def target(self, page_size: int, *, after: str | None, before: str | None) -> str:
        """Where the upstream is asked for a page; with a limit of the client's that makes no sense, by that one."""
        sane = self.limit_part is None or self.limit is not None
        parts = [*self.rest, f"{_LIMIT}={page_size}" if sane else str(self.limit_part)]
        parts += [
            f"{name}={quote(value, safe='')}" for name, value in ((AFTER, after), (BEFORE, before)) if value
        ]
        return f"{self.path}?{'&'.join(parts)}"

    def object_target(self, object_id: str) -> str:
        """Where the upstream is asked for one object."""
        assert self.kind.path is not None
        return f"{self.kind.path.partition('{')[0]}{quote(object_id, safe='')}"

    def shows(self, raw: bytes) -> bool:
        """Whether the list has an object that was asked for by itself."""
        if not self.wanted and not self.metadata:
            return True
        document: dict[str, Any] = orjson.loads(raw)
        metadata = document.get("metadata")
        given = metadata if isinstance(metadata, dict) else {}
        return all(document.get(member) == value for member, value in self.wanted.items()) and all(
            given.get(name) == value for name, value in self.metadata.items()
        )


def told_order(entries: Sequence[ListedEntry]) -> bool | None:
    """Whether the oldest come first in a page, as it shows itself; None where it does not."""
    times = [entry.made_at for entry in entries if entry.made_at is not None]
    if not times or times[0] == times[-1]:
        return None
    return times[0] < times[-1]


class Filling:
    """A page while it is filled: which entries it may have, in their order, and the bytes of those that were found."""

    def __init__(self, size: int) -> None:
        self._most = size + 1
        """One more than the page has says that there are more."""

        self._size = size
        self._candidates: list[Entry] = []
        self._places: set[str] = set()
        self._at = 0
        """The first candidate of which nobody knows yet what becomes of it."""

        self._found: dict[str, bytes] = {}
        self._absent: set[str] = set()
        self._kept: list[tuple[str, bytes]] = []
        self.newly_found_bytes = 0
        """Of what was found last."""

        self.knows_all = False
        """Whether the registry has no more than was added."""

    def add(self, entries: Sequence[Entry], *, are_all: bool) -> None:
        """These are the next that the tenant has."""
        new = [entry for entry in entries if entry.id not in self._places]
        self._candidates += new
        self._places.update(entry.id for entry in new)
        self.knows_all = are_all
        self._go_on()

    def found(self, entries: Iterable[tuple[str, bytes]]) -> int:
        """The upstream has shown these, others' among them; returns how many were waited for."""
        before, size = len(self._found), 0
        for object_id, raw in entries:
            if object_id in self._places and object_id not in self._found:
                self._found[object_id] = raw
                size += len(raw)
        self.newly_found_bytes = size
        self._go_on()
        return len(self._found) - before

    def absent(self, object_ids: Iterable[str]) -> None:
        """These are in no page: the upstream has them no longer, or they were not asked for."""
        self._absent.update(object_ids)
        self._go_on()

    def give_up(self) -> None:
        """What was not seen is in no page: it cannot be asked for."""
        self.absent([entry.id for entry in self._candidates[self._at :] if entry.id not in self._found])

    def passed(self, begin: float, end: float) -> None:
        """The upstream has shown all that it has of the time between these, in unix seconds: the rest is not there.

        When something was made that only another object's answer told of is known about.
        """
        begin, end = begin + _ABOUT_SECONDS, end - _ABOUT_SECONDS
        self.absent(
            [
                entry.id
                for entry in self._candidates[self._at :]
                if begin < math.floor(entry.created_at) < end and entry.id not in self._found
            ]
        )

    def missing(self, most: int) -> list[Entry]:
        """The next that may be in the page and were not seen yet."""
        needed = self._most - len(self._kept)
        missing: list[Entry] = []
        for entry in self._candidates[self._at :]:
            if needed <= 0 or len(missing) >= most:
                break
            if entry.id in self._absent:
                continue
            needed -= 1
            if entry.id not in self._found:
                missing.append(entry)
        return missing

    @property
    def last(self) -> Entry | None:
        """The last candidate."""
        return self._candidates[-1] if self._candidates else None

    @property
    def is_full(self) -> bool:
        """Whether the page is known, and that there are more."""
        return len(self._kept) >= self._most

    @property
    def wants_more(self) -> bool:
        """Whether the candidates do not suffice."""
        return not self.is_full and self._at == len(self._candidates) and not self.knows_all

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to be found."""
        return self.is_full or (self._at == len(self._candidates) and self.knows_all)

    def page(self) -> tuple[list[tuple[str, bytes]], bool]:
        """What of the page is known, up to the first entry that is not, and whether there are, or may be, more."""
        return self._kept[: self._size], len(self._kept) > self._size or not self.is_done

    def _go_on(self) -> None:
        candidates = self._candidates
        while self._at < len(candidates) and len(self._kept) < self._most:
            object_id = candidates[self._at].id
            raw = self._found.get(object_id)
            if raw is not None:
                self._kept.append((object_id, raw))
            elif object_id not in self._absent:
                return
            self._at += 1


def second_of(entry: Entry | None, otherwise: float) -> float:
    """The second of an entry's creation."""
    return otherwise if entry is None else math.floor(entry.created_at)
