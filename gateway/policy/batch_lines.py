"""What the lines of a batch's input file name that is stored; each is a request that runs as the account's own. Pure.

May be called in another process: what goes in and comes out are small values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

from gateway.policy.reading import Question, read_body
from gateway.wire.body_facts import Reference
from gateway.wire.request_fields import BodyRefused, parse
from gateway.wire.strict_json import all_distinct

_READ = frozenset({"body", "method", "url"})
"""Members of a line that say what it asks for."""

_SHOWN_CHARACTERS = 64
_BOM = b"\xef\xbb\xbf"


class LineRefused(NamedTuple):
    """Why a batch with this line is not made."""

    line: int
    """From 1 on."""

    why: str
    closed: str | None = None
    """The member by which it names what stays closed, or what nobody can look up."""


class LinesRead(NamedTuple):
    """What was read in some lines."""

    named: tuple[tuple[int, Reference], ...] = ()
    """What they name, each once, with the line that does so first."""

    refused: LineRefused | None = None
    lines: int = 0
    """How many there are."""


def read_lines(lines: bytes, question: Question, endpoint: str, before: int) -> LinesRead:
    """What whole lines name; `before` are so many others. Every line has to be a request of the batch's endpoint."""
    named: dict[Reference, int] = {}
    number = before
    if not before:
        lines = lines.removeprefix(_BOM)
    for line in lines.split(b"\n"):
        number += 1
        if not line.strip():
            continue
        try:
            references = _named_in(line, question, endpoint)
        except _Refused as refused:
            return LinesRead(_pairs(named), LineRefused(number, *refused.args), number - before)
        for reference in references:
            named.setdefault(reference, number)
    return LinesRead(_pairs(named), None, lines.count(b"\n"))


class _Refused(Exception):
    """Why, and by which member it names what stays closed, if that is it."""


def _named_in(line: bytes, question: Question, endpoint: str) -> tuple[Reference, ...]:
    try:
        request: dict[str, Any] = parse(line)
    except BodyRefused:
        raise _Refused("is no JSON object in UTF-8") from None
    if not all_distinct(line, request):
        raise _Refused("names a member twice")
    if b"\r" in line.strip():
        # It can be but space here, and begins another line for many: what stands behind would be a request of its own.
        raise _Refused("has a carriage return inside, which some take for the end of a line")
    for name in request:
        if name not in _READ and name.strip().casefold() in _READ:
            raise _Refused(f"has {name[:_SHOWN_CHARACTERS]!r}, which could be read as another member")
    if request.get("method", "POST") != "POST":
        raise _Refused("asks by another 'method' than POST")
    if request.get("url") != endpoint:
        raise _Refused(f"asks for another 'url' than the batch's endpoint {endpoint[:_SHOWN_CHARACTERS]}")
    body = request.get("body")
    if not isinstance(body, dict):
        raise _Refused("has no 'body' that is an object")
    try:
        named = read_body(orjson.dumps(body), question).named
    except BodyRefused as refused:
        raise _Refused(f"has a body that cannot be read: {refused}") from None
    if named.fault is not None:
        raise _Refused(f"has a body that cannot be read: {named.fault.message}")
    if named.stored is not None:
        raise _Refused(f"names a stored object by {named.stored!r}", named.stored)
    return named.references


def _pairs(named: dict[Reference, int]) -> tuple[tuple[int, Reference], ...]:
    return tuple((number, reference) for reference, number in named.items())
