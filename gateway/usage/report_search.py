"""Reports of usage found in what is too large to parse, or to keep."""

import re

from gateway.usage.reported import Usage, from_json

MAX_REPORT_BYTES = 4 * 1024
REPORT = re.compile(rb'"usage"[ \t\r\n]{0,8}:[ \t\r\n]{0,8}(?=\{)')
_MAX_REPORT_NAME_BYTES = len(b'"usage":{') + 2 * 8
_BRACES = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[{}"]')
_IMAGE = b'"b64_json"'


class ReportSearch:
    """Finds the last `usage` object in a document too large to keep, and counts the images in it."""

    def __init__(self, *, images: bool) -> None:
        self._count_images = images
        self._images = 0
        self._usage: Usage | None = None
        # The last bytes seen: they may be the beginning of a report.
        self._carry = b""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the document."""
        seen = self._carry + piece
        if self._count_images:
            self._images += seen.count(_IMAGE) - self._carry.count(_IMAGE)
        at = 0
        while (begin := seen.find(b'"usage"', at)) >= 0:
            named = REPORT.match(seen, begin)
            if named is None and len(seen) - begin < _MAX_REPORT_NAME_BYTES:
                self._carry = seen[begin:]
                return
            at = begin + len(b'"usage"')
            if named is None:
                continue
            end = _object_end(seen, named.end())
            if (len(seen) if end is None else end) - begin > MAX_REPORT_BYTES:
                at = begin + MAX_REPORT_BYTES
                continue
            if end is None:
                self._carry = seen[begin:]
                return
            report = from_json(b'{"usage":' + seen[named.end() : end] + b"}")
            self._usage = report or self._usage
            at = end
        self._carry = seen[max(at, len(seen) - _MAX_REPORT_NAME_BYTES) :]

    def finish(self) -> Usage | None:
        """The document has ended."""
        if not self._images:
            return self._usage
        return (self._usage or Usage())._replace(images=self._images)


def _object_end(document: bytes, at: int) -> int | None:
    """Where the JSON object that begins there ends; None when that is not in sight."""
    depth = 0
    for lexeme in _BRACES.finditer(document, at, at + MAX_REPORT_BYTES):
        match lexeme[0]:
            case b"{":
                depth += 1
            case b"}":
                depth -= 1
            case b'"':
                return None
        if not depth:
            return lexeme.end()
    return None
