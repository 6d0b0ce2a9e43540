"""What a body, an event, a form or a query names of the kinds that the registry knows, and what else it names. Pure.

Every text by which some reader could find something that is stored is a reference, whose id is looked up; what looks
like one and is of no kind is refused. Whatever two readers could read differently is refused as well: what is looked
up here has to be what the upstream finds.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any, NamedTuple

from gateway.operations.stored_kinds import StoredKinds
from gateway.policy.stored_objects import (
    CONTENT,
    CUSTOM_VOICE,
    HARMLESS_IDS,
    IDS_OF_THE_SESSION,
    ITEMS,
    NO_CONVERSATION,
    REFERENCES,
    refers,
    steps_of,
)
from gateway.wire.body_facts import Reference
from gateway.wire.request_fields import Fault
from gateway.wire.strict_json import USER_NAMED, objects, strict_object

MOST_REFERENCES = 2048
LONGEST_ID = 512
ITEM_REFERENCE = "item_reference"

_ID = re.compile(rf"(?=[_.:~-]*[A-Za-z0-9])[A-Za-z0-9_.:~-]{{1,{LONGEST_ID}}}")
_CITATION = ("annotations", "container_file_citation")
"""Where the file of a container stands beside the container, and what says so: the container decides."""


class Told(NamedTuple):
    """What is named."""

    references: tuple[Reference, ...] = ()
    """Each once."""

    stored: str | None = None
    """The name of a member that asks for something stored of which nobody could say whose it is."""

    fault: Fault | None = None

    given: tuple[str, ...] = ()
    """The ids of items that come whole: an answer that has them has said nothing new."""


def is_id(text: str) -> bool:
    """Whether a text is made of what ids are made of. Any other is nobody's: no reader could make another id of it."""
    return _ID.fullmatch(text) is not None


@cache
def _names_of_kinds() -> Mapping[str, str]:
    return {member: kind.name for member, kind in StoredKinds.load().by_member.items()}


def references_in(
    document: Mapping[str, Any], *, below: Collection[str] = (), in_session: bool = False
) -> Told:
    """What a parsed body names whose members are distinct, or an event of a realtime session.

    `below`: members about which the object decides with which the path begins.
    """
    kinds, closed = _names_of_kinds(), StoredKinds.load().closed_members
    harmless = HARMLESS_IDS.union(below, IDS_OF_THE_SESSION if in_session else ())
    found: dict[Reference, None] = {}
    given: list[str] = []
    for place, members in objects(document):
        cited = place == _CITATION[0] and members.get("type") == _CITATION[1] and "container_id" in members
        for name, value in members.items():
            meant = name.casefold()
            if meant == "id":
                if type(value) is list:
                    return Told(fault=_no_id(name))
                if type(value) is not str:
                    continue
                if not refers(place, members, in_session=in_session):
                    if place in ITEMS:
                        given.append(value)
                    continue
                member = ITEM_REFERENCE if place in ITEMS else place
                texts: list[str] | None = [value]
            elif meant in harmless or value is None or (cited and name == "file_id"):
                continue
            elif meant == "voice":
                if type(value) is str and value.startswith(CUSTOM_VOICE):
                    return Told(stored=meant)
                continue
            elif meant in REFERENCES or meant.endswith(("_id", "_ids")):
                member = meant
                texts = _texts(meant, value, of_kind=member in kinds)
                if texts is None:
                    return Told(fault=_no_id(name))
            else:
                continue
            if not texts:
                continue
            kind = kinds.get(member)
            if kind is None:
                return Told(stored=member if member in closed else name)
            if name != meant:
                return Told(fault=_spelled(name, meant))
            for text in texts:
                found[Reference(kind, text[: LONGEST_ID + 1], member)] = None
            if len(found) > MOST_REFERENCES:
                return Told(fault=_TOO_MANY)
    return Told(tuple(found), given=tuple(given))


