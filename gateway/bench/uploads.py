"""Large files in forms, made while they are sent."""

from __future__ import annotations

import asyncio
from time import monotonic_ns

from gateway.bench.canned import SOUND
from gateway.bench.client import Connection, Worker
from gateway.bench.messages import MessageReader
from gateway.bench.works import Target, Uploads

_BOUNDARY = "bench-0123456789abcdef"
_BLOCK = 16


class UploadsWorker(Worker):
    """Each connection sends a file as fast as it is taken, and then the next."""

    def __init__(self, work: Uploads, target: Target) -> None:
        super().__init__(work, target)
        self._what = work
        self._block = SOUND * _BLOCK
        opening = (
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="model"\r\n\r\n{work.model}\r\n'
            f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.mp3"\r\n'
            "Content-Type: audio/mpeg\r\n\r\n"
        ).encode()
        self._closing = f"\r\n--{_BOUNDARY}--\r\n".encode()
        self._body_bytes = len(opening) + work.file_bytes + len(self._closing)
        content_type = f"multipart/form-data; boundary={_BOUNDARY}"
        self._openings = [head + opening for head in self.heads(self._body_bytes, content_type)]
        self._left: dict[Connection, int] = {}
        """Bytes of the file that are still to be sent."""
        self._paused: set[Connection] = set()
        self._open = 0

    async def run(self) -> None:
        connections = await asyncio.gather(*(self.connect() for _ in range(self._what.connections)))
        opened = [connection for connection in connections if connection]
        self._open = len(opened)
        self.steady.set()
        for connection in opened:
            self._begin(connection)
        if opened:
            await self.over.wait()

    def _begin(self, connection: Connection) -> None:
        if self.stopping or self.sent >= self._what.count:
            self._leave()
            return
        connection.ask(self._openings[self.sent % len(self._openings)], monotonic_ns())
        self._left[connection] = self._what.file_bytes
        self._send(connection)

    def _send(self, connection: Connection) -> None:
        left, write = self._left.get(connection, 0), connection.transport.write
        while left and connection not in self._paused:
            piece = self._block if left >= len(self._block) else self._block[:left]
            left -= len(piece)
            self._left[connection] = left
            self.sent_bytes += len(piece)
            write(piece)
            if not left:
                write(self._closing)

    def paused(self, connection: Connection) -> None:
        self._paused.add(connection)

    def resumed(self, connection: Connection) -> None:
        self._paused.discard(connection)
        self._send(connection)

    def answered(self, connection: Connection, answer: MessageReader) -> None:
        early = self._left.pop(connection, 0) > 0
        arrived = b"bytes=%d" % self._body_bytes in answer.kept
        wrong = "answered early" if early else "" if arrived else "not all arrived"
        self.take(answer, began_ns=connection.began_ns, wrong=wrong)
        if early or not answer.lasts:
            self._leave()
            connection.transport.abort()
            return
        self._begin(connection)

    def failed(self, connection: Connection, kind: str) -> None:
        super().failed(connection, kind)
        self._left.pop(connection, None)
        self._leave()

    def _leave(self) -> None:
        self._open -= 1
        if not self._open:
            self.over.set()
