"""HTTP messages as they come in: where one ends, and how much it carried. It keeps no body."""

from __future__ import annotations

_KEPT_BYTES = 4096
"""Of a body, so that an error can be quoted and a request understood."""

_HEAD_ONLY = (101, 204, 304)
_FOR_EVER = 1 << 62


class MessageReader:
    """Reads one message after another from one connection. Raises ValueError for what is none.

    Bytes of a chunk are counted when its size is read.
    """

    __slots__ = (
        "_answers",
        "_chunked",
        "_held",
        "_left",
        "_trailers",
        "body_bytes",
        "head",
        "kept",
        "lasts",
        "line",
        "raw_head",
        "status",
        "until_close",
    )

    def __init__(self, *, answers: bool) -> None:
        """Of answers, or of requests."""
        self._answers = answers
        self.begin()

    def begin(self) -> None:
        """Be ready for the next message."""
        self.line = b""
        """The first line; empty until the head is whole."""
        self.head = b""
        """First line and fields, in small letters."""
        self.raw_head = b""
        self.status = 0
        self.body_bytes = 0
        self.kept = b""
        self.lasts = True
        """Whether the connection may be used again."""
        self.until_close = False
        self._held = b""
        self._left = 0
        self._chunked = False
        self._trailers = False

    def feed(self, data: bytes) -> bytes | None:
        """None while the message lasts; at its end what stands behind it."""
        if self._held:
            data, self._held = self._held + data, b""
        if not self.line:
            rest = self._read_head(data)
            if rest is None:
                return None
            data = rest
        return self._chunks(data) if self._chunked else self._plain(data)

    def _read_head(self, data: bytes) -> bytes | None:
        while True:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._held = data
                return None
            self.raw_head = data[:end]
            head = self.raw_head.lower()
            data = data[end + 4 :]
            if not self._answers:
                break
            self.status = int(head[9:12])
            if self.status >= 200 or self.status == 101:
                break
        line_end = head.find(b"\r\n")
        self.line = head if line_end < 0 else head[:line_end]
        self.head = head
        self.lasts = b"\r\nconnection: close" not in head
        self._left = self._length(head)
        return data

    def _length(self, head: bytes) -> int:
        if self._answers and self.status in _HEAD_ONLY:
            return 0
        at = head.find(b"\r\ncontent-length:")
        if at >= 0:
            end = head.find(b"\r\n", at + 2)
            return int(head[at + 17 : end if end >= 0 else len(head)])
        if b"\r\ntransfer-encoding:" in head:
            self._chunked = True
            return 0
        if self._answers:
            self.until_close = True
            self.lasts = False
            return _FOR_EVER
        return 0

    def _plain(self, data: bytes) -> bytes | None:
        size, left = len(data), self._left
        if len(self.kept) < _KEPT_BYTES:
            self.kept += data[: min(left, _KEPT_BYTES)]
        if size < left:
            self._left = left - size
            self.body_bytes += size
            return None
        self.body_bytes += left
        self._left = 0
        return data[left:]

    def _chunks(self, data: bytes) -> bytes | None:
        at, size = 0, len(data)
        while True:
            if self._left:
                if size - at < self._left:
                    self._left -= size - at
                    return None
                at += self._left
                self._left = 0
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                self._held = data[at:]
                return None
            if self._trailers:
                if line_end == at:
                    return data[at + 2 :]
                at = line_end + 2
                continue
            length = int(data[at:line_end].partition(b";")[0], 16)
            at = line_end + 2
            if not length:
                self._trailers = True
                continue
            self._left = length + 2
            self.body_bytes += length
            if len(self.kept) < _KEPT_BYTES:
                self.kept += data[at : at + min(length, _KEPT_BYTES)]
