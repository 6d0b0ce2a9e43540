"""The operation table: which operation of the API a method and a raw request target name.

Pure: the table is data (`operations.toml`), and matching reads the target exactly as it came over the wire,
because exactly those bytes go upstream. What two readers could read differently is refused, so that the
gateway and the upstream can never disagree about what was asked.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final, Self

from gateway.operations.model_places import NO_MODEL, ModelPlaces
from gateway.operations.model_runners import NO_RUNNERS, ModelRunners
from gateway.operations.scopes import OTHERS_USAGE, Vocabulary
from gateway.operations.targets import TargetRefused, read_path

# Administration and billing: reached through a row of the table or not at all, whatever follows the prefix.
NEVER_UNLISTED: Final = ("/v1/organization", "/v1/projects", "/v1/dashboard", "/v1/usage")

# Where sessions are started and steered that may run past the gateway: what is not known here could be one of them.
AMONG_SESSIONS: Final = (
    *("/v1/realtime", "/v1/chatkit", "/v1/live"),
    *("/v1/agents/sessions", "/v1/agents/automations"),
)

UNLISTED_ID: Final = "unlisted"
OWN_GROUP: Final = "gateway"


class UsageReport(StrEnum):
    """Whether answers say what was used, and when."""

    ON_REQUEST = "on_request"
    REPORTED = "reported"
    REPEATED = "repeated"
    LATER = "later"
    NONE = "none"


class Rewrite(StrEnum):
    """What the gateway changes in the answer of an operation."""

    MODEL_LIST = "model_list"
    REALTIME_SECRET = "realtime_secret"  # noqa: S105 - a word of the table


class RunsModel(StrEnum):
    """How an operation runs a model that a request need not name."""

    INHERITED = "inherited"
    UNSEEN = "unseen"


class Work(StrEnum):
    """What an operation's time goes into: a model's thinking, a file's bytes, or the reading of records."""

    GENERATION = "generation"
    TRANSFER = "transfer"
    STORED = "stored"


_COUNTED: Final = frozenset({"tokens", "images", "audio_megabytes", "audio_seconds", "audio_characters"})
_HARMLESS: Final = frozenset({"GET", "DELETE"})
_NOT_HERE: Final = frozenset({UsageReport.REPEATED, UsageReport.LATER})
_LATE_KINDS: Final = frozenset({"response", "run", "batch", "fine_tuning_job", "video", "eval_run"})


