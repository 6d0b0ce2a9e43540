"""Where a request names its models: the one place that the table knows, and every other. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, unquote

from gateway.errors import BadRequest
from gateway.operations.table import Operation
from gateway.wire.strict_json import DISGUISE, USER_NAMED, hides_names, objects

SIGNS_IN_EVENTS = re.compile(rb'(?i:"models?")|' + DISGUISE)
"""Occurs in every realtime event in which `models_in` could find a model."""

_PLACE = re.compile(r"(body|form|path|query)\.([a-z_.]+)(\?)?(?=;|$| )")
_NAMES = frozenset({"model", "models"})
_WRITTEN = re.compile(rb'"(?i:models?)"')
# Rows of data, and items of a conversation: what they hold chooses no model.
_BESIDE = USER_NAMED | {"item", "sample"}


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


def places(operation: Operation) -> ModelPlaces:
    """The places that an operation's `model_location` names."""
    return read_places(operation.model_location)


@lru_cache(maxsize=512)
def read_places(model_location: str) -> ModelPlaces:
    """Read the table's words: `form.model?; body.model?` and the like."""
    found: dict[str, str] = {}
    required = False
    for kind, name, optional in _PLACE.findall(model_location):
        # Plural names are filters of a listing, not the model that answers.
        if name.rpartition(".")[2] in ("model", "fine_tuned_model_checkpoint"):
            found[kind] = name
            required = required or not optional
    body = found.get("body")
    return ModelPlaces(
        None if body is None else tuple(body.split(".")),
        found.get("form"),
        found.get("path"),
        found.get("query"),
        required,
        may_lack=" else " in model_location or "inherited" in model_location,
    )


def model_in_path(raw: str) -> str:
    """A model as it stands in a path segment, its escapes read; the matcher has seen that they are sound."""
    return unquote(raw)


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


def may_name_models(body: bytes, *, known: int) -> bool:
    """Whether a body may name more models than the `known` ones; a search by bytes."""
    return len(_WRITTEN.findall(body)) > known or hides_names(body)


def models_in(document: object) -> Iterator[str]:
    """Every model that a parsed body names, at any depth: the text, or texts, of members named so.

    Raises BadRequest for a name that differs from these in nothing but case.
    """
    for _, members in objects(document, beside=_BESIDE):
        for name, value in members.items():
            if name.casefold() not in _NAMES:
                continue
            if name not in _NAMES:
                raise BadRequest(
                    f"{name!r} could be read as {name.casefold()!r}. Write it in lower case, once.",
                    param=name,
                )
            yield from (
                text for text in (value if isinstance(value, list) else (value,)) if isinstance(text, str)
            )


def field_may_name_model(name: str) -> bool:
    """Whether a form's field of this name, `session[model]` say, could be read as one that names a model."""
    return not _NAMES.isdisjoint(re.split(r"[\[\].]+", name.casefold()))
