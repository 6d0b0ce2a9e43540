"""What counts of a JSON document that is too large to parse, or to keep.

Of a document that goes by in pieces those members are kept that an outline names, at the places that it names. They
are found by following the structure: what stands in a text, or in an object of somebody else, is taken for nothing.
Texts are leapt over, and so is what lies between brackets of which nothing is asked for.
"""

import re
from typing import Any

import orjson

from gateway.usage.answers import OUTLINE, Outline

_MOST_ITEMS = 1024
"""Of a list, those that have nothing of what is asked for not counted."""

_LONGEST = 1024
"""Bytes of a member that is kept whole; of a longer text it is kept that there is one."""

_A_LONG_TEXT = "…" * _LONGEST
_SOMETHING_ELSE = True
"""Stands for objects and lists where nobody expects one."""

_TEXT = rb'"(?:[^"\\]++|\\.)*+"'
_PLAIN = rb'(?:[^"{}\[\]]++|' + _TEXT + rb")*+"
_PLAINLY = re.compile(_PLAIN, re.DOTALL)
_LEXEME = re.compile(_TEXT + rb'|["{}\[\]]', re.DOTALL)
_REST_OF_TEXT = re.compile(rb'(?:[^"\\]++|\\.)*+"', re.DOTALL)
_BLANK = re.compile(rb"[ \t\r\n,]*+")
_NAME = re.compile(rb"(" + _TEXT + rb")[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL)
_SCALAR = re.compile(rb'[^ \t\r\n,"{}\[\]]++')

_NO_LEXEMES = bytes(byte for byte in range(256) if byte not in b'"{}[]')
_BLOCK_BYTES = 256
_USUAL_DEPTH = 4

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_QUOTE, _BACKSLASH, _CLOSE = b'"\\}'
_OPENING, _CLOSING = b"{[", b"}]"


class _Place:
    """An object, or list, of which something is asked for."""

    __slots__ = ("asked", "item", "items", "members", "name")

    def __init__(self, asked: Outline | None, item: Outline | None) -> None:
        self.asked = asked
        """The members of an object; None for a list."""

        self.item = item
        """The members of each object in a list."""

        self.members: dict[str, Any] = {}
        self.items: list[dict[str, Any]] = []


class Outliner:
    """Takes a JSON document piece by piece; what it keeps does not depend on how that was cut."""

    __slots__ = ("_carry", "_depth", "_ended", "_in_text", "_kept", "_outline", "_places")

    def __init__(self, outline: Outline = OUTLINE) -> None:
        self._outline = outline
        self._places: list[_Place] = []
        """Where in the document the next byte stands, the outermost first."""

        self._depth = 0
        """In how many brackets inside of those, of which nothing is asked for."""

        self._in_text = False
        """Whether inside a text of which nothing more is kept."""

        self._carry = b""
        """The last bytes, where they are the beginning of something."""

        self._ended = False
        self._kept: dict[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing that follows can be of the document."""
        return self._ended

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the document."""
        seen = self._carry + piece if self._carry else piece
        self._carry = b""
        at = len(seen) if self._ended else 0
        while at < len(seen):
            if self._in_text:
                at = self._leap(seen, at)
            elif self._depth:
                at = self._pass_over(seen, at)
            else:
                at = self._look(seen, at)

    def finish(self) -> dict[str, Any] | None:
        """The document has ended, well or not: return what was kept of it; None if it is no object."""
        return self._kept

    def _leap(self, seen: bytes, at: int) -> int:
        end = _behind_text(seen, at)
        if end is None:
            self._carry = b"\\" * _begins_escape(seen, at, len(seen))
            return len(seen)
        self._in_text = False
        return end

    def _pass_over(self, seen: bytes, at: int) -> int:
        """Go on in what nobody asks for: by blocks in which it does not end, the longer the further that is."""
        at = self._pass_numbers(seen, at)
        if self._depth:
            at = self._pass_out(seen, at, at + _BLOCK_BYTES)
        size = _BLOCK_BYTES
        while self._depth and not self._in_text and at < len(seen):
            end = min(at + size, len(seen))
            end -= _begins_escape(seen, at, end)
            opening, closing, self._in_text = _brackets(seen[at:end])
            if closing >= self._depth:
                self._in_text = False
                if size == _BLOCK_BYTES:
                    return self._pass_out(seen, at, end)
                size = max(size // 4, _BLOCK_BYTES)
                continue
            self._depth += opening - closing
            self._in_text |= end == at
            at = end
            size *= 2
            if self._in_text and (behind := _behind_text(seen, at)) is not None:
                self._in_text = False
                at = behind
        return at

    def _pass_numbers(self, seen: bytes, at: int) -> int:
        """Go on to the end of a long list, if there is nothing but numbers in front of it."""
        end = seen.find(b'"', at)
        if end < 0:
            end = len(seen)
        if end - at > _BLOCK_BYTES:
            close = seen.find(b"]", at, end)
            stop = end if close < 0 else close
            if not any(seen.find(bracket, at, stop) >= 0 for bracket in (b"[", b"{", b"}")):
                self._depth -= close >= 0
                return stop + (close >= 0)
        return at

    def _pass_out(self, seen: bytes, at: int, end: int) -> int:
        """Go on through a block in which that may end."""
        for lexeme in _LEXEME.finditer(seen, at, end):
            lead = seen[lexeme.start()]
            if lead == _QUOTE:
                if lexeme.end() - lexeme.start() == 1:
                    self._in_text = True
                    return lexeme.end()
            elif lead in _OPENING:
                self._depth += 1
            else:
                self._depth -= 1
                if not self._depth:
                    return lexeme.end()
        return min(end, len(seen))

    def _look(self, seen: bytes, at: int) -> int:
        """Go on where something is asked for: with the next member, or item."""
        if not self._places:
            return self._begin(seen, _behind(_BLANK, seen, at))
        place = self._places[-1]
        if place.asked is None:
            return self._item(place, seen, _behind(_PLAINLY, seen, at))
        at = _behind(_BLANK, seen, at)
        if at == len(seen):
            return at
        if seen[at] == _CLOSE:
            return self._leave(at)
        return self._member(place, place.asked, seen, at)

    def _begin(self, seen: bytes, at: int) -> int:
        if at < len(seen):
            mark = seen[at : at + len(_BYTE_ORDER_MARK)]
            if self._kept is None and _BYTE_ORDER_MARK.startswith(mark):
                return at + len(mark) if mark == _BYTE_ORDER_MARK else self._wait(seen, at)
            if self._kept is not None or not seen.startswith(b"{", at):
                return self._end(seen)
            self._places.append(outermost := _Place(self._outline, None))
            self._kept = outermost.members
        return at + 1

    def _member(self, place: _Place, asked: Outline, seen: bytes, begin: int) -> int:
        named = _NAME.match(seen, begin)
        if named is None or named.end() == len(seen):
            return self._wait(seen, begin) if seen[begin] == _QUOTE else self._end(seen)
        at = named.end()
        name = _read(named[1])
        lead = seen[at]
        if lead in _OPENING:
            if name in asked:
                place.members[name] = self._enter(asked[name], lead)
            else:
                self._depth = 1
            return at + 1
        if lead == _QUOTE:
            end = _behind_text(seen, at + 1)
        else:
            end = _behind(_SCALAR, seen, at)
            if end == at:
                return self._end(seen)
            if end == len(seen):
                return self._wait(seen, begin)
        if name in asked:
            if end is None and len(seen) - begin <= _LONGEST:
                return self._wait(seen, begin)
            fits = end is not None and end - begin <= _LONGEST
            place.members[name] = _read(seen[at:end]) if fits else _A_LONG_TEXT
        if end is None:
            self._in_text = True
            return at + 1
        return end

    def _item(self, place: _Place, seen: bytes, at: int) -> int:
        if at == len(seen):
            return at
        lead = seen[at]
        if lead == _QUOTE:
            self._in_text = True
        elif lead in _CLOSING:
            return self._leave(at)
        elif lead == _OPENING[0] and len(place.items) < _MOST_ITEMS:
            self._places.append(inner := _Place(place.item, None))
            place.items.append(inner.members)
        else:
            self._depth = 1
        return at + 1

    def _enter(self, asked: Outline | tuple[Outline] | None, lead: int) -> Any:
        """An object or a list begins, of which nothing may be asked for; return what is kept of it."""
        if lead == _OPENING[0] and isinstance(asked, dict):
            self._places.append(place := _Place(asked, None))
            return place.members
        if lead == _OPENING[1] and isinstance(asked, tuple):
            self._places.append(place := _Place(None, asked[0]))
            return place.items
        self._depth = 1
        return _SOMETHING_ELSE

    def _leave(self, at: int) -> int:
        left = self._places.pop()
        if self._places and self._places[-1].asked is None and not left.members:
            self._places[-1].items.pop()
        return at + 1

    def _wait(self, seen: bytes, begin: int) -> int:
        """What begins there does not end in sight."""
        if len(seen) - begin > _LONGEST:
            return self._end(seen)
        self._carry = seen[begin:]
        return len(seen)

    def _end(self, seen: bytes) -> int:
        """What follows is no JSON, or not of the document."""
        self._ended = True
        return len(seen)


class EventOutliner:
    """Takes an event piece by piece that is too large to hold: the JSON document in its lines of data."""

    __slots__ = ("_begun", "_document", "_is_data", "_line")

    def __init__(self, outline: Outline = OUTLINE) -> None:
        self._document = Outliner(outline)
        self._line = b""
        """The beginning of a line, as long as that does not tell what it is."""

        self._is_data: bool | None = None
        """Whether the next bytes are data; None at the beginning of a line."""

    def feed(self, raw: bytes) -> None:
        """Take the next bytes of the event."""
        if self._document.has_ended:
            return
        raw, self._line = self._line + raw, b""
        for line in raw.splitlines(keepends=True):
            ends = line.endswith((b"\n", b"\r"))
            text = line
            if self._is_data is None:
                if not ends and len(line) < len(_DATA):
                    self._line = line
                    return
                self._is_data = line.startswith(_DATA)
                text = line[len(_DATA) :]
            if self._is_data:
                self._document.feed(text)
            if ends:
                self._is_data = None

    def finish(self) -> dict[str, Any] | None:
        """The event has ended: return what was kept of its document; None if that is no object."""
        return self._document.finish()


_DATA = b"data:"


def _behind(pattern: re.Pattern[bytes], seen: bytes, at: int) -> int:
    """Where that ends which the pattern takes, be it nothing."""
    taken = pattern.match(seen, at)
    return at if taken is None else taken.end()


def _behind_text(seen: bytes, at: int) -> int | None:
    """Where a text ends, with its quote, amid which that place is; None when that is not in sight."""
    end = seen.find(b'"', at)
    if end > at and seen[end - 1] == _BACKSLASH:
        rest = _REST_OF_TEXT.match(seen, at)
        return None if rest is None else rest.end()
    return None if end < 0 else end + 1


def _begins_escape(seen: bytes, begin: int, end: int) -> bool:
    """Whether the last byte in front of the end is half of an escape; nothing is at the beginning."""
    if begin == end or seen[end - 1] != _BACKSLASH:
        return False
    text = seen[begin:end]
    return (len(text) - len(text.rstrip(b"\\"))) % 2 == 1


def _brackets(block: bytes) -> tuple[int, int, bool]:
    """How many brackets open and close outside of texts, and whether the block ends amid one.

    Brackets that close what has been opened in the block are not counted, or both are, where they lie deep.
    """
    if _BACKSLASH in block:
        block = block.replace(b"\\\\", b"").replace(b'\\"', b"")
    # What lies between two quotes that stand side by side now is in no text, or in one that goes on behind them.
    parts = block.translate(None, _NO_LEXEMES).replace(b'""', b"").split(b'"')
    outside = b"".join(parts[::2])
    for _ in range(_USUAL_DEPTH):
        outside = outside.replace(b"{}", b"").replace(b"[]", b"")
    opening = outside.count(b"{") + outside.count(b"[")
    return opening, len(outside) - opening, len(parts) % 2 == 0


def _read(value: bytes) -> Any:
    """What is written there, a text or a number; None for what makes no sense."""
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