def _texts(name: str, value: object, *, of_kind: bool) -> list[str] | None:
    """The ids that a member has; none where it holds an object, which is looked into; None: nobody can tell.

    Whether a member `of_kind` means what it says matters more than that of one which is refused in any case.
    """
    if isinstance(value, str):
        if (name == "conversation" and value in NO_CONVERSATION) or (
            name == "video" and value.startswith(CONTENT)
        ):
            return []
        return [value]
    if isinstance(value, dict):
        return []
    if isinstance(value, list):
        if all(isinstance(one, str) for one in value):
            return value
        if all(isinstance(one, dict) for one in value):
            return []
    if of_kind:
        return None
    return [""] if isinstance(value, list) and any(isinstance(one, str) for one in value) else []


_TOO_MANY = Fault(
    "invalid_value",
    f"The request names more than {MOST_REFERENCES} stored objects. Name them in several requests.",
)


def _no_id(name: str) -> Fault:
    return Fault("invalid_type", f"{name[:64]!r} must be an id, or a list of nothing but ids.", name[:64])


def _spelled(name: str, meant: str) -> Fault:
    return Fault("bad_request", f"{name[:64]!r} could be read as {meant[:64]!r}. Write it so.", meant[:64])


_HOLDERS = frozenset({"image", "images", "input_reference", "mask", "video"})
"""Fields of forms that hold a file, or else what names one, as JSON maybe."""


class FieldName(NamedTuple):
    """What a form's field, or a query's parameter, names by its name."""

    kind: str | None
    """None: something stored of which nobody could say whose it is."""

    member: str
    is_plain: bool
    """Whether every reader takes it for that."""


def named_by(name: str, below: Collection[str] = ()) -> FieldName | None:
    """What a field or a parameter of this name says is stored, `image[][file_id]` say; None: nothing.

    What stands below a name of the caller's own choosing means nothing.
    """
    steps = steps_of(name)
    if not steps or steps[0] in USER_NAMED:
        return None
    kinds = _names_of_kinds()
    if len(steps) > 1 and steps[-1] == "id":
        member = ITEM_REFERENCE if steps[-2] in ITEMS else steps[-2]
        return FieldName(kinds.get(member), member, name == name.casefold())
    for step in steps:
        if step in HARMLESS_IDS or step in below or step == "video":  # as a field it is the video itself
            continue
        if step in REFERENCES or step.endswith(("_id", "_ids")):
            return FieldName(kinds.get(step), step, name == name.casefold() and step == steps[-1])
    return None


def may_name(name: str, is_file: bool) -> bool:
    """Whether the part of a form has to be read that is called so: it names something stored, or could hold what does.

    A file that is called as what names something is wanted too, to be refused.
    """
    return named_by(name) is not None or (not is_file and bool(_HOLDERS.intersection(steps_of(name)[-1:])))


def references_in_field(name: str, text: str, below: Collection[str] = ()) -> Told:
    """What a form's field says of which `may_name` says that it has to be read."""
    said = named_by(name, below)
    if said is not None:
        if said.kind is None:
            return Told(stored=said.member)
        if not said.is_plain:
            return Told(fault=_spelled(name, said.member))
        return Told((Reference(said.kind, text[: LONGEST_ID + 1], said.member),))
    value = text.lstrip("\ufeff \t\r\n")
    if value.startswith(("{", "[")):
        holder = steps_of(name)[-1]
        try:
            return references_in(strict_object(f'{{"{holder}":{value}}}'.encode()), below=below)
        except ValueError:
            return Told(
                fault=Fault("bad_form", f"The field {name[:64]!r} holds JSON that cannot be read.", name[:64])
            )
    if steps_of(name)[-1] == "video" and not value.startswith(CONTENT):
        return Told(
            fault=Fault(
                "bad_form", "Send the video as a file, or name a stored one by 'video[id]'.", name[:64]
            )
        )
    return Told()
