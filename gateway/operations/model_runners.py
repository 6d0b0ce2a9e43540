"""What runs a model of its own inside a body or an event, whatever the operation. Pure: the table has the names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Value:
    """A member which has a model run if it has this value."""

    member: str
    value: str
    named_by: tuple[str, ...] = ()
    """The way, from beside it, to the member that names the model; empty: nothing can."""


@dataclass(frozen=True, slots=True)
class ModelRunners:
    """The table's `model_runners`, where each part is explained. All names are in lower case."""

    types: frozenset[str] = frozenset()
    members: frozenset[str] = frozenset()
    stored: frozenset[str] = frozenset()
    values: tuple[Value, ...] = ()
    tools_without: frozenset[str] = frozenset()
    not_tools: frozenset[str] = frozenset()

    watched: frozenset[str] = field(init=False)
    """The members that tell whether the object which has them runs a model."""

    def __post_init__(self) -> None:
        watched = {"type", *self.stored, *(value.member for value in self.values)}
        object.__setattr__(self, "watched", frozenset(watched))

    @classmethod
    def read(cls, columns: Mapping[str, Sequence[Any]]) -> Self:
        """Read them. A name that the table may not have is a TypeError."""
        values = [
            Value(
                **{
                    **row,
                    "named_by": tuple(row.get("named_by", "").split(".")) if row.get("named_by") else (),
                }
            )
            for row in columns["values"]
        ]
        names = {name: frozenset(listed) for name, listed in columns.items() if name != "values"}
        return cls(values=tuple(values), **names)


NO_RUNNERS = ModelRunners()
"""Nothing runs a model but the operation itself."""
