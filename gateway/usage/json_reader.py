"""A JSON answer read for its usage when it has ended, and parsed no further than that needs.

Most of a large answer is vectors, or text. What counts stands in a few members, and these mostly at the end: so the
end is parsed alone wherever that tells what the whole document would. Whether it is JSON in front of that is the
client's business.
"""

import orjson

from gateway.usage.answers import (
    COUNTED_ELSEWHERE,
    OUTLINE,
    SEARCH_MODEL,
    from_json,
    from_usage_object,
    usage_of,
)
from gateway.usage.deltas import Deltas
from gateway.usage.outline import Outliner
from gateway.usage.reported import Usage

MAX_WHOLE_BYTES = 64 * 1024
BEGINNING_BYTES = 1024
"""Where a document says what it is."""

_MAX_REPORT_BYTES = 4 * 1024

_SMALL_BYTES = 2 * 1024
"""Nothing is faster than parsing so little."""

_LOOK_BYTES = 512
_MOST_LOOKS = 16
_LONGEST_NAME_BYTES = 32
_BACKSLASH = ord("\\")
_SEARCH_MODEL = SEARCH_MODEL.encode()
_AMBIGUOUS = OUTLINE.keys() - {"usage", "service_tier"}
"""Members of which the end of a document alone does not tell what they mean."""


class JsonReader:
    """Reads one JSON document; what is larger than `MAX_WHOLE_BYTES` is not kept."""

    __slots__ = ("_deltas", "_kept", "_kind", "_outliner")

    def __init__(self, deltas: type[Deltas]) -> None:
        self._kind = deltas
        self._deltas: Deltas | None = None
        """What models wrote in a document that is not kept."""

        self._kept: bytes | bytearray = b""
        self._outliner: Outliner | None = None

    @property
    def deltas(self) -> Deltas:
        """What models wrote in it: of an answer that reports all that it used nobody asks."""
        if self._deltas is not None:
            return self._deltas
        deltas = self._kind()
        deltas.add_document(bytes(self._kept))
        return deltas

    @property
    def is_over(self) -> bool:
        """Whether the document has begun: it is written when all is known. Some servers send blanks until then."""
        return self._outliner is not None or bool(self._kept and not self._kept.isspace())

    def feed(self, piece: bytes) -> bytes:
        """Take the next bytes of the document; all of them may pass."""
        if self._outliner is None:
            if not self._kept:
                self._kept = piece
            elif isinstance(self._kept, bytes):
                self._kept = bytearray(self._kept + piece)
            else:
                self._kept += piece
            if len(self._kept) <= MAX_WHOLE_BYTES:
                return piece
            seen, self._kept = bytes(self._kept), b""
            self._outliner = Outliner()
            self._deltas = self._kind()
        else:
            seen = piece
        self._outliner.feed(seen)
        self.deltas.add_piece(seen)
        return piece

    def end(self) -> bytes:
        """The document has ended; nothing of it was held back."""
        return b""

    def finish(self) -> Usage | None:
        """The document has ended: return what it reports."""
        if self._outliner is not None:
            return usage_of(self._outliner.finish())
        document = bytes(self._kept)
        usage = None if len(document) <= _SMALL_BYTES else _from_end(document)
        return from_json(document) if usage is None else usage


def _from_end(document: bytes) -> Usage | None:
    """What a document reports whose end alone tells; None: parse it whole."""
    at = document.rfind(b'"usage"')
    if at < 1 or len(document) - at > _MAX_REPORT_BYTES or document[at - 1] == _BACKSLASH:
        return None
    if _BACKSLASH in document and document.find(b"\\u") >= 0:  # letters may be escaped
        return None
    if document.find(_SEARCH_MODEL, 0, BEGINNING_BYTES) >= 0:
        return None
    try:
        # That is an object only if the document's own last brace ends the one in which the member stands.
        end = orjson.loads(b"{" + document[at:])
    except orjson.JSONDecodeError:
        return None
    reported = end["usage"]
    if not isinstance(reported, dict) or not _AMBIGUOUS.isdisjoint(end):
        return None
    return from_usage_object(reported, end.get("service_tier")) if _tells_nothing(document, at) else None


def _tells_nothing(document: bytes, until: int) -> bool:
    """Whether no string up to there, none of which has a letter escaped, says that usage may stand elsewhere.

    False for one of many strings. Long vectors may lie between them: `find` leaps over these, `split` would not.
    """
    find = document.find
    at = 0
    for _ in range(_MOST_LOOKS):
        # Strings, and what is between them: no matter which is which.
        end = min(at + _LOOK_BYTES, until)
        strings = document[at:end].split(b'"')
        if not COUNTED_ELSEWHERE.isdisjoint(strings):
            return False
        following = find(b'"', end, until)
        if following < 0:
            return True
        at = max(end - len(strings[-1]), following - _LONGEST_NAME_BYTES)
    return False
