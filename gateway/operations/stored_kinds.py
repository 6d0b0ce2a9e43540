"""What an upstream stores, kind by kind, and where each operation names it or says that it made some. Pure.

The data stands in `stored_objects.toml`, whose head explains it. What follows from it for an operation is found once.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final, Self

from gateway.operations.operation import Operation

_MOST_LISTED: Final = 100
_USUALLY_LISTED: Final = 20
DAY_SECONDS: Final = 86_400


@dataclass(frozen=True, slots=True)
class Unknown:
    """What the API answers in the place of an object that it does not have."""

    status: int
    message: str
    """With `{id}` in it."""

    param: str | None = None
    code: str | None = None


@dataclass(frozen=True, slots=True)
class StoredKind:
    """One kind of objects that the upstream stores."""

    name: str
    named_by: tuple[str, ...]
    unknown: Unknown
    path: str | None = None
    list_path: str | None = None
    below: frozenset[str] = frozenset()
    """What names a part of it: below it, it decides."""

    unknown_as: Mapping[str, Unknown] = field(default_factory=dict)
    is_answer: bool = False
    """Whether it is an answer itself, which is of use also where nobody finds it again."""

    expires: str | None = None
    """The member that says when the upstream forgets it; None: it does not, whatever its members say."""

    kept_seconds: float | None = None
    """After which the upstream has forgotten it in any case."""

    leaves: tuple[str, ...] = ()
    """Kinds of which more may come of it than any answer tells."""

    filters: Mapping[str, str] = field(default_factory=dict)
    most_listed: int = _MOST_LISTED
    usually_listed: int = _USUALLY_LISTED
    usually_ordered: str = "desc"

    @classmethod
    def read(cls, name: str, row: Mapping[str, Any], cursors: Mapping[str, Any]) -> Self:
        """Read a kind of the data, and what is said of cursors where it is listed.

        A word that it may not have is a KeyError or TypeError.
        """
        columns = dict(row)
        kept_days = columns.pop("kept_days", None)
        named = (cursors if "list" in columns else {}) | columns.pop("unknown_as", {})
        return cls(
            name=name,
            named_by=tuple(columns.pop("named_by")),
            unknown=Unknown(**columns.pop("unknown")),
            list_path=columns.pop("list", None),
            below=frozenset(columns.pop("below", ())),
            unknown_as={member: Unknown(**words) for member, words in named.items()},
            kept_seconds=None if kept_days is None else kept_days * DAY_SECONDS,
            leaves=tuple(columns.pop("leaves", ())),
            **columns,
        )

    @property
    def is_listed(self) -> bool:
        """Whether all of an account's are listed, so that the registry has to know them by id and time."""
        return self.list_path is not None

    def unknown_by(self, member: str | None) -> Unknown:
        """What the API answers where a member names one that it does not have; None: the path."""
        if member is None:
            return self.unknown
        words = self.unknown_as.get(member)
        if words is not None:
            return words
        return Unknown(
            self.unknown.status,
            self.unknown.message,
            self.unknown.param if self.path is None else member,
            self.unknown.code,
        )


Way = tuple[str, ...]
"""The members that lead to a value; `[]` stands for every element of a list."""


@dataclass(frozen=True, slots=True)
class Making:
    """Where answers say that an object was made."""

    kind: StoredKind
    at: tuple[Way, ...]
    in_events: tuple[Way, ...]
    is_last: bool
    condition: str | None
    is_derived: bool


def purpose_of(makes: Iterable[Making]) -> Making | None:
    """What an operation is there to make, of all that it makes."""
    return next((making for making in makes if not making.is_derived), None)


@dataclass(frozen=True, slots=True)
class StoredPlace:
    """What an operation has to do with stored objects, beside what bodies and queries name."""

    parent: StoredKind | None = None
    """The kind of what the path begins with, which decides about all that is below."""

    parameter: str | None = None
    """The path's parameter that is the parent's id."""

    is_itself: bool = False
    """Whether the path is that object, and nothing below it: deleting it frees the entry, and so does a 404."""

    lists: StoredKind | None = None
    makes: tuple[Making, ...] = ()
    closed: str | None = None
    """Why it stays closed to tenants who share an account."""

    @property
    def is_nothing(self) -> bool:
        """Whether it has nothing to do with any."""
        return self.parent is None and self.lists is None and not self.makes and self.closed is None


NO_PLACE: Final = StoredPlace()


class StoredKinds:
    """All kinds, and what each operation has to do with them."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        """Raise KeyError, TypeError or ValueError for bad data."""
        self.kinds: Mapping[str, StoredKind] = MappingProxyType(
            {name: StoredKind.read(name, row, data["unknown_cursors"]) for name, row in data["kinds"].items()}
        )
        self.by_member: Mapping[str, StoredKind] = MappingProxyType(
            {member: kind for kind in self.kinds.values() for member in kind.named_by}
        )
        """Which kind a member of a body names, by the member's name in lower case."""

        self.closed_members: Mapping[str, str] = MappingProxyType(
            {member: row["reason"] for row in data["closed"] for member in row.get("named_by", ())}
        )
        """Members that name what stays closed, and why."""

        self._closed_paths = [
            (path, row["reason"]) for row in data["closed"] for path in row.get("paths", ())
        ]
        self._makes: dict[str, tuple[Making, ...]] = {}
        for row in data["makes"]:
            making = Making(
                self.kinds[row["kind"]],
                _ways(row["at"]),
                _ways(row.get("in_events", ())),
                row.get("last", False),
                row.get("if"),
                row.get("derived", False),
            )
            for operation_id in row["by"]:
                self._makes[operation_id] = (*self._makes.get(operation_id, ()), making)
        self._places: dict[str, StoredPlace] = {}

    @classmethod
    def load(cls) -> StoredKinds:
        """Those that the package carries, read once per process."""
        return _load()

    def __getitem__(self, name: str) -> StoredKind:
        return self.kinds[name]

    @property
    def making_operations(self) -> Iterable[str]:
        """The operations whose answers say that something was made."""
        return self._makes.keys()

    def place_of(self, operation: Operation) -> StoredPlace:
        """What an operation has to do with stored objects."""
        place = self._places.get(operation.id)
        if place is None:
            place = self._places[operation.id] = self._place_of(operation)
        return place

    def _place_of(self, operation: Operation) -> StoredPlace:
        path = operation.path
        parent = next(
            (kind for kind in self.kinds.values() if kind.path and _is_below(path, kind.path)), None
        )
        makes = self._makes.get(operation.id, ())
        lists = next((kind for kind in self.kinds.values() if kind.list_path == path), None)
        if operation.method != "GET":
            lists = None
        closed = self._closed(operation) if parent is lists is None and not makes else None
        if parent is None:
            return StoredPlace(lists=lists, makes=makes, closed=closed)
        parameter = re.findall(r"{(\w+)}", path)[0]
        return StoredPlace(parent, parameter, path == parent.path, lists, makes, closed)

    def _closed(self, operation: Operation) -> str | None:
        if not operation.is_shared_state:
            return None
        reasons = (reason for start, reason in self._closed_paths if _is_below(operation.path, start))
        return next(reasons, "the gateway keeps no record of whose they are")


def _is_below(path: str, start: str) -> bool:
    return path == start or path.startswith(start + "/")


def _ways(texts: Iterable[str]) -> tuple[Way, ...]:
    return tuple(tuple(text.replace("[]", ".[]").split(".")) for text in texts)


@cache
def _load() -> StoredKinds:
    file = resources.files("gateway.operations").joinpath("stored_objects.toml")
    return StoredKinds(tomllib.loads(file.read_text("utf-8")))
