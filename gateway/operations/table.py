"""The operation table: which operation of the API a method and a raw request target name.

Pure: the table is data (`operations.toml`), and matching reads the target exactly as it came over the wire,
because exactly those bytes go upstream. What two readers could read differently is refused, so that the
gateway and the upstream can never disagree about what was asked.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import unquote_to_bytes

MAX_PATH_BYTES: Final = 2048
MAX_QUERY_BYTES: Final = 8192

# Administration and billing: reached through a row of the table or not at all, whatever follows the prefix.
NEVER_UNLISTED: Final = ("/v1/organization", "/v1/projects", "/v1/dashboard", "/v1/usage")


@dataclass(frozen=True, slots=True)
class Operation:
    """One method and path of the API. The columns are explained at the top of `operations.toml`."""

    id: str
    method: str
    path: str
    group: str
    scope: str
    request_types: tuple[str, ...]
    response_types: tuple[str, ...]
    streams: bool
    model_location: str
    usage_location: str
    usage_dimensions: tuple[str, ...]
    object_kind: str
    object_action: str
    id_params: tuple[str, ...]
    deprecated: bool


@dataclass(frozen=True, slots=True)
class Match:
    """An operation and its path parameters: the raw text of the target, percent escapes and all."""

    operation: Operation
    params: Mapping[str, str]


class TargetRefused(ValueError):
    """The target could be read in two ways. `reason` is for the caller and quotes nothing of the target."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotUnderV1(LookupError):
    """The target is unambiguous, but names nothing under /v1."""


class NeverUnlisted(LookupError):
    """The target is not in the table and lies under one of `NEVER_UNLISTED`."""


UNLISTED_READ: Final = Operation(
    id="unlisted",
    method="GET",
    path="/v1/*",
    group="unlisted",
    scope="unlisted:read",
    request_types=("*/*",),
    response_types=("*/*",),
    streams=True,
    model_location="none",
    usage_location="none",
    usage_dimensions=("requests",),
    object_kind="none",
    object_action="none",
    id_params=(),
    deprecated=False,
)
UNLISTED_WRITE: Final = replace(
    UNLISTED_READ, method="*", scope="unlisted:write", model_location="body.model?"
)
_NO_PARAMS: Final[Mapping[str, str]] = MappingProxyType({})
_UNLISTED_READ: Final = Match(UNLISTED_READ, _NO_PARAMS)
_UNLISTED_WRITE: Final = Match(UNLISTED_WRITE, _NO_PARAMS)


@dataclass(slots=True)
class _Node:
    """One place in the prefix tree of path segments."""

    literals: dict[str, _Node] = field(default_factory=dict)
    parameter: _Node | None = None
    # Under None: any of them.
    operations: dict[str | None, Operation] = field(default_factory=dict)

    def find(self, method: str | None, segments: Sequence[str], at: int = 0) -> Operation | None:
        """Return the operation: literals win over parameters, segment by segment. No method: any method."""
        if at == len(segments):
            return self.operations.get(method)
        segment = segments[at]
        literal = self.literals.get(segment)
        if literal is not None:
            found = literal.find(method, segments, at + 1)
            if found is not None:
                return found
        if self.parameter is None or not segment:
            return None
        return self.parameter.find(method, segments, at + 1)


