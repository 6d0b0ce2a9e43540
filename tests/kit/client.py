"""A client that writes and reads bytes: what SDKs would hide, it shows."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from dataclasses import dataclass, field

MIB = 2**20

CHAT = "/v1/chat/completions"
QUESTION = b'{"model":"gpt-4o-mini","messages":[]}'
STREAMED_QUESTION = b'{"model":"gpt-4o-mini","stream":true,"messages":[]}'

# Header lines.
JSON = "Content-Type: application/json\r\n"
PLAIN = "Content-Type: text/plain\r\n"
FORM = "Content-Type: multipart/form-data; boundary=edge\r\n"
WEBSOCKET_KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    f"Sec-WebSocket-Key: {WEBSOCKET_KEY}\r\n"
)


@dataclass
class RawAnswer:
    """An answer as it came over the wire."""

    status: int
    reason: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    clean_end: bool = True
    """The body ended as its framing says: all of its bytes, or its last chunk."""

    chunks: list[bytes] = field(default_factory=list)

    def get(self, name: str) -> str | None:
        """The first value of a header field."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), None)

    def all(self, name: str) -> list[str]:
        """Every value of a header field."""
        return [value for key, value in self.fields if key.lower() == name.lower()]


class RawClient:
    """One connection."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        credential: str,
        *,
        timeout_seconds: float = 10.0,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.credential = credential
        self.timeout_seconds = timeout_seconds

    @classmethod
    async def connect(
        cls, host: str, port: int, credential: str = "", *, tls: ssl.SSLContext | None = None
    ) -> RawClient:
        """Open a connection."""
        reader, writer = await asyncio.open_connection(host, port, limit=2**22, ssl=tls)
        return cls(reader, writer, credential)

    @property
    def socket(self) -> socket.socket:
        """The socket underneath."""
        found = self.writer.get_extra_info("socket")
        assert found is not None
        return found

    def request_bytes(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        headers: str = "",
        version: str = "HTTP/1.1",
    ) -> bytes:
        """A request with a credential; `headers` are further complete lines ending in CRLF."""
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        head = (
            f"{method} {target} {version}\r\nHost: gateway.test\r\n"
            f"Authorization: Bearer {self.credential}\r\n{length}{headers}\r\n"
        )
        return head.encode() + (body or b"")

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await asyncio.wait_for(self.writer.drain(), self.timeout_seconds)

    async def request(self, method: str, target: str, body: bytes | None = None, **more: str) -> RawAnswer:
        """Send a request and read its whole answer."""
        await self.send(self.request_bytes(method, target, body, **more))
        return await self.read_answer(method)

    async def read_head(self) -> RawAnswer:
        """Read an answer's head; raises IncompleteReadError when the connection ends first."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), self.timeout_seconds)
        first, *rest = head.decode("latin-1").split("\r\n")
        _, status, reason = first.split(" ", 2)
        fields = [(name, value.strip()) for name, _, value in (line.partition(":") for line in rest if line)]
        return RawAnswer(int(status), reason, fields)

    async def read_chunk(self) -> bytes:
        """Read one chunk of a chunked body; empty for the last one."""
        line = await asyncio.wait_for(self.reader.readuntil(b"\r\n"), self.timeout_seconds)
        size = int(line.strip(), 16)
        data = await asyncio.wait_for(self.reader.readexactly(size + 2), self.timeout_seconds)
        return data[:-2]

    async def read_answer(self, method: str = "GET") -> RawAnswer:
        """Read a whole answer, noting whether it ended as its framing says."""
        answer = await self.read_head()
        await self.read_body(answer, method)
        return answer

    async def read_body(self, answer: RawAnswer, method: str = "GET") -> None:
        """Read the body that belongs to a head."""
        if method == "HEAD" or answer.status in (204, 304) or answer.status < 200:
            return
        length = answer.get("content-length")
        try:
            if (answer.get("transfer-encoding") or "").lower() == "chunked":
                while chunk := await self.read_chunk():
                    answer.chunks.append(chunk)
                    answer.body += chunk
            elif length is not None:
                answer.body = await asyncio.wait_for(
                    self.reader.readexactly(int(length)), self.timeout_seconds
                )
            else:
                answer.body = await asyncio.wait_for(self.reader.read(), self.timeout_seconds)
        except (asyncio.IncompleteReadError, ConnectionError) as broken:
            answer.clean_end = False
            if isinstance(broken, asyncio.IncompleteReadError) and length is not None:
                answer.body += broken.partial

    async def closed(self) -> bool:
        """Whether the gateway closes this connection, within the timeout."""
        try:
            while await asyncio.wait_for(self.reader.read(65536), self.timeout_seconds):
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True

    def reset(self) -> None:
        """Leave by RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def __aenter__(self) -> RawClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Leave by FIN."""
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass
