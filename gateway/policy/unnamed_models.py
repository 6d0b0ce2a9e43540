"""What in a body or an event runs a model without naming it. Pure.

The table says what could (`model_runners`); a tool that it does not know could, too. What is found is the member that
would have to name the model, so that it can be judged as any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from typing import Any

from gateway.operations.model_runners import ModelRunners
from gateway.operations.table import OperationTable
from gateway.wire.strict_json import USER_NAMED, is_beside, place_below

# Rows of data, items of a conversation, and a choice among the tools that stand elsewhere.
_BESIDE = USER_NAMED | {"item", "sample", "tool_choice"}
_TOOLS = re.compile(rb'"(?i:tools)"')
# With what ends it: a name that goes on, or has an escape, does not end with its quote.
_TYPE = re.compile(rb'"(?i:type)"\s*:\s*"([^"\\]{0,64}.)', re.DOTALL)
_DATE = re.compile(r"(?:_\d+)+\Z")
_SHOWN_CHARACTERS = 200
_MOST = 2
"""One may be the operation's own, which a default can fill."""


def may_be_named_in(part: bytes) -> bool:
    """Whether a part of a text names something that `unnamed_in` might look at."""
    return _names_in_quotes().search(part) is not None


@cache
def _names_in_quotes() -> re.Pattern[bytes]:
    return re.compile(rf'"(?i:{_names()})"'.encode())


@cache
def _names() -> str:
    """A pattern for what stands, in quotes, in everything in which `unnamed_in` could find something."""
    return "|".join(sorted({"tools", *_telling(), *OperationTable.load().runners.stored}))


def may_run_unnamed(body: bytes) -> bool:
    """Whether a body has to be looked through to know, unless it hides names: then it has to be in any case.

    A search by bytes, cheap where the answer is no: most tools are known to run no model.
    """
    if _signs().search(body) is not None:
        return True
    if _TOOLS.search(body) is None:
        return False
    runners = OperationTable.load().runners
    kinds = {kind.decode("utf-8", "replace").lower() for kind in _TYPE.findall(body)}
    return not all(kind.endswith('"') and _is_harmless(runners, kind[:-1]) for kind in kinds)


def _telling() -> set[str]:
    """Names and values that tell by themselves that a model may be run."""
    runners = OperationTable.load().runners
    return {*runners.types, *runners.members, *(value.value for value in runners.values)}


@cache
def _signs() -> re.Pattern[bytes]:
    """What may run a model, but for tools. Most prompts are texts, and no sign of one that is stored."""
    stored = "|".join(sorted(OperationTable.load().runners.stored))
    return re.compile(rf'"(?i:(?:{"|".join(sorted(_telling()))})"|(?:{stored})"\s*:\s*\{{)'.encode())


def unnamed_in(document: Mapping[str, Any]) -> tuple[str, ...]:
    """The ways to members that have to name a model and do not, such as `tools[0].model`; the first of them."""
    runners = OperationTable.load().runners
    found = (
        f"{way}{missing}"[:_SHOWN_CHARACTERS]
        for way, place, members in _objects(document)
        for missing in _missing(runners, place, members)
    )
    return tuple(islice(found, _MOST))


def unnamed_by_field(name: str, text: str) -> str | None:
    """As `unnamed_in`, of a form's field of this name and value."""
    for value in OperationTable.load().runners.values:
        if (name.casefold(), text.strip().casefold()) == (value.member, value.value):
            return ".".join(value.named_by) or value.member
    return None


def fields() -> frozenset[str]:
    """The fields of a form whose value `unnamed_by_field` judges."""
    return frozenset(value.member for value in OperationTable.load().runners.values)


def reason(member: str) -> str:
    """Why what lacks this member is refused, in words for a caller who may use some models only."""
    return f"You may use some models only, and {member!r} must say which one is run. Set it to one of them."


def _missing(runners: ModelRunners, place: str, members: Mapping[str, Any]) -> Iterator[str]:
    """The members by which this object would have to name models, and does not."""
    told = [
        (folded, value) for name, value in members.items() if (folded := name.casefold()) in runners.watched
    ]
    if not told and place not in runners.members:
        return
    if not _names_model(members.get("model")) and (
        place in runners.members or any(_runs(runners, place, name, value) for name, value in told)
    ):
        yield "model"
    for value in runners.values:
        if any(name == value.member and _is_text(found, value.value) for name, found in told):
            if not value.named_by:
                yield value.member
            elif not _names_model(_at(members, value.named_by)):
                yield ".".join(value.named_by)


def _runs(runners: ModelRunners, place: str, name: str, value: object) -> bool:
    """Whether an object in this place, with this member, runs a model of its own."""
    if name in runners.stored:
        return isinstance(value, dict) and any(inner.casefold() == "id" for inner in value)
    if name != "type" or not isinstance(value, str):
        return False
    kind = value.casefold()
    return kind in runners.types or (place == "tools" and not _is_harmless(runners, kind))


def _is_harmless(runners: ModelRunners, kind: str) -> bool:
    """Whether this is the type of a tool that runs no model, or of what is no tool."""
    return kind in runners.not_tools or _DATE.sub("", kind) in runners.tools_without


def _objects(root: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Every object with the way to its members, and the folded name under which it stands; in their order."""
    pending: list[tuple[str, str, Any]] = [("", "", root)]
    while pending:
        way, place, value = pending.pop()
        if isinstance(value, dict):
            yield (f"{way}." if way else ""), place, value
            inner = [
                (_joined(way, name), place_below(place, name), inner)
                for name, inner in value.items()
                if isinstance(inner, dict | list) and not is_beside(place, name, _BESIDE)
            ]
        else:
            inner = [
                (f"{way}[{at}]"[:_SHOWN_CHARACTERS], place, inner)
                for at, inner in enumerate(value)
                if isinstance(inner, dict | list)
            ]
        pending += reversed(inner)


def _joined(way: str, name: str) -> str:
    # Of names of megabytes, above thousands of objects, no copies are made.
    shown = name[:_SHOWN_CHARACTERS]
    return f"{way}.{shown}"[:_SHOWN_CHARACTERS] if way else shown


def _is_text(value: object, text: str) -> bool:
    return isinstance(value, str) and value.casefold() == text


def _at(members: Mapping[str, Any], way: tuple[str, ...]) -> object:
    value: object = members
    for step in way:
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _names_model(value: object) -> bool:
    return isinstance(value, str) and value != ""
