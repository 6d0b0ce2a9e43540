"""The operation table: which operation of the API a method and a raw request target name.

Pure: the table is data (`operations.toml`), and matching reads the target exactly as it came over the wire,
because exactly those bytes go upstream. What two readers could read differently is refused, so that the
gateway and the upstream can never disagree about what was asked.
"""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Final

from gateway.operations.model_places import ModelPlaces
from gateway.operations.model_runners import NO_RUNNERS, ModelRunners
from gateway.operations.nearest import Nearest
from gateway.operations.operation import AMONG_SESSIONS as AMONG_SESSIONS
from gateway.operations.operation import OWN_GROUP as OWN_GROUP
from gateway.operations.operation import UNLISTED_ID as UNLISTED_ID
from gateway.operations.operation import Operation as Operation
from gateway.operations.operation import Rewrite as Rewrite
from gateway.operations.operation import RunsModel as RunsModel
from gateway.operations.operation import UsageReport as UsageReport
from gateway.operations.operation import Work as Work
from gateway.operations.scopes import OTHERS_USAGE, Vocabulary
from gateway.operations.targets import TargetRefused, has_slash, read_path

# Administration and billing: reached through a row of the table or not at all, whatever follows the prefix.
NEVER_UNLISTED: Final = ("/v1/organization", "/v1/projects", "/v1/dashboard", "/v1/usage")


@dataclass(frozen=True, slots=True)
class Match:
    """An operation and its path parameters: the raw text of the target, percent escapes and all."""

    operation: Operation
    params: Mapping[str, str]


class NotUnderV1(LookupError):
    """The target is unambiguous, but names nothing under /v1."""


class NeverUnlisted(LookupError):
    """The target is not in the table and lies under one of `NEVER_UNLISTED`."""


UNLISTED_READ: Final = Operation(
    id=UNLISTED_ID,
    method="GET",
    path="/v1/*",
    group="unlisted",
    scope="unlisted:read",
    request_types=("*/*",),
    response_types=("*/*",),
    streams=True,
    is_shared_state=True,
    work=Work.TRANSFER,
)
UNLISTED_WRITE: Final = replace(
    UNLISTED_READ,
    method="*",
    scope="unlisted:write",
    model=ModelPlaces(body=("model",)),
    work=Work.GENERATION,
)
NO_PARAMS: Final[Mapping[str, str]] = MappingProxyType({})
_UNLISTED: Final = {
    # By whether it only reads, and whether it is contained.
    (reads, contained): Match(operation if contained else replace(operation, is_contained=False), NO_PARAMS)
    for reads, operation in ((True, UNLISTED_READ), (False, UNLISTED_WRITE))
    for contained in (True, False)
}


_MODEL: Final = "{model}"
_METHODS: Final = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
_SOCKET: Final = "GET, Upgrade: websocket"
"""The method of a session, where another operation may have its own."""


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

    def __init__(self, operations: Iterable[Operation], runners: ModelRunners = NO_RUNNERS) -> None:
        """Raise ValueError if two rows share an id, or a method and the shape of a path."""
        self.runners = runners
        """What runs a model of its own inside a body, whatever the operation."""

        self.operations: tuple[Operation, ...] = tuple(sorted(operations, key=lambda o: (o.path, o.method)))
        self._by_id = {operation.id: operation for operation in self.operations}
        if len(self._by_id) < len(self.operations):
            raise ValueError("two operations share an id")
        self.vocabulary = _vocabulary(self.operations)
        self.scopes: tuple[str, ...] = self.vocabulary.scopes
        """Every scope that a credential can have: what requests need, those of unlisted paths included, and more."""

        self._before_models = {
            operation.path.removesuffix(_MODEL)
            for operation in self.operations
            if operation.path.endswith(_MODEL)
        }
        self._nearest = Nearest(self.operations)
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
        rows = (Operation.read(group, row) for group, rows in data["operations"].items() for row in rows)
        return cls(rows, ModelRunners.read(data["model_runners"]))

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def __len__(self) -> int:
        return len(self.operations)

    def by_id(self, id: str) -> Operation:  # noqa: A002 - it is the column's name
        """Raise KeyError if the table has no such operation; the unlisted ones are not in it."""
        return self._by_id[id]

    def methods(self, path: str) -> tuple[str, ...]:
        """The methods by which a path can be asked for, without a WebSocket; none: no row has it."""
        segments = path.split("/")
        return tuple(method for method in _METHODS if self._root.find(method, segments) is not None)

    def nearest(self, method: str, path: str) -> Operation | None:
        """The operation that somebody could have meant who asked for a path that no row has."""
        return self._nearest.to(method, path)

    def match(self, method: str, target: str, *, socket: bool = False) -> Match:
        """Return the operation that a request names, from its raw target (query included).

        HEAD is its GET. `socket`: it asks for a WebSocket, of which there may be one beside that. A path or method
        that the table lacks is `UNLISTED_READ` (GET, HEAD) or `UNLISTED_WRITE`, or below `AMONG_SESSIONS` one like it
        that is not contained. Raise TargetRefused, NotUnderV1 or NeverUnlisted; nothing else.
        """
        known = None if socket else self._literal.get((method, target))
        if known is not None:
            return known
        path, decoded = read_path(target, self._before_models)
        segments = path.split("/")
        if socket and method == "GET" and self._root.find(_SOCKET, segments) is not None:
            method = _SOCKET
        found = self._root.find(method, segments)
        meaning = decoded.casefold().rstrip("/")
        if not meaning.isascii():
            meaning = unicodedata.normalize("NFKC", meaning).casefold()
        if meaning != path:
            self._refuse_other_reading(method, path, found, meaning)
        if found is not None:
            if meaning.startswith(AMONG_SESSIONS) and not found.is_among_sessions:
                raise TargetRefused("the path could also be read as one among sessions")
            return Match(found, {name: segments[place] for name, place in self._parameters[found.id]})
        if has_slash(path):
            raise TargetRefused("a slash in percent-encoding may only be part of a model's name")
        if not path.startswith("/v1/") or path == "/v1/":
            raise NotUnderV1("only paths under /v1 exist here")
        if path.startswith(NEVER_UNLISTED):
            raise NeverUnlisted("administration and billing paths are forwarded only if they are listed")
        return _UNLISTED[method in ("GET", "HEAD"), not meaning.startswith(AMONG_SESSIONS)]

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
        methods: tuple[str, ...] = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
        if operation.is_session:
            # Among sessions it is meant however it is asked for: what is known of it says that it is closed then.
            methods = (_SOCKET, *methods) if operation.is_among_sessions else (_SOCKET,)
        for method in methods:
            if node.operations.setdefault(method, operation) is not operation:
                raise ValueError(f"{operation.id} and {node.operations[method].id} share a method and path")
            if not places:
                self._literal[method, operation.path] = Match(operation, NO_PARAMS)
        self._parameters[operation.id] = tuple(places)


def _vocabulary(operations: Iterable[Operation]) -> Vocabulary:
    """Every scope, since the first version that has an operation which needs it."""
    since = {OTHERS_USAGE: 1, UNLISTED_READ.scope: 1, UNLISTED_WRITE.scope: 1}
    for operation in operations:
        since[operation.scope] = min(operation.since, since.get(operation.scope, operation.since))
    return Vocabulary(since)


@cache
def _load() -> OperationTable:
    return OperationTable.read()
