"""An answer's head: what it says, and how those are read that differ from earlier ones in their values alone.

Upstreams write the same fields again and again, with another time, another id and other limits in each answer. What
such heads have in common is read once, by a real parser, and made into one pattern: it tells whether a head is one of
them, where it ends, and what lies in it that has to be known or passes. Only the plainest spelling matches: whatever
could be read in two ways is left to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from gateway.wire.headers import FieldNames, RawFields, is_kept, media_type

# No other reader could take them for more, or for less: letters, and blanks amid them alone. What has matched is never
# given back, so that a head which differs in its last line costs no more than one that matches.
_PLAIN = rb"[!-~][ -~]*+(?<! )"
_DIGITS = rb"[0-9]{1,18}+"

_REMEMBERED = 1024
"""Rows of names that are kept read."""

_DECIDES = frozenset(
    {
        b"connection",
        b"content-encoding",
        b"content-type",
        b"transfer-encoding",
        b"upgrade",
        b"proxy-connection",
    }
)
"""Fields of which heads of one shape have the same values: these say what becomes of the answer."""

_OFTEN_WRONG = frozenset({b"", b"application/json", b"application/octet-stream", b"text/plain"})
"""What streams of events are called by servers that do not know what they send."""

_ASKED = frozenset({b"content-length", b"openai-organization", b"openai-project", b"x-request-id"})
"""Fields that are asked for in most answers, and differ from one to the next."""


class Head:
    """An answer's head as the upstream sent it: raw header names and values, order and duplicates kept."""

    __slots__ = ("_fields", "keeps", "length", "match", "names", "reason", "shape", "status")

    def __init__(
        self, status: int, reason: str, fields: RawFields, *, length: int | None = None, keeps: bool = True
    ) -> None:
        self.status = status
        self.reason = reason
        row = tuple([name for name, _ in fields])
        self.names = _answer_names(row) if is_kept(row) else FieldNames(row)
        self.length = length
        """The length of the body, as far as the head states it."""

        self.keeps = keeps
        """Whether the upstream would answer again on the same connection."""

        self.shape: AnswerShape | None = None
        """What it has in common with earlier heads, if it was read so."""

        self.match: re.Match[bytes] | None = None
        self._fields: RawFields | None = fields

    @property
    def fields(self) -> RawFields:
        """All fields, in their order."""
        fields = self._fields
        if fields is None:
            assert self.match is not None
            lines = self.match[0].split(b"\r\n")[1:-2]
            fields = self._fields = [
                (name, value) for name, _, value in [line.partition(b": ") for line in lines]
            ]
        return fields

    def get(self, name: bytes) -> bytes | None:
        """The first value of a header, `name` in lower case; None when it is absent."""
        at = self.names.first.get(name)
        if at is None:
            return None
        shape = self.shape
        if shape is not None:
            value = shape.fixed.get(name)
            if value is not None:
                return value
            group = shape.asked.get(name)
            if group is not None:
                assert self.match is not None
                return self.match[group]
        return self.fields[at][1]

    def pick(self, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """The first value of each of these headers that is there, names in lower case."""
        return {name: value for name in names if (value := self.get(name)) is not None}


class Way(NamedTuple):
    """What passes of heads of one shape, and how it is put together."""

    template: bytes
    groups: tuple[int, ...]


class AnswerShape:
    """What heads have in common that differ in the values of their fields alone."""

    __slots__ = ("_groups", "_length", "_model", "_ways", "asked", "coded", "fixed", "match")

    def __init__(
        self, start_line: bytes, model: Head, unseen: Sequence[bytes | None], seen: Sequence[bytes | None]
    ) -> None:
        """`model` is one of them. `unseen` and `seen`: under which name each line of it passes, None where it does not,
        to a client that may not see the upstream's limits and to one that may.
        """
        self._model = model
        self._groups = 0
        self.fixed: dict[bytes, bytes] = {}
        """What all of them say, by names in lower case: the first value."""

        self.asked: dict[bytes, int] = {}
        """Groups of the pattern, by names in lower case: the first value."""

        pattern = [re.escape(start_line), b"\r\n"]
        ways: tuple[list[tuple[bytes, int]], list[tuple[bytes, int]]] = ([], [])
        runs = False
        for (name, value), lower, names in zip(
            model.fields, model.names.lower, zip(unseen, seen, strict=True), strict=True
        ):
            passes = names == (name, name)
            if runs and not passes:
                pattern.append(b")")
            elif passes and not runs:
                pattern.append(b"(")
                self._groups += 1
                for way in ways:
                    way.append((b"", self._groups))
            runs = passes
            pattern.append(re.escape(name))
            if passes or names == (None, None):
                pattern += [b": ", self._value(lower, value), b"\r\n"]
                continue
            self._groups += 1
            for way, spelled in zip(ways, names, strict=True):
                if spelled is not None:
                    way.append((spelled, self._groups))
            pattern += [b"(: ", self._value(lower, value), b"\r\n)"]
        pattern.append(b")\r\n" if runs else b"\r\n")
        self.match: Callable[[bytes], re.Match[bytes] | None] = re.compile(b"".join(pattern)).match
        """Whether what begins with a head begins with one of these; up to the end of its empty line."""

        self.coded = self.fixed.get(b"content-type"), self.fixed.get(b"content-encoding")
        """What their bodies are, and how they are encoded."""

        self._length = self.asked.get(b"content-length", 0)
        self._ways = tuple([Way(*_put_together(way)) for way in ways])

    def _value(self, lower: bytes, value: bytes) -> bytes:
        """The pattern of a value: what decides stays as it is, what is asked for can be had by its group."""
        if lower in _DECIDES:
            self.fixed.setdefault(lower, value)
            return re.escape(value)
        plain = _DIGITS if lower == b"content-length" else _PLAIN
        if lower not in _ASKED or lower in self.asked:
            return plain
        self._groups += 1
        self.asked[lower] = self._groups
        return b"(" + plain + b")"

    def head(self, match: re.Match[bytes]) -> Head:
        """The head that has been found to be one of these."""
        model = self._model
        head = Head.__new__(Head)  # all that `__init__` would write is written here
        head.shape = self
        head.match = match
        head._fields = None
        head.status = model.status
        head.reason = model.reason
        head.names = model.names
        head.keeps = model.keeps
        head.length = int(match[self._length]) if self._length else None
        return head

    def lines(self, match: re.Match[bytes], *, limits: bool) -> bytes:
        """What passes of such a head; `limits`: to a client that may see the upstream's."""
        way = self._ways[limits]
        return way.template % match.group(*way.groups) if way.groups else b""


def what_decides(head: Head) -> tuple[tuple[bytes, bytes], ...]:
    """The fields of a head, in lower case, in which all heads of its shape say the same."""
    names = zip(head.names.lower, head.fields, strict=True)
    return tuple([(lower, value) for lower, (_, value) in names if lower in _DECIDES])


def _put_together(way: list[tuple[bytes, int]]) -> tuple[bytes, tuple[int, ...]]:
    template = b"".join([spelled.replace(b"%", b"%%") + b"%b" for spelled, _ in way])
    return template, tuple([group for _, group in way])


@lru_cache(maxsize=_REMEMBERED)
def _answer_names(names: tuple[bytes, ...]) -> FieldNames:
    return FieldNames(names)


def is_event_stream(head: Head) -> bool:
    """Whether an answer's head announces server-sent events."""
    content_type = head.get(b"content-type")
    return (
        content_type is not None
        and content_type != b"application/json"
        and media_type(content_type) == b"text/event-stream"
    )


def may_be_event_stream(head: Head) -> bool:
    """Whether server-sent events may follow although the head announces something else, or nothing."""
    return media_type(head.get(b"content-type") or b"") in _OFTEN_WRONG


def as_event_stream(head: Head) -> Head:
    """The same head, announcing server-sent events."""
    fields = [(name, value) for name, value in head.fields if name.lower() != b"content-type"]
    fields.append((b"Content-Type", b"text/event-stream"))
    return Head(head.status, head.reason, fields, length=head.length, keeps=head.keeps)


def plainly(head: Head) -> Head:
    """The same head, without a content coding."""
    if b"content-encoding" not in head.names.first:
        return head
    fields = [(name, value) for name, value in head.fields if name.lower() != b"content-encoding"]
    return Head(head.status, head.reason, fields, keeps=head.keeps)