class OperationTable:
    """All operations, sorted by path and method; iterating yields them in that order."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        """Raise ValueError if two rows share an id, or a method and the shape of a path."""
        self.operations: tuple[Operation, ...] = tuple(sorted(operations, key=lambda o: (o.path, o.method)))
        self._by_id = {operation.id: operation for operation in self.operations}
        if len(self._by_id) < len(self.operations):
            raise ValueError("two operations share an id")
        self._root = _Node()
        self._literal: dict[tuple[str, str], Match] = {}
        self._parameters: dict[str, tuple[tuple[str, int], ...]] = {}
        for operation in self.operations:
            self._plant(operation)

    @classmethod
    def load(cls) -> OperationTable:
        """The table that the package carries, read once per process: it never changes."""
        return _load()

    @classmethod
    def read(cls) -> OperationTable:
        """Read the table that the package carries. Raise ValueError, KeyError or TypeError if it is bad."""
        data = tomllib.loads(
            resources.files("gateway.operations").joinpath("operations.toml").read_text("utf-8")
        )
        defaults = data["defaults"]
        return cls(_row(group, defaults | row) for group, rows in data["operations"].items() for row in rows)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    def by_id(self, id: str) -> Operation:  # noqa: A002 - it is the column's name
        """Raise KeyError if the table has no such operation; the unlisted ones are not in it."""
        return self._by_id[id]

    @property
    def scopes(self) -> tuple[str, ...]:
        """Every scope that a request can need, sorted, those of unlisted paths included."""
        return tuple(sorted({o.scope for o in (*self.operations, UNLISTED_READ, UNLISTED_WRITE)}))

    def match(self, method: str, target: str) -> Match:
        """Return the operation that a request names, from its raw target (query included).

        HEAD is its GET. A path or method that the table lacks is `UNLISTED_READ` (GET, HEAD) or
        `UNLISTED_WRITE`. Raise TargetRefused, NotUnderV1 or NeverUnlisted; nothing else.
        """
        known = self._literal.get((method, target))
        if known is not None:
            return known
        # So short a target is within the limits of path and query both.
        if len(target) <= MAX_PATH_BYTES and _PLAIN.fullmatch(target) is not None:
            path = decoded = target.partition("?")[0]
        else:
            path, decoded = _examined(target)
        segments = path.split("/")
        found = self._root.find(method, segments)
        meaning = decoded.casefold().rstrip("/")
        if meaning != path:
            self._refuse_other_reading(method, path, found, meaning)
        if found is not None:
            return Match(found, {name: segments[place] for name, place in self._parameters[found.id]})
        if not path.startswith("/v1/") or path == "/v1/":
            raise NotUnderV1("only paths under /v1 exist here")
        if path.startswith(NEVER_UNLISTED):
            raise NeverUnlisted("administration and billing paths are forwarded only if they are listed")
        return _UNLISTED_READ if method in ("GET", "HEAD") else _UNLISTED_WRITE

    def _refuse_other_reading(self, method: str, path: str, found: Operation | None, meaning: str) -> None:
        """Raise TargetRefused if the decoded, folded path is another operation than the path as it came."""
        here, there = found, self._root.find(method, meaning.split("/"))
        if there is None:
            here, there = (self._root.find(None, text.split("/")) for text in (path, meaning))
        if there is not None and there is not here:
            raise TargetRefused(f"the path could also be read as {there.path}, which is spelled exactly so")
        if meaning.startswith(NEVER_UNLISTED) and (path.endswith("/") or not path.startswith(NEVER_UNLISTED)):
            raise TargetRefused("administration paths are lower case, without escapes or a trailing '/'")

    def _plant(self, operation: Operation) -> None:
        node = self._root
        places: list[tuple[str, int]] = []
        for place, segment in enumerate(operation.path.split("/")):
            if segment.startswith("{"):
                places.append((segment[1:-1], place))
                node.parameter = node.parameter or _Node()
                node = node.parameter
            else:
                node = node.literals.setdefault(segment, _Node())
        node.operations.setdefault(None, operation)
        methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
        for method in methods:
            if node.operations.setdefault(method, operation) is not operation:
                raise ValueError(f"{operation.id} and {node.operations[method].id} share a method and path")
            if not places:
                self._literal[method, operation.path] = Match(operation, _NO_PARAMS)
        self._parameters[operation.id] = tuple(places)


@cache
def _load() -> OperationTable:
    return OperationTable.read()


# A target that needs no second look: no escape, no segment that is empty or begins with a dot.
_PLAIN: Final = re.compile(r"(?:/(?!\.)[\w.~!$&'()*+,=:@-]+)+(?:\?[!-\"$-~]*)?", re.ASCII)

_DOT_SEGMENT: Final = re.compile(r"/\.\.?(?:/|\Z)")

_TARGET_FAULTS: Final = (
    (re.compile(r"\A(?!/)"), "the request target must be a path that begins with '/', not a URL"),
    (re.compile(r"#"), "the request target must not have a fragment ('#')"),
    (re.compile(r"[^!-~]"), "the request target must be printable ASCII: percent-encode the rest"),
)
_PATH_FAULTS: Final = (
    (re.compile(r"\\"), "the path must not contain a backslash"),
    (re.compile(r";"), "the path must not contain ';'"),
    (re.compile(r"//"), "the path must not contain an empty segment ('//')"),
    (re.compile(r"%(?![0-9A-Fa-f]{2})"), "the path has a '%' that two hexadecimal digits do not follow"),
    (re.compile(r"[^\w.~!$&'()*+,=:@/%-]"), "the path has a character that must be percent-encoded"),
    (
        re.compile(r"%(?:[01].|7F|2F|5C|25|3B|3F|23)", re.IGNORECASE),
        "the path must not contain a control character or one of / \\ % ; ? # in percent-encoding",
    ),
)


def _examined(target: str) -> tuple[str, str]:
    """Return the path of a target raw and percent-decoded. Raise TargetRefused if it is ambiguous."""
    _refuse_faults(target, _TARGET_FAULTS)
    path, _, query = target.partition("?")
    if len(path) > MAX_PATH_BYTES:
        raise TargetRefused(f"the path is longer than {MAX_PATH_BYTES} bytes")
    if len(query) > MAX_QUERY_BYTES:
        raise TargetRefused(f"the query is longer than {MAX_QUERY_BYTES} bytes")
    _refuse_faults(path, _PATH_FAULTS)
    try:
        decoded = unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise TargetRefused("the percent escapes in the path must spell UTF-8") from None
    if _DOT_SEGMENT.search(decoded):
        raise TargetRefused("the path must not contain the segments '.' and '..', in any encoding")
    return path, decoded


def _refuse_faults(text: str, faults: Iterable[tuple[re.Pattern[str], str]]) -> None:
    for pattern, reason in faults:
        if pattern.search(text):
            raise TargetRefused(reason)


def _row(group: str, row: Mapping[str, Any]) -> Operation:
    columns: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
    }
    kind, action = columns.pop("object").split(" ")
    id_params = tuple(re.findall(r"{(\w+)}", columns["path"]))
    return Operation(group=group, object_kind=kind, object_action=action, id_params=id_params, **columns)
