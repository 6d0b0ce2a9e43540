"""Where an operation names its model, and how it is read where the head has it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self
from urllib.parse import parse_qsl, unquote

from gateway.errors import BadRequest


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """The places of one operation; None where it has no such place."""

    body: tuple[str, ...] | None = None
    """The way through nested objects of a JSON body."""

    form: str | None = None
    path: str | None = None
    query: str | None = None
    required: bool = False
    """The operation cannot do without a model."""

    may_lack: bool = False
    """Without one the operation uses none, or one that was named when something was created."""

    in_input_file: bool = False
    """Models stand in the lines of a stored file, where nobody looks."""

    @classmethod
    def read(cls, column: Mapping[str, Any]) -> Self:
        """Read the table's `model`; a way through a body is written with dots. Raises TypeError."""
        body = column.get("body")
        return cls(**{**column, "body": None if body is None else tuple(body.split("."))})

    @property
    def member(self) -> str:
        """What names it in a body or a form, as one would write it."""
        return self.form or "model" if self.body is None else ".".join(self.body)


_BEFORE_MODELS = frozenset({"deployments", "engines", "models"})

NO_MODEL = ModelPlaces()
"""No place, and no model."""


def model_in_path(raw: str) -> str:
    """A model as it stands in a path segment, its escapes read; the matcher has seen that they are sound."""
    return unquote(raw)


def models_in_unlisted_path(target: str) -> Iterator[str]:
    """What an unknown path could name as a model, for whoever may use some only: what follows `engines`, say.

    What stands behind the last colon is an action, as in `models/gemini:generate`.
    """
    segments = unquote(target.partition("?")[0]).split("/")
    for before, segment in pairwise(segments):
        if before.casefold() in _BEFORE_MODELS:
            yield segment.rpartition(":")[0] or segment


def model_in_query(target: str, *, strict: bool) -> str | None:
    """The `model` of a query. Raises BadRequest when it is given twice: readers would differ.

    `strict`: so they would at a `;`, which some split at, and over `model[]`.
    """
    query = target.partition("?")[2]
    if "model" not in query and "%" not in query:
        return None
    names = parse_qsl(query, keep_blank_values=True)
    models = [value for name, value in names if name == "model"]
    if len(models) > 1 or (strict and models and any(name.startswith("model[") for name, _ in names)):
        raise BadRequest(
            "The query names the model more than once.", code="duplicate_parameter", param="model"
        )
    if strict and ";" in query:
        raise BadRequest("A query that names a model must not have a ';': write '%3B'.", param="model")
    return models[0] if models else None
