"""WebSocket frames of one piece, as both ends of a measured socket send them."""

from __future__ import annotations

import base64
import hashlib

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
_MASK = b"\x1f\x8b\x3c\x5a"


def accepted(key: bytes) -> bytes:
    """What a server answers to the key of a handshake (RFC 6455, 4.2.2)."""
    joined = key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    return base64.b64encode(hashlib.sha1(joined, usedforsecurity=False).digest())


def frame(opcode: int, payload: bytes, *, masked: bool) -> bytes:
    """One whole frame of at most 65,535 bytes."""
    size = len(payload)
    first = bytes((0x80 | opcode,))
    high = 0x80 if masked else 0
    length = bytes((high | size,)) if size < 126 else bytes((high | 126,)) + size.to_bytes(2, "big")
    return first + length + (_MASK + _masked(payload, _MASK) if masked else payload)


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


class FrameReader:
    """Takes frames of at most 65,535 bytes out of what comes in."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Opcode and payload of every frame that is whole by now."""
        if self._held:
            data = self._held + data
        frames, at, size = [], 0, len(data)
        while size - at >= 2:
            masked, length, begin = data[at + 1] & 0x80, data[at + 1] & 0x7F, at + 2
            if length == 126:
                length, begin = int.from_bytes(data[begin : begin + 2], "big"), begin + 2
            elif length == 127:
                raise ValueError("a frame of more than 65,535 bytes")
            begin += 4 if masked else 0
            end = begin + length
            if end > size:
                break
            payload = data[begin:end]
            frames.append((data[at] & 0x0F, _masked(payload, data[begin - 4 : begin]) if masked else payload))
            at = end
        self._held = data[at:]
        return frames
