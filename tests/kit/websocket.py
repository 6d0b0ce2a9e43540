"""WebSockets frame by frame: what libraries would hide, it shows and lets one get wrong."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

from gateway.wire.frame_format import accept_key
from tests.kit.client import HANDSHAKE, WEBSOCKET_KEY, RawAnswer, RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn

TEXT, BINARY, CLOSE, PING, PONG, MORE = 0x1, 0x2, 0x8, 0x9, 0xA, 0x0
TARGET = "/v1/realtime?model=gpt-realtime"


def frame(
    opcode: int, payload: bytes = b"", *, masked: bool = True, final: bool = True, reserved: int = 0
) -> bytes:
    """A frame, in the shortest form of its length; `reserved` are the three reserved bits."""
    size = len(payload)
    if size < 126:
        length = bytes((size,))
    elif size < 2**16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    first = bytes((final << 7 | reserved << 4 | opcode,))
    if not masked:
        return first + length + payload
    mask = os.urandom(4)
    return first + bytes((length[0] | 0x80,)) + length[1:] + mask + unmask(payload, mask)


def close_frame(code: int, reason: str = "", *, masked: bool = True) -> bytes:
    """A close frame with any code, sendable or not."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason.encode(), masked=masked)


def unmask(payload: bytes, mask: bytes) -> bytes:
    """Apply a mask, or take it off."""
    key = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(len(payload), "big")


@dataclass(frozen=True)
class Frame:
    """A frame as it was read: `raw` are its bytes, `payload` is unmasked."""

    opcode: int
    payload: bytes
    final: bool
    masked: bool
    raw: bytes

    @property
    def code(self) -> int | None:
        """The code of a close frame; None when it has none."""
        return int.from_bytes(self.payload[:2], "big") if self.payload else None

    @property
    def reason(self) -> str:
        """The reason in a close frame."""
        return self.payload[2:].decode()


async def read_frame(reader: asyncio.StreamReader, within_seconds: float = 5.0) -> Frame:
    """The next frame; raises IncompleteReadError or ConnectionError when there is none."""
    async with asyncio.timeout(within_seconds):
        raw = await reader.readexactly(2)
        size, masked = raw[1] & 0x7F, bool(raw[1] & 0x80)
        if size >= 126:
            extended = await reader.readexactly(2 if size == 126 else 8)
            raw, size = raw + extended, int.from_bytes(extended, "big")
        mask = await reader.readexactly(4) if masked else b""
        payload = await reader.readexactly(size)
    plain = unmask(payload, mask) if masked else payload
    return Frame(raw[0] & 0x0F, plain, bool(raw[0] & 0x80), masked, raw + mask + payload)


async def read_message(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Opcode and payload of the next frame, which must be a whole message."""
    found = await read_frame(reader)
    assert found.final
    return found.opcode, found.payload


async def read_to_the_end(reader: asyncio.StreamReader) -> list[Frame]:
    """All frames until the connection ends."""
    frames = []
    try:
        while True:
            frames.append(await read_frame(reader))
    except (asyncio.IncompleteReadError, ConnectionError):
        return frames


async def until(reader: asyncio.StreamReader, opcode: int) -> Frame:
    """The next frame of a kind; others are skipped."""
    while (found := await read_frame(reader)).opcode != opcode:
        pass
    return found


def handshake(
    client: RawClient,
    *,
    target: str = TARGET,
    protocols: str = "realtime",
    more: str = "",
    key: str = WEBSOCKET_KEY,
) -> bytes:
    """An upgrade request."""
    offered = f"Sec-WebSocket-Protocol: {protocols}\r\n" if protocols else ""
    return client.request_bytes("GET", target, headers=HANDSHAKE.replace(WEBSOCKET_KEY, key) + offered + more)


async def shake_hands(client: RawClient, **how: str) -> RawAnswer:
    """Ask for an upgrade; the answer's head."""
    await client.send(handshake(client, **how))
    return await client.read_head()


def accepted(turn: Turn, more: str = "") -> bytes:
    """What an upstream answers to a good handshake."""
    key = turn.seen.get("sec-websocket-key") or ""
    protocol = (turn.seen.get("sec-websocket-protocol") or "").partition(",")[0]
    chosen = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept_key(key)}\r\n{chosen}{more}\r\n"
    ).encode()


@dataclass
class Open:
    """An open session: the client's end and the upstream's."""

    client: RawClient
    turn: Turn
    head: RawAnswer

    async def from_client(self, data: bytes) -> None:
        """Send bytes as the client."""
        await self.client.send(data)

    async def from_upstream(self, data: bytes) -> None:
        """Send bytes as the upstream."""
        await self.turn.send(data)


async def open_session(gateway: Gateway, upstream: ScriptedUpstream, **how: str) -> Open:
    """Shake hands through the gateway."""
    turns: asyncio.Queue[Turn] = asyncio.Queue()

    async def script(turn: Turn) -> None:
        await turn.send(accepted(turn))
        turns.put_nowait(turn)
        await asyncio.Event().wait()

    upstream.plays(script)
    client = await gateway.connect()
    head = await shake_hands(client, **how)
    assert head.status == 101, head
    return Open(client, await asyncio.wait_for(turns.get(), 5), head)
