"""Where a request names its model: the table's words, read once, and the places they lead to. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import parse_qsl, unquote

from gateway.errors import BadRequest
from gateway.operations import Operation

_PLACE = re.compile(r"(body|form|path|query)\.([a-z_.]+)(\?)?(?=;|$| )")


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
    )


def model_in_path(raw: str) -> str:
    """A model as it stands in a path segment, its escapes read; the matcher has seen that they are sound."""
    return unquote(raw)


def model_in_query(target: str) -> str | None:
    """The `model` of a query. Raises BadRequest when it is given twice: readers would differ."""
    query = target.partition("?")[2]
    if "model" not in query and "%" not in query:
        return None
    models = [value for name, value in parse_qsl(query, keep_blank_values=True) if name == "model"]
    if len(models) > 1:
        raise BadRequest(
            "The query names the model more than once.", code="duplicate_parameter", param="model"
        )
    return models[0] if models else None
