"""Settings from the environment: `GATEWAY_EDGE__KEEPALIVE_SECONDS` is the key `edge.keepalive_seconds`.

A variable whose first word is no setting is somebody else's, as those that Kubernetes sets for a service named
`gateway`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import orjson
from pydantic import BaseModel

from gateway.settings.section import Problem
from gateway.settings.settings import Settings

_PREFIX = "gateway_"


def from_environ(environ: Mapping[str, str], problems: list[Problem]) -> dict[str, Any]:
    """What variables say, nested like the configuration file; a list or a table is written as JSON."""
    values: dict[str, Any] = {}
    for path, text in sorted(
        _ours(environ), key=lambda entry: len(entry[0])
    ):  # a table before what is put into it
        value: Any = text
        if _is_nested(_kinds_at(path)):
            try:
                value = orjson.loads(text)
            except ValueError:
                problems.append(Problem(".".join(path), "expected JSON for a list or a table"))
                continue
        *parents, last = path
        table = values
        for parent in parents:
            table = table.setdefault(parent, {})
            if not isinstance(table, dict):
                break  # said when the whole is judged
        else:
            table[last] = value
    return values


def keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """The settings that there are in the table where a key stands, or would stand."""
    models = [kind for kind in _kinds_at(location[:-1]) if _is_model(kind)]
    return list(models[-1].model_fields) if models else []


def _ours(environ: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, text in environ.items():
        lowered = name.lower()
        if lowered.startswith(_PREFIX):
            path = tuple(lowered.removeprefix(_PREFIX).split("__"))
            if path[0] in Settings.model_fields:
                yield path, text.strip()


def _kinds_at(path: tuple[int | str, ...]) -> list[Any]:
    """The types that the value at a place may have; none where there is no such setting."""
    kinds: list[Any] = [Settings]
    for part in path:
        kinds = [inner for kind in kinds for inner in _kinds_in(kind, str(part))]
    return kinds


def _kinds_in(kind: Any, key: str) -> list[Any]:
    if _is_model(kind):
        field = kind.model_fields.get(key)
        return [] if field is None else _alternatives(field.annotation)
    if get_origin(kind) is dict:
        return _alternatives(get_args(kind)[1])
    return []


def _alternatives(annotation: Any) -> list[Any]:
    """The members of a union, whatever is said of them beside their type; one where it is none."""
    if hasattr(annotation, "__metadata__"):
        annotation = annotation.__origin__
    if get_origin(annotation) is None or get_origin(annotation) in (dict, tuple):
        return [annotation]
    return [inner for member in get_args(annotation) for inner in _alternatives(member)]


def _is_nested(kinds: list[Any]) -> bool:
    return any(_is_model(kind) or get_origin(kind) in (dict, tuple) for kind in kinds)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
