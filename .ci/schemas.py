"""JSON schemas of Kubernetes' objects, as kubeconform takes them: python .ci/schemas.py SWAGGER CRD… FOLDER.

They are strict: a field that the API does not know is an error, for the server would drop it without a word.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import yaml

_REF = "#/definitions/"
_TEXT_OR_NUMBER = {"type": ["string", "number"]}
_QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"


def main(swagger: str, *more: str) -> None:
    *crds, folder = map(Path, more)
    definitions = orjson.loads(Path(swagger).read_bytes())["definitions"]
    definitions = {name: strict(schema) for name, schema in definitions.items()}
    definitions[_QUANTITY] = _TEXT_OR_NUMBER
    for name, schema in definitions.items():
        needed = {each: definitions[each] for each in reached(definitions, name)}
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            write(folder, kind["kind"], kind["group"], kind["version"], {**schema, "definitions": needed})
    for file in crds:
        spec = yaml.safe_load(file.read_text("utf-8"))["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            write(folder, spec["names"]["kind"], spec["group"], version["name"], schema)


def strict(schema: Any) -> Any:
    """The schema without room for fields that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("format") == "int-or-string" or schema.get("x-kubernetes-int-or-string"):
        return _TEXT_OR_NUMBER
    closed = {name: strict(value) for name, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed.setdefault("additionalProperties", False)
    return closed


def reached(definitions: dict[str, Any], name: str) -> set[str]:
    """The definitions that one refers to, and those that these refer to."""
    found: set[str] = set()
    left = {name}
    while left:
        left = {each for one in left for each in referred(definitions[one])} - found
        found |= left
    return found


def referred(schema: Any) -> Iterator[str]:
    if isinstance(schema, list):
        for each in schema:
            yield from referred(each)
    elif isinstance(schema, dict):
        if isinstance(schema.get("$ref"), str):
            yield schema["$ref"].removeprefix(_REF)
        for each in schema.values():
            yield from referred(each)


def write(folder: Path, kind: str, group: str, version: str, schema: dict[str, Any]) -> None:
    """Under the name by which kubeconform asks for it."""
    of_group = [group.partition(".")[0]] if group else []
    name = "-".join([kind, *of_group, version]).lower()
    (folder / f"{name}.json").write_bytes(orjson.dumps(schema))


if __name__ == "__main__":
    main(*sys.argv[1:])
