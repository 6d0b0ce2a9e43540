"""The heads of an upstream's answers: cut where they end, whatever pieces they come in, and read by aiohttp's parser.

The parser gets nothing but heads: asked in the middle of a body it could not say where it stands. Heads that come again
and again with other values are not given to it: `wire/answer_head.py` reads them by what they have in common.
"""

from __future__ import annotations

import re
from typing import Any

from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.http_parser import HttpResponseParserC, RawResponseMessage

from gateway.wire.answer_head import AnswerShape, Head, what_decides
from gateway.wire.leading import LEADING
from gateway.wire.passing import names_for_client

MOST_INTERIM_ANSWERS = 32
_MOST_HEAD_BYTES = 512 * 1024
_MOST_LINE_BYTES = 64 * 1024
_MOST_FIELDS = 512

_MOST_SHAPED_BYTES = 4096
"""Of a head whose shape is kept."""

_MOST_SHAPES = 32
_COMES_AGAIN = 64
"""So often a head has to have come before it is worth what it takes to make out its shape: as long as to read seventy
without."""

_COMES_OFTEN = 1024
"""The same where another shape has to make way for it."""

_MOST_COUNTED = 64

_LENGTH = re.compile(rb"\r?\n[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll][Ee][Nn][Gg][Tt][Hh]:([^\r\n]*)")

_WITH_A_BLANK = frozenset({b"connection ", b"content-length ", b"proxy-connection ", b"transfer-encoding "})
"""The parser lets these names have a blank in front of their colon, and no other. Some readers take them for what they
look like, others for nothing (RFC 9112, section 5.1)."""

HeadAndRest = tuple[Head, bytes]
"""A final head, and what came behind it."""


class InterimAnswersOnly(BadHttpMessage):
    """Interim answers (1xx) came, one after another, and no final one."""


class AnswerHeads:
    """Reads heads that come whole, of any connection: between two of them a parser knows nothing of either."""

    __slots__ = ("_came", "_parser", "_shapes")

    def __init__(self) -> None:
        self._parser: Any = None
        self._shapes: list[AnswerShape] = []
        """What heads look like that come again and again, the usual ones in front."""

        self._came: dict[object, int] = {}
        """How often others have come."""

    def whole(self, data: bytes) -> HeadAndRest | None:
        """The head with which `data` begins, if that is all of a final one.

        Raises aiohttp's HttpProcessingError.
        """
        # A head lives as long as its answer does, and with it what it was found in.
        begin = data if len(data) <= _MOST_SHAPED_BYTES else data[:_MOST_SHAPED_BYTES]
        for shape in self._shapes:
            match = shape.match(begin)
            if match is not None:
                if shape is not self._shapes[0]:
                    self._move_up(shape)
                return shape.head(match), data[match.end() :]
        end = data.find(b"\n\r\n") + 3
        if end < 3 or data.find(b"\n\n", 0, end) >= 0 or not data.startswith(b"HTTP/"):
            return None
        parser, self._parser = self._parser or _parser(), None
        try:
            messages, _, _ = parser.feed_data(data[:end])
        except BadHttpMessage:
            plain = with_length_once(data[:end])
            if plain is None:
                raise
            parser = _parser()
            messages, _, _ = parser.feed_data(plain)
        if not messages:
            return None
        message: RawResponseMessage = messages[0][0]
        if message.code < 200:
            return None
        if not message.should_close:  # it would take nothing more
            self._parser = parser
        head = _head_of(message)
        if end <= _MOST_SHAPED_BYTES and head.names.is_kept and LEADING.isdisjoint(head.names.first):
            self._count(data[:end], head)
        return head, data[end:]

    def _move_up(self, shape: AnswerShape) -> None:
        shapes = self._shapes
        at = shapes.index(shape)
        shapes[at - 1], shapes[at] = shape, shapes[at - 1]

    def _count(self, block: bytes, head: Head) -> None:
        """Make out the shape of a head that comes again and again."""
        start_line = block.partition(b"\r\n")[0]
        kind = (start_line, head.names.written, what_decides(head))
        came = self._came[kind] = self._came.get(kind, 0) + 1
        if came == (_COMES_AGAIN if len(self._shapes) < _MOST_SHAPES else _COMES_OFTEN):
            shape = AnswerShape(
                *(start_line, head),
                names_for_client(head, limits=False),
                names_for_client(head, limits=True),
            )
            if shape.match(block) is not None:  # it is written plainly
                del self._shapes[_MOST_SHAPES - 1 :]
                self._shapes.append(shape)
        if len(self._came) > _MOST_COUNTED:
            self._came.clear()


