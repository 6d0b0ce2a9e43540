"""Whether the text of WebSocket frames is UTF-8 (RFC 6455, section 8.1), whole or piece by piece, masked or not. Pure.

Most text is ASCII, which is seen by a glance at all bytes at once.
"""

from __future__ import annotations

from codecs import utf_8_decode

from gateway.wire.frame_format import FrameRefused, unmask

_FLIPPED = bytes(byte ^ 0x80 for byte in range(256))


def is_utf8(payload: bytes, mask: bytes = b"") -> bool:
    """Whether a whole message, masked so, is."""
    if is_ascii(payload, mask):
        return True
    try:
        unmask(payload, mask).decode()
    except UnicodeDecodeError:
        return False
    return True


def is_ascii(payload: bytes, mask: bytes = b"") -> bool:
    """Whether a text, masked so, is ASCII; the mask is not lifted for it."""
    if not mask:
        return payload.isascii()
    for at in (0, 1, 2, 3):
        part, byte = payload[at::4], mask[at]
        # As `are_ascii` does it: a call would cost more than that.
        if not (part if byte < 0x80 else part.translate(_FLIPPED)).isascii():
            return False
    return True


def are_ascii(payload: bytes, mask: int) -> bool:
    """Whether bytes are that all have this byte of a mask on them."""
    return (payload if mask < 0x80 else payload.translate(_FLIPPED)).isascii()


class TextFollower:
    """Follows one message whose text comes in pieces, cut anywhere."""

    __slots__ = ("_begun",)

    def __init__(self) -> None:
        self._begun = b""
        """The first bytes of a character that is not whole yet."""

    def feed(self, payload: bytes, *, is_last: bool) -> None:
        """Take a piece, unmasked. Raises FrameRefused as soon as no text goes on so, or ends so."""
        if not self._begun and payload.isascii():
            return
        text = self._begun + payload
        try:
            _, read_bytes = utf_8_decode(text, "strict", is_last)
        except UnicodeDecodeError:
            raise FrameRefused(1007, "a text message is not UTF-8") from None
        self._begun = text[read_bytes:]
