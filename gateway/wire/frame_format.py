"""WebSocket frames as RFC 6455 writes them: the words of the format, control frames, masks, the handshake's key."""

import hashlib
import secrets
from base64 import b64encode
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
OPCODES: Final = frozenset((CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))

NO_CODE = 1005
"""Stands for a close frame without a code; never sent as one."""

MAX_CONTROL_BYTES = 125
_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Later(Enum):
    """What an examination says that takes a while: the message waits, and everything behind it."""

    LATER = auto()


Verdict = str | Later | None
"""Why a message is refused; LATER when nobody knows yet; None when it passes."""


class FrameRefused(Exception):
    """A peer broke the protocol or a rule of ours. Nothing from the offending frame on has passed.

    `close_code` and `reason` are fit for a close frame. `passed` are the bytes of the refused `feed` that
    came before the offence and should still be passed on.
    """

    def __init__(self, close_code: int, reason: str, passed: bytes = b"") -> None:
        super().__init__(reason)
        self.close_code = close_code
        self.reason = reason
        self.passed = passed


@dataclass(frozen=True, slots=True)
class FrameHead:
    """What stands in front of a frame's payload."""

    final: bool
    opcode: int
    mask: bytes
    payload_at: int
    payload_bytes: int


def build_close(code: int, reason: str = "", *, masked: bool) -> bytes:
    """A close frame; the reason is cut at a character so that it fits into 123 bytes.

    Raises ValueError for a code that must not be sent. `masked` for frames that go to the upstream.
    """
    if not _sendable(code):
        raise ValueError(f"close code {code} must not be sent")
    text = reason.encode("utf-8", "replace")[: MAX_CONTROL_BYTES - 2].decode("utf-8", "ignore").encode()
    return _build(CLOSE, code.to_bytes(2, "big") + text, masked)


def build_ping(payload: bytes = b"", *, masked: bool) -> bytes:
    """A ping frame with at most 125 bytes of payload. `masked` for frames that go to the upstream."""
    if len(payload) > MAX_CONTROL_BYTES:
        raise ValueError("a control frame holds at most 125 bytes")
    return _build(PING, payload, masked)


def build_text(text: bytes, *, masked: bool) -> bytes:
    """A text message in one frame. `masked` for frames that go to the upstream."""
    return _build(TEXT, text, masked)


def accept_key(sec_websocket_key: str) -> str:
    """The `Sec-WebSocket-Accept` that answers a `Sec-WebSocket-Key`."""
    digest = hashlib.sha1(sec_websocket_key.encode("ascii") + _ACCEPT_SUFFIX, usedforsecurity=False)
    return b64encode(digest.digest()).decode("ascii")


def _build(opcode: int, payload: bytes, masked: bool) -> bytes:
    size = len(payload)
    if size <= MAX_CONTROL_BYTES:
        length = bytes((size,))
    elif size < 2**16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    first = bytes((0x80 | opcode,))
    if not masked:
        return first + length + payload
    mask = secrets.token_bytes(4)
    return first + bytes((0x80 | length[0],)) + length[1:] + mask + unmask(payload, mask)


def unmask(payload: bytes, mask: bytes) -> bytes:
    """Apply a mask, which is its own inverse; as one long integer, Python's fastest XOR of bytes."""
    size = len(payload)
    if not mask or not size:
        return payload
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


def _sendable(code: int) -> bool:
    return 1000 <= code <= 1003 or 1007 <= code <= 1014 or 3000 <= code <= 4999


def read_close(payload: bytes) -> tuple[int, str]:
    """The code and the reason in a close frame's payload. Raises FrameRefused."""
    if not payload:
        return NO_CODE, ""
    code = int.from_bytes(payload[:2], "big")
    if not _sendable(code):
        raise FrameRefused(1002, f"close code {code} must not be sent")
    try:
        return code, payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        raise FrameRefused(1007, "a close reason is not UTF-8") from None


def is_close(frame: bytes) -> bool:
    """Whether a whole frame is a close frame."""
    return frame[0] & 0x0F == CLOSE


def read_head(data: bytes, at: int, *, masked: bool, within: bool) -> FrameHead | None:
    """Read and judge the head of a frame, which may stand within a message; None when it is not whole yet.

    Raises FrameRefused.
    """
    available = len(data) - at
    if available < 2:
        return None
    first, second = data[at], data[at + 1]
    final, opcode, length = bool(first & 0x80), first & 0x0F, second & 0x7F
    if first & 0x70:
        raise FrameRefused(1002, "reserved bits are set")
    if opcode not in OPCODES:
        raise FrameRefused(1002, f"unknown opcode {opcode}")
    if bool(second & 0x80) != masked:
        raise FrameRefused(1002, "client frames must be masked, server frames must not")
    if opcode >= CLOSE:
        if not final:
            raise FrameRefused(1002, "a control frame is fragmented")
        if length > MAX_CONTROL_BYTES:
            raise FrameRefused(1002, "a control frame is longer than 125 bytes")
        if opcode == CLOSE and length == 1:
            raise FrameRefused(1002, "a close frame has half a code")
    elif (opcode == CONTINUATION) != within:
        raise FrameRefused(1002, "fragments are out of order")

    extended = {126: 2, 127: 8}.get(length, 0)
    mask_at = at + 2 + extended
    payload_at = mask_at + (4 if masked else 0)
    if len(data) < payload_at:
        return None
    if extended:
        length = int.from_bytes(data[at + 2 : mask_at], "big")
        if length >> 63 or length < (126 if extended == 2 else 2**16):
            raise FrameRefused(1002, "a length is not in its shortest form")
    return FrameHead(final, opcode, data[mask_at:payload_at], payload_at, length)