class HeadInPieces:
    """Reads one final head, whatever pieces it comes in; interim ones (1xx) in front of it are skipped."""

    __slots__ = ("_bytes", "_interim", "_last", "_parser", "_refused", "_rest", "_seen")

    def __init__(self) -> None:
        self._parser: Any = None
        """Of a head that has begun to come."""

        self._seen = bytearray()
        """What has come of it."""

        self._refused = False
        """Whether the parser takes no more of it, because of a length that may be repeated."""

        self._last = b""
        """The last bytes that it has got: the blank line may begin there."""

        self._bytes = 0
        self._interim = 0
        self._rest = b""

    def feed(self, data: bytes) -> HeadAndRest | None:
        """Take what comes; return the head once it is whole.

        Raises aiohttp's HttpProcessingError for what is none, as soon as that can be seen.
        """
        while data:
            if self._parser is None and data[0] in b"\r\n":  # some servers send a line too many behind a body
                self._count(data)
                data = data.lstrip(b"\r\n")
                continue
            head = self._read(data)
            if head is None:
                return None
            if head.code >= 200 or head.code == 101:
                return _head_of(head), self._rest
            if head.code < 100:
                raise BadHttpMessage("a status below 100")
            self._interim += 1
            if self._interim > MOST_INTERIM_ANSWERS:
                raise InterimAnswersOnly(f"more than {MOST_INTERIM_ANSWERS} interim answers")
            data = self._rest
        return None

    def _read(self, data: bytes) -> RawResponseMessage | None:
        parser, last = self._parser or _parser(), self._last
        end = end_of_head(last + data) - len(last)
        if end <= 0:
            self._parser = parser
            self._last = (last + data)[-2:]
            part = data
        else:
            self._parser, self._last = None, b""
            part, self._rest = data[:end], data[end:]
        self._count(part)
        self._seen += part
        messages = self._parsed(parser, part, is_last=end > 0)
        if end <= 0:
            return None
        self._seen.clear()
        self._refused = False
        if not messages:
            raise BadHttpMessage("a head that ends elsewhere")
        message: RawResponseMessage = messages[0][0]
        return message

    def _parsed(self, parser: Any, part: bytes, *, is_last: bool) -> Any:
        """What the parser makes of a head with this part of it."""
        if not self._refused:
            try:
                return parser.feed_data(part)[0]
            except BadHttpMessage:
                plain = with_length_once(bytes(self._seen)) if is_last else None
                if plain is None and (is_last or not may_repeat_length(self._seen)):
                    raise
                self._refused = True
        else:
            plain = with_length_once(bytes(self._seen)) if is_last else None
        if not is_last:
            return ()
        if plain is None:
            raise BadHttpMessage("lengths that differ")
        return _parser().feed_data(plain)[0]

    def _count(self, data: bytes) -> None:
        self._bytes += len(data)
        if self._bytes > _MOST_HEAD_BYTES:
            raise BadHttpMessage("a head without end")


def end_of_head(data: bytes) -> int:
    """Where the first blank line in `data` ends; 0 where there is none. Lines may end in a bare LF."""
    end = data.find(b"\n\r\n")
    bare = data.find(b"\n\n") if end < 0 else data.find(b"\n\n", 0, end + 1)
    if bare >= 0:
        return bare + 2
    return end + 3 if end >= 0 else 0


def may_repeat_length(begin: bytes | bytearray) -> bool:
    """Whether a head that begins so may state one length several times."""
    lengths = [length.strip() for line in _LENGTH.findall(begin) for length in line.split(b",")]
    return len(lengths) > 1 and len({*lengths[:-1]}) == 1 and lengths[0].startswith(lengths[-1])


def with_length_once(head: bytes) -> bytes | None:
    """A head in which one length is stated several times, with it stated once; None: it is another."""
    lengths = {length.strip() for line in _LENGTH.findall(head) for length in line.split(b",")}
    if len(lengths) != 1:
        return None
    [length] = lengths
    first, *others = _LENGTH.split(head)[::2]
    return b"%b\r\nContent-Length: %b%b" % (first, length, b"".join(others)) if length.isdigit() else None


def _head_of(message: RawResponseMessage) -> Head:
    length = message.headers.get("Content-Length")
    head = Head(
        *(message.code, message.reason or "", message.raw_headers),
        length=None if length is None else int(length),
        keeps=not message.should_close,
    )
    if not _WITH_A_BLANK.isdisjoint(head.names.first):
        raise BadHttpMessage("a blank behind the name of a field")
    return head


def _parser() -> HttpResponseParserC:
    # Told that there are no bodies it waits for none, and says of the head what it says of any.
    return HttpResponseParserC(
        None,
        None,
        0,
        response_with_body=False,
        read_until_eof=True,
        auto_decompress=False,
        max_line_size=_MOST_LINE_BYTES,
        max_field_size=_MOST_LINE_BYTES,
        max_headers=_MOST_FIELDS,
    )
