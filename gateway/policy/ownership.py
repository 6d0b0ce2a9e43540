"""What of all that the upstream stores a tenant may ask for that works by the registry. Pure.

Here is found what has to be looked up; who may what is then said by the registry, and by `unknown_objects`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final
from urllib.parse import parse_qsl, unquote

from gateway.errors import BadRequest, SharedUpstream
from gateway.operations.operation import Operation
from gateway.operations.stored_kinds import StoredKinds, StoredPlace
from gateway.policy.caller import Caller
from gateway.policy.references import LONGEST_ID, named_by
from gateway.policy.stored_objects import steps_of
from gateway.wire.body_facts import Reference

CURSORS: Final = ("after", "before")
_OTHER_CONDITIONS: Final = frozenset({"store", "not store false", "plain ids"})
_SHOWN_CHARACTERS: Final = 64
_NOBODY_KNOWS: Final = "the gateway keeps no record of whose it is"


def check_told_apart(
    caller: Caller, operation: Operation, *, socket: bool, joins: bool, target: str = ""
) -> None:
    """Refuse what works on stored objects of which no registry could say whose they are. Raises SharedUpstream.

    `joins`: the query names a session that runs elsewhere. `target` is that of a socket.
    """
    if operation.is_unlisted:
        what = "what the gateway does not know may work on stored objects"
        raise caller.not_told_apart(what, "nobody can tell whose they are")
    closed = StoredKinds.load().place_of(operation).closed
    if closed is not None:
        raise caller.not_told_apart(f"the operation {operation.id} works on stored objects", closed)
    if socket and not operation.is_session:
        what = f"the operation {operation.id} is not known to have a WebSocket"
        raise caller.not_told_apart(what, "nobody can tell what its events would name")
    if joins:
        what = f"{operation.joined_by!r} joins a call that the upstream holds"
        raise caller.not_told_apart(what, _NOBODY_KNOWS, operation.joined_by)
    if socket:
        _check_query_of_session(caller, target)


def _check_query_of_session(caller: Caller, target: str) -> None:
    """A session's events say what it works on, each looked up; its query has no place for that."""
    for name, _ in _parameters(target.partition("?")[2]):
        said = named_by(name)
        if said is not None:
            what = f"{said.member[:_SHOWN_CHARACTERS]!r} in the query names a stored object"
            raise caller.not_told_apart(what, "a session's events are where it names any", said.member)


def check_run_by_batch(caller: Caller, operation: Operation, endpoint: str) -> None:
    """Refuse what works on what its path or query names, or on what nobody could tell, as what a batch runs.

    Raises SharedUpstream.
    """
    check_told_apart(caller, operation, socket=False, joins=False)
    if endpoint != operation.path:
        what = (
            f"the batch's endpoint is {operation.id}, and its path or query names what may be a stored object"
        )
        raise caller.not_told_apart(what, "batches are for what names none there", "endpoint")


def untold(caller: Caller, member: str) -> SharedUpstream:
    """The error for a member that names something of no kind which the registry knows."""
    what = f"{member[:_SHOWN_CHARACTERS]!r} names a stored object"
    return caller.not_told_apart(what, why_closed(member), member)


def why_closed(member: str) -> str:
    """Why what this member names is nobody's that the registry could know."""
    return StoredKinds.load().closed_members.get(member.casefold(), _NOBODY_KNOWS)


def parts_below(operation: Operation) -> tuple[str, ...]:
    """What names parts of the object with which the operation's path begins, which decides about them."""
    parent = StoredKinds.load().place_of(operation).parent
    return () if parent is None else tuple(sorted(parent.below))


def made_inside(caller: Caller, operation: Operation) -> tuple[str, ...]:
    """The ways to members by which a body has more made than the operation is for, where that is recorded."""
    if caller.tenant.scope is None or operation.is_administration:
        return ()
    conditions = {making.condition for making in StoredKinds.load().place_of(operation).makes}
    return tuple(sorted(way for way in conditions - _OTHER_CONDITIONS if way is not None))


def references_in_head(
    caller: Caller, place: StoredPlace, params: Mapping[str, str], target: str
) -> tuple[Reference, ...]:
    """What path and query name that is stored: first that with which the path begins, whose member is empty.

    Raises BadRequest for a query that could be read in two ways, SharedUpstream for what nobody could tell.
    """
    references = []
    if place.parent is not None and place.parameter is not None:
        named = unquote(params[place.parameter])[: LONGEST_ID + 1]
        references.append(Reference(place.parent.name, named, ""))
    query = target.partition("?")[2]
    if query:
        references += dict.fromkeys(_references_in_query(caller, place, query))
    return tuple(references)


def _references_in_query(caller: Caller, place: StoredPlace, query: str) -> Iterator[Reference]:
    below = () if place.parent is None else place.parent.below
    seen = set()
    for name, value in _parameters(query):
        cursor = None if place.lists is None else _cursor(name)
        if place.lists is not None and cursor is not None:
            if name != cursor or cursor in seen:
                raise BadRequest(
                    f"{cursor!r} must be given once, and be written so.",
                    code="duplicate_parameter",
                    param=cursor,
                )
            seen.add(cursor)
            if value:
                yield Reference(place.lists.name, value[: LONGEST_ID + 1], cursor)
            continue
        said = named_by(name, below)
        if said is None:
            continue
        if said.kind is None:
            raise untold(caller, said.member)
        if not said.is_plain:
            raise BadRequest(
                f"{name[:_SHOWN_CHARACTERS]!r} could be read as {said.member!r}. Write it so.",
                param=said.member[:_SHOWN_CHARACTERS],
            )
        yield Reference(said.kind, value[: LONGEST_ID + 1], said.member)


def _parameters(query: str) -> list[tuple[str, str]]:
    """What a query says to readers who split it at '&' alone, and what else it says to those who split at ';' too."""
    parameters = parse_qsl(query, keep_blank_values=True)
    if ";" not in query:
        return parameters
    others = parse_qsl(query.replace(";", "&"), keep_blank_values=True)
    return parameters + [other for other in others if other not in parameters]


def _cursor(name: str) -> str | None:
    """The cursor that some reader takes a parameter for."""
    steps = steps_of(name)
    return steps[0] if steps and steps[0] in CURSORS else None
