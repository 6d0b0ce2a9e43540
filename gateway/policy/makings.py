"""What answers say was made: found at the places that the data has, never by what an id looks like. Pure.

Nothing is taken from echoes: what a request may have brought along counts only where the data says on which condition
it was made, and not if the request named it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import orjson

from gateway.objects.store import Made
from gateway.operations.stored_kinds import Making, StoredPlace, Way
from gateway.policy.references import is_id
from gateway.usage.answers import Outline
from gateway.usage.outline import Outliner
from gateway.wire.body_facts import BodyFacts

_MOST_ID_CHARACTERS = 512
_EACH = "[]"
_TIMES: Final = ("created_at", "created")
_ENDED: Final = ("completed_at", "cancelled_at", "expired_at", "failed_at")
"""When what is derived from an object came to be, where the object says it."""

_OF_AN_ERROR: Final = ("error", "type")
_Found = tuple[Mapping[str, Any], object]
_LATEST = 2.0**35
"""In unix seconds: what claims to be later is no time."""


def applying(place: StoredPlace, facts: BodyFacts) -> tuple[Making, ...]:
    """What an answer may say was made, by what its request says."""
    return tuple([making for making in place.makes if _applies(making, facts)])


def _applies(making: Making, facts: BodyFacts) -> bool:
    match making.condition:
        case None:
            return True
        case "store":
            return facts.store is True
        case "not store false":
            return facts.store is not False
        case "plain ids":
            return all(map(is_id, facts.named.given))
        case member:
            return member in facts.makes_inside


def made_in(makes: Iterable[Making], document: object, *, now: float, in_event: bool = False) -> list[Made]:
    """What a JSON answer, or an event, says was made."""
    made = []
    for making in makes:
        for way in making.in_events if in_event else making.at:
            found: list[_Found] = []
            _find(document, way, 0, found)
            for owner, value in found:
                if type(value) is str and 0 < len(value) <= _MOST_ID_CHARACTERS:
                    made.append(_made(making, way, owner, value, now))
    return made


def _made(making: Making, way: Way, owner: Mapping[str, Any], object_id: str, now: float) -> Made:
    is_itself, kind = way[-1] == "id", making.kind
    created_at = now
    for name in _TIMES if is_itself else _ENDED:
        if name in owner and (said := _time(owner[name])) is not None:
            created_at = said
            break
    expires_at = _time(owner.get(kind.expires)) if is_itself and kind.expires is not None else None
    return Made(kind.name, object_id, created_at, expires_at)


def _time(value: object) -> float | None:
    if (type(value) is int or type(value) is float) and 0 < value < _LATEST:
        return float(value)
    return None


def _find(value: object, way: Way, at: int, found: list[_Found]) -> None:
    """Add what stands at the end of a way from its step `at` on, with the object that has it as a member."""
    if not isinstance(value, dict) or way[at] not in value:
        return
    inner, at = value[way[at]], at + 1
    if at == len(way):
        found.append((value, inner))
    elif way[at] != _EACH:
        _find(inner, way, at, found)
    elif isinstance(inner, list):
        at += 1
        for item in inner:
            if at == len(way):
                found.append((value, item))
            else:
                _find(item, way, at, found)


def outline_of(makes: Iterable[Making], *, in_events: bool = False) -> Outline:
    """All that has to be kept of a large document for `made_in` and `says_error` to find the same."""
    outline: dict[str, Any] = dict.fromkeys(_OF_AN_ERROR)
    for making in makes:
        for way in making.in_events if in_events else making.at:
            _add(outline, way, (making.kind.expires, *_TIMES, *_ENDED))
    return outline


def _add(outline: dict[str, Any], way: Sequence[str], beside: Iterable[str | None]) -> None:
    name, *rest = way
    if not rest or rest == [_EACH]:
        outline.update(dict.fromkeys(filter(None, (name, *beside))))
    elif rest[0] == _EACH:
        if not isinstance(outline.get(name), tuple):
            outline[name] = ({},)
        _add(outline[name][0], rest[1:], beside)
    else:
        if not isinstance(outline.get(name), dict):
            outline[name] = {}
        _add(outline[name], rest, beside)


def reduced(body: bytes, outline: Outline) -> object:
    """What an outline asks for of a JSON document, such as clients read that are less strict; None where it is none."""
    try:
        return _reduced(orjson.loads(body), outline)
    except orjson.JSONDecodeError:
        outliner = Outliner(outline)
        outliner.feed(body)
        return outliner.finish()


def _reduced(value: object, outline: Outline | tuple[Outline] | None) -> object:
    if isinstance(outline, tuple):
        return [_reduced(item, outline[0]) for item in value] if isinstance(value, list) else None
    if outline is None or not isinstance(value, dict):
        return value
    return {name: _reduced(value[name], inner) for name, inner in outline.items() if name in value}


def is_not_found(document: object) -> bool:
    """Whether this is how the API, or who speaks as it does, says that it does not have something."""
    error = document.get("error") if isinstance(document, dict) else None
    return isinstance(error, dict) and isinstance(error.get("message"), str)


def says_error(document: object) -> bool:
    """Whether an answer, or an event, tells of an error and of nothing that was made."""
    return isinstance(document, dict) and (bool(document.get("error")) or document.get("type") == "error")
