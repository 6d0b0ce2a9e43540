"""A row of the operation table: what is known of one method and path of the API. Pure.

The columns are explained at the top of `operations.toml`; what follows from them is found once, when a row is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Self

from gateway.operations.model_places import NO_MODEL, ModelPlaces

# Where sessions are started and steered that may run past the gateway: what is not known here could be one of them.
AMONG_SESSIONS: Final = (
    *("/v1/realtime", "/v1/chatkit", "/v1/live"),
    *("/v1/agents/sessions", "/v1/agents/automations"),
)

UNLISTED_ID: Final = "unlisted"
OWN_GROUP: Final = "gateway"
FETCHES: Final = "fetch_response"
"""What traces call the fetching of an answer that was made before."""

_API_TYPES: Final = {"/v1/chat/completions": "chat_completions", "/v1/responses": "responses"}


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
    maximum: str | None = None
    answers: str = "prompt"
    rewrite: Rewrite | None = None
    is_session: bool = False
    over_http: str | None = None
    is_contained: bool = True
    joined_by: str | None = None
    is_shared_state: bool = False
    work: Work = Work.STORED
    deprecated: bool = False
    since: int = 1
    gen_ai: str | None = None
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

    may_be_apart: bool = field(init=False, compare=False)
    """Whether some callers get something else than what the upstream answers to them: of the gateway's own paths, or of
    a list."""

    is_unlisted: bool = field(init=False, compare=False)
    """Whether the table lacks what was asked for, so that nobody knows what it does."""

    api_type: str | None = field(init=False, compare=False)
    """What traces call the part of the API that it belongs to, where they have a word for it."""

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
            ("may_be_apart", self.group == OWN_GROUP or self.object_action == "list"),
            ("is_unlisted", self.id == UNLISTED_ID),
            ("api_type", next((t for path, t in _API_TYPES.items() if self.path.startswith(path)), None)),
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
