"""The simulator's values satisfy the schemas that they are made for."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from gateway.simulator.patterns import matching
from gateway.simulator.schemas import NoValue, satisfying


class Leaf(BaseModel):
    kind: Literal["leaf"]
    size: int


class Branch(BaseModel):
    kind: Literal["branch"]
    left: Tree
    right: Tree


Tree = Annotated[Branch | Leaf, Field(discriminator="kind")]


class Chain(BaseModel):
    next: Chain | None
    others: list[Chain]
    by_name: dict[str, Chain] = {}


@pytest.mark.parametrize(
    "kind",
    [
        str,
        int,
        float,
        bool,
        None,
        date,
        datetime,
        UUID,
        Tree,
        Chain,
        list[Leaf],
        dict[str, int],
        tuple[int, str],
        Literal["a", 1],
        str | None,
        Annotated[str, Field(min_length=40)],
        Annotated[str, Field(max_length=3)],
        Annotated[str, Field(pattern=r"^[A-Z]{2}-\d{4}$")],
        Annotated[int, Field(ge=10, lt=20, multiple_of=7)],
        Annotated[int, Field(gt=10**20)],
        Annotated[int, Field(lt=-5)],
        Annotated[float, Field(gt=0.1, lt=0.2)],
        Annotated[float, Field(ge=1e18, multiple_of=0.5)],
        Annotated[list[int], Field(min_length=3)],
        Annotated[list[int], Field(max_length=0)],
        Annotated[dict[str, int], Field(min_length=2)],
    ],
)
def test_a_value_is_what_the_type_whose_schema_it_satisfies_accepts(kind: Any) -> None:
    adapter = TypeAdapter(kind)
    value = satisfying(adapter.json_schema())
    adapter.validate_json(TypeAdapter(Any).dump_json(value), strict=True)
    assert satisfying(adapter.json_schema()) == value


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (True, "simulated answer"),
        ({}, "simulated answer"),
        ({"const": None}, None),
        ({"properties": {"a": {"type": "boolean"}}}, {"a": True}),
        ({"type": ["null", "integer"]}, 1),
        (
            {"allOf": [{"properties": {"a": {"const": 1}}}, {"properties": {"b": {"const": 2}}}]},
            {"a": 1, "b": 2},
        ),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"const": 3}}}, 3),
        ({"anyOf": [False, {"$ref": "#"}, {"const": 4}]}, 4),
        ({"type": "object", "required": ["x"], "additionalProperties": {"const": 5}}, {"x": 5}),
        ({"minimum": 3.5}, 3.5),
        ({"type": "array", "prefixItems": [{"const": 6}], "items": {"const": 7}, "minItems": 2}, [6, 7]),
    ],
)
def test_what_schemas_say(schema: Any, value: Any) -> None:
    assert satisfying(schema) == value


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"type": "integer", "minimum": 2, "maximum": 1},
        {"type": "number", "exclusiveMinimum": 1, "maximum": 1},
        {"type": "array", "minItems": 10**12},
        {"type": "object", "minProperties": 10**12},
        {"type": "string", "minLength": 10**15},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#/nowhere"},
        {"type": "object", "properties": 5},
        {"enum": 5},
        {"$defs": {f"d{n}": {"items": {"$ref": f"#/$defs/d{n + 1}"}, "minItems": 10} for n in range(20)}}
        | {"$ref": "#/$defs/d0"},
    ],
)
def test_a_schema_without_a_value_that_is_small_is_refused(schema: Any) -> None:
    with pytest.raises(NoValue):
        satisfying(schema)


@pytest.mark.parametrize(
    "pattern",
    [
        r"^\d{3}-\d{4}$",
        r"^[a-z0-9_-]+$",
        r"^[^a-z]{5}\s\S\w\W\D$",
        r"(foo|bar)?baz{2,}",
        r"^(\w)\1$",
        r"^.{8}$",
        r"\bword\b",
        r"^$",
    ],
)
def test_text_matches_its_pattern(pattern: str) -> None:
    assert re.search(pattern, matching(pattern))


def test_text_of_a_pattern_is_as_long_as_wanted_where_it_can_be() -> None:
    assert re.fullmatch(r"[a-z]{30,}", matching("^[a-z]+$", 30))


@pytest.mark.parametrize(
    "pattern",
    [
        "(",
        r"^(?!a)a$",
        "a{100000}",
        "((((a{900}){900}){900}){900})",
        "(" * 5000 + ")" * 5000,
        "(?:(?:){9999}){9999}",
        r"[^\s\S]",
    ],
)
def test_a_pattern_that_is_beyond_the_simulator_says_so(pattern: str) -> None:
    with pytest.raises(ValueError, match="simulator"):
        matching(pattern)