@dataclass(frozen=True, slots=True)
class Operation:
    """One method and path of the API. The columns are explained at the top of `operations.toml`."""

    id: str
    method: str
    path: str
    group: str
    scope: str
    object_kind: str = "none"
    object_action: str = "none"
    request_types: tuple[str, ...] = ()
    response_types: tuple[str, ...] = ("application/json",)
    streams: bool = False
    model: ModelPlaces = NO_MODEL
    runs_model: RunsModel | None = None
    reports: UsageReport = UsageReport.NONE
    uses: tuple[str, ...] = ()
    goes_on: bool = False
    has_output: bool = True
    default_output: int | None = None
    rewrite: Rewrite | None = None
    is_session: bool = False
    is_contained: bool = True
    joined_by: str | None = None
    is_shared_state: bool = False
    work: Work = Work.STORED
    deprecated: bool = False
    since: int = 1
    is_free: bool = False
    """Whether it is known to use nothing that costs: no column, but found in the row."""

    # What follows from these, found once: every request asks.
    counts_usage: bool = field(init=False, compare=False)
    """Whether answers say what they used, or ought to: what they do not say is estimated.

    Not those that repeat what was counted when something was created, nor those that only prepare a session.
    """

    has_answers: bool = field(init=False, compare=False)
    """Whether what it uses is a prompt, and answers that are made of LLM tokens."""

    late_kind: str | None = field(init=False, compare=False)
    """The kind of what it makes or shows whose usage may be said after the answer that made it; None: it is said then,
    or never."""

    repeats_usage: bool = field(init=False, compare=False)
    """Whether its answers show what something used that was made before."""

    is_batch: bool = field(init=False, compare=False)
    """Whether it runs another operation, the `endpoint` of its body, over the lines of a file."""

    is_administration: bool = field(init=False, compare=False)
    """Whether it is administration of the organization, which has a key and a gate of its own."""

    is_own: bool = field(init=False, compare=False)
    """Whether it is one of the gateway's own paths, which no upstream sees."""

    is_unlisted: bool = field(init=False, compare=False)
    """Whether the table lacks what was asked for, so that nobody knows what it does."""

    is_among_sessions: bool = field(init=False, compare=False)
    """Whether it lies where sessions are started, so that asked for in any other way it may start one too."""

    def __post_init__(self) -> None:
        for name, value in (
            ("counts_usage", self.reports not in _NOT_HERE and not _COUNTED.isdisjoint(self.uses)),
            ("has_answers", _has_answers(self)),
            ("late_kind", _late_kind_of(self)),
            ("repeats_usage", self.reports is UsageReport.REPEATED),
            ("is_batch", self.model.in_input_file),
            ("is_administration", self.scope.startswith("org.")),
            ("is_own", self.group == OWN_GROUP),
            ("is_unlisted", self.id == UNLISTED_ID),
            ("is_among_sessions", self.path.startswith(AMONG_SESSIONS)),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def read(cls, group: str, row: Mapping[str, Any]) -> Self:
        """Read a row of the table. A word that it may not have is a ValueError, KeyError or TypeError."""
        columns: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in row.items()
        }
        kind, action = columns.pop("object").split(" ")
        model = ModelPlaces.read(columns.pop("model", {}))
        for name, words in (
            ("reports", UsageReport),
            ("rewrite", Rewrite),
            ("runs_model", RunsModel),
            ("work", Work),
        ):
            if name in columns:
                columns[name] = words(columns[name])
        operation = cls(group=group, object_kind=kind, object_action=action, model=model, **columns)
        if "work" not in columns:
            operation = replace(operation, work=_work_of(operation))
        if "is_shared_state" not in columns:
            stored = kind != "none" and not operation.is_administration
            operation = replace(operation, is_shared_state=stored)
        return replace(operation, is_free=_is_free(operation, said="uses" in row))

    @property
    def id_params(self) -> tuple[str, ...]:
        """The names of the path's parameters, in their order."""
        return tuple(re.findall(r"{(\w+)}", self.path))


def _has_answers(operation: Operation) -> bool:
    says_them = operation.reports not in _NOT_HERE and operation.has_output and not operation.is_session
    return says_them and operation.uses == ("tokens",)


def _late_kind_of(operation: Operation) -> str | None:
    if operation.reports is UsageReport.NONE:
        return None
    return next((kind for kind in operation.object_kind.split(";") if kind in _LATE_KINDS), None)


def _work_of(operation: Operation) -> Work:
    if operation.model != NO_MODEL:
        return Work.GENERATION
    if operation.streams or "multipart/form-data" in operation.request_types:
        return Work.TRANSFER
    return Work.STORED


def _is_free(operation: Operation, *, said: bool) -> bool:
    """Whether it uses nothing that costs; `said`: the row has a word about it.

    What only mints a secret uses nothing: the session that it opens passes here. Administration has a gate of its own.
    """
    if operation.is_administration or operation.rewrite is Rewrite.REALTIME_SECRET:
        return True
    harmless = said or operation.method in _HARMLESS
    return harmless and operation.is_contained and not operation.uses


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

    def match(self, method: str, target: str) -> Match:
        """Return the operation that a request names, from its raw target (query included).

        HEAD is its GET. A path or method that the table lacks is `UNLISTED_READ` (GET, HEAD) or
        `UNLISTED_WRITE`, or below `AMONG_SESSIONS` one like it that is not contained. Raise
        TargetRefused, NotUnderV1 or NeverUnlisted; nothing else.
        """
        known = self._literal.get((method, target))
        if known is not None:
            return known
        path, decoded = read_path(target)
        segments = path.split("/")
        found = self._root.find(method, segments)
        meaning = decoded.casefold().rstrip("/")
        if not meaning.isascii():
            meaning = unicodedata.normalize("NFKC", meaning).casefold()
        if meaning != path:
            self._refuse_other_reading(method, path, found, meaning)
        if found is not None:
            return Match(found, {name: segments[place] for name, place in self._parameters[found.id]})
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
        methods = ("GET", "HEAD") if operation.method == "GET" else (operation.method,)
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
