"""Where the members of a JSON object stand, and setting one, so that the bytes around them can be kept or judged.

A parser tells what an object means; here it is told how it was written: which names were spelled out, how
often, and which bytes each value has. Only for documents that a parser has accepted already.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

MAX_LEXEMES = 200_000
"""Strings and brackets that are looked at before giving up: about 50 ms."""

STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"')
"""A whole string, quotes included."""

_NESTED = re.compile(STRING.pattern + rb"|[\[\]{}]")
_SCALAR = re.compile(rb"[^ \t\r\n,\]}]+")
_SPACE = re.compile(rb"[ \t\r\n]*+")

ESCAPED_LETTER = re.compile(rb"\\u00(?:5[Ff]|6[1-9A-Fa-f]|7[0-9Aa])")
"""A lower-case letter or underscore, of which the API's names are made, needlessly written as an escape."""


class TooIntricate(ValueError):
    """The object has more strings and brackets than can be looked at in reasonable time."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an object: its name, and where its value begins and ends in the document."""

    name: str
    value_from: int
    value_to: int


def members(document: bytes, at: int = 0) -> Iterator[Member]:
    """The members of the object that begins at or after `at`, in order, names decoded, repetitions included.

    `document` must be valid JSON. Linear in its size; raises TooIntricate beyond `MAX_LEXEMES`.
    """
    budget = MAX_LEXEMES
    at = _skip(document, _skip(document, at) + 1)
    while document[at] != ord("}"):
        name_to = _end(STRING, document, at)
        value_from = _skip(document, _skip(document, name_to) + 1)
        first = document[value_from]
        if first in b"{[":
            value_to, budget = _close(document, value_from, budget)
        else:
            value_to = _end(STRING if first == ord('"') else _SCALAR, document, value_from)
        budget -= 1
        if budget < 0:
            raise TooIntricate
        yield Member(orjson.loads(document[at:name_to]), value_from, value_to)
        at = _skip(document, value_to)
        if document[at] == ord(","):
            at = _skip(document, at + 1)


def hides_letters(document: bytes) -> bool:
    """Whether some name may be spelled with escapes where plain letters would do."""
    return b"\\u00" in document and ESCAPED_LETTER.search(document) is not None


def splice_member(body: bytes, name: str, raw_value: bytes) -> bytes:
    """Set a top-level member of a JSON object to a JSON value, keeping all other bytes.

    The value of a member that is there is replaced; else the member is put in front. `body` must be a valid
    JSON object. Raises TooIntricate when it cannot be searched in reasonable time.
    """
    quoted = orjson.dumps(name)
    pieces, kept_to = [], 0
    if quoted in body or hides_letters(body):
        for member in members(body):
            if member.name == name:
                pieces += [body[kept_to : member.value_from], raw_value]
                kept_to = member.value_to
    if not pieces:
        kept_to = body.index(b"{") + 1
        is_empty = body[kept_to:].lstrip().startswith(b"}")
        pieces = [body[:kept_to], quoted, b":", raw_value, b"" if is_empty else b","]
    return b"".join((*pieces, body[kept_to:]))


def _close(document: bytes, at: int, budget: int) -> tuple[int, int]:
    """The end of the array or object that begins at `at`, and what is left of the budget."""
    depth = 0
    for lexeme in _NESTED.finditer(document, at):
        budget -= 1
        if budget < 0:
            raise TooIntricate
        first = document[lexeme.start()]
        if first in b"{[":
            depth += 1
        elif first in b"}]":
            depth -= 1
            if not depth:
                return lexeme.end(), budget
    raise ValueError("not valid JSON")


def _skip(document: bytes, at: int) -> int:
    return _end(_SPACE, document, at)


def _end(pattern: re.Pattern[bytes], document: bytes, at: int) -> int:
    found = pattern.match(document, at)
    if found is None:
        raise ValueError("not valid JSON")
    return found.end()
