"""A value that satisfies a JSON schema: always the same one, and as small as the schema lets it be. Pure.

What the API's structured outputs know is understood, and what SDKs make of types beside it. Free strings say that
they are simulated, and what they would be.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.simulator.patterns import matching

_MOST_NODES: Final = 20_000
_MOST_CHARACTERS: Final = 100_000
_FORMATS: Final = {
    "date-time": "2026-01-01T00:00:00Z",
    "date": "2026-01-01",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "simulated@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "url": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "binary": "",
}
_IMPLIED: Final = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "prefixItems", "minItems", "maxItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
"""By type, the words that only it has: a schema may leave its type out."""


class NoValue(ValueError):
    """Nothing finite satisfies the schema, or nothing was found that does."""


def satisfying(schema: Any, name: str = "answer") -> Any:
    """A value for the schema; `name` is what it is the value of. Raises NoValue."""
    try:
        return _Search(schema).value(schema, name)
    except RecursionError:
        raise NoValue("the schema never ends, or not soon enough") from None
    except (LookupError, TypeError, AttributeError) as problem:
        raise NoValue(f"the schema cannot be read: {problem!r}") from problem


@dataclass(slots=True)
class _Search:
    """One value's making; `within` are the references that are being followed, and lead to no end a second time."""

    root: Any
    within: list[str] = field(default_factory=list)
    nodes: int = 0

    def value(self, schema: Any, name: str) -> Any:
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            raise NoValue("the schema is too large for the simulator")
        if schema is False:
            raise NoValue("the schema allows no value")
        if not isinstance(schema, dict):
            return f"simulated {name}"
        if "$ref" in schema:
            return self._followed(schema, name)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        if "allOf" in schema:
            return self.value(self._merged(schema), name)
        for word in ("anyOf", "oneOf"):
            if schema.get(word):
                rest = {key: value for key, value in schema.items() if key != word}
                return self._first([_both(rest, option) for option in schema[word]], name)
        return self._typed(schema, name)

    def _followed(self, schema: dict[str, Any], name: str) -> Any:
        reference = schema["$ref"]
        if reference in self.within:
            raise NoValue(f"the schema never ends: {reference}")
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        self.within.append(reference)
        try:
            return self.value(_both(beside, self._referred(reference)), name)
        finally:
            self.within.pop()

    def _referred(self, reference: str) -> Any:
        found = self.root
        for word in reference.removeprefix("#").strip("/").split("/"):
            if word:
                found = found[word.replace("~1", "/").replace("~0", "~")]
        return found

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            while isinstance(part, dict) and "$ref" in part:
                self.nodes += 1
                if self.nodes > _MOST_NODES:
                    raise NoValue("the schema is too large for the simulator")
                part = _both({key: part[key] for key in part if key != "$ref"}, self._referred(part["$ref"]))
            merged = _both(merged, part)
        return merged

    def _first(self, options: list[Any], name: str) -> Any:
        """The value of the first option that has one."""
        why = NoValue("the schema has no options")
        for option in options:
            try:
                return self.value(option, name)
            except NoValue as problem:
                why = problem
        raise why

    def _typed(self, schema: dict[str, Any], name: str) -> Any:
        kind = schema.get("type")
        if isinstance(kind, list):
            kinds = sorted(kind, key=lambda one: one == "null")  # something rather than nothing
            return self._first([schema | {"type": one} for one in kinds], name)
        match kind or next(
            (one for one, words in _IMPLIED.items() if any(w in schema for w in words)), "string"
        ):
            case "object":
                return self._object(schema)
            case "array":
                return self._array(schema, name)
            case "integer":
                return int(_number(schema, whole=True))
            case "number":
                return _number(schema, whole=False)
            case "boolean":
                return True
            case "null":
                return None
            case _:
                return _string(schema, name)

    def _object(self, schema: dict[str, Any]) -> dict[str, Any]:
        made = {}
        properties = schema.get("properties") or {}
        required = schema.get("required") or ()
        for name, inner in properties.items():
            try:
                made[name] = self.value(inner, name)
            except NoValue:
                if name in required:
                    raise
        others = schema.get("additionalProperties")
        for name in required:
            if name not in properties:
                made[name] = self.value(others if isinstance(others, dict) else {}, name)
        for n in range(len(made), schema.get("minProperties") or 0):
            made[f"simulated_{n}"] = self.value(others if isinstance(others, dict) else {}, "answer")
        return made

    def _array(self, schema: dict[str, Any], name: str) -> list[Any]:
        fixed = schema.get("prefixItems") or []
        fewest, most = schema.get("minItems") or 0, schema.get("maxItems")
        made = [self.value(inner, name) for inner in fixed]
        inner = schema.get("items", {})
        wanted = max(fewest, 1) if not fixed else fewest
        wanted = wanted if most is None else min(wanted, most)
        while len(made) < wanted:
            try:
                made.append(self.value(inner, f"{name} {len(made) + 1}" if wanted > 1 else name))
            except NoValue:
                if len(made) < fewest:
                    raise
                break
        return made


def _both(first: dict[str, Any], second: Any) -> Any:
    """A schema that says what both say; of objects, the properties of both."""
    if not isinstance(second, dict):
        return second if second is False else first
    both = first | second
    if isinstance(first.get("properties"), dict) and isinstance(second.get("properties"), dict):
        both["properties"] = first["properties"] | second["properties"]
    if first.get("required") and second.get("required"):
        both["required"] = [*first["required"], *second["required"]]
    return both


def _string(schema: dict[str, Any], name: str) -> str:
    fewest, most = schema.get("minLength") or 0, schema.get("maxLength")
    if fewest > _MOST_CHARACTERS:
        raise NoValue("the schema wants a longer text than the simulator writes")
    if "pattern" in schema:
        return matching(schema["pattern"], fewest)
    text = _FORMATS.get(schema.get("format", ""), f"simulated {name}").ljust(fewest, ".")
    return text if most is None else text[:most]


def _number(schema: dict[str, Any], *, whole: bool) -> float:
    """The number nearest to one that is allowed, or near to that."""
    least, most = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    above, below = schema.get("exclusiveMinimum", -math.inf), schema.get("exclusiveMaximum", math.inf)
    step = schema.get("multipleOf") or (1 if whole else 0)
    floor, ceiling = max(least, above), min(most, below)
    if not step:
        return _between(floor, ceiling, open_below=above >= least, open_above=below <= most)
    nearest = math.floor(min(max(1, floor), ceiling) / step)
    for times in (*range(nearest, nearest + 1000), nearest - 1, nearest - 2):
        found = times * step
        if least <= found <= most and above < found < below and (not whole or float(found).is_integer()):
            return float(found) if isinstance(found, float) else int(found)
    raise NoValue("the schema allows no number")


def _between(floor: float, ceiling: float, *, open_below: bool, open_above: bool) -> float:
    if floor > ceiling or (floor == ceiling and (open_below or open_above)):
        raise NoValue("the schema allows no number")
    if floor < 1 < ceiling:
        return 1
    if floor == -math.inf:
        return ceiling - 1 if open_above else ceiling
    if ceiling == math.inf:
        return floor + 1 if open_below else floor
    return (floor + ceiling) / 2
