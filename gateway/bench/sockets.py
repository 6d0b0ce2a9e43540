"""WebSockets whose messages come back."""

from __future__ import annotations

import asyncio
from time import monotonic_ns

from gateway.bench import frames
from gateway.bench.beat import Schedule
from gateway.bench.canned import STAMP
from gateway.bench.client import Connection, Worker
from gateway.bench.messages import MessageReader
from gateway.bench.works import Sockets, Target

_FORM = b'{"type":"input_audio_buffer.append","event_id":"@%019d;","audio":"%s"}'
_LAST_SECONDS = 5.0
"""What was sent may still come back so long."""


class SocketsWorker(Worker):
    """Opens sockets, sends on each at a fixed rate, and looks at what comes back."""

    def __init__(self, work: Sockets, target: Target) -> None:
        super().__init__(work, target)
        self._what = work
        self._schedule = Schedule()
        self._every_ns = round(1e9 / work.per_second)
        self._audio = b"A" * max(0, work.message_bytes - len(_FORM % (0, b"")))
        self._sockets: list[_Socket] = []
        self._sending = False
        self._opening = work.sockets
        self._all_open = asyncio.Event()
        self._all_back = asyncio.Event()
        self.messages_sent = 0

    async def run(self) -> None:
        loop, what = asyncio.get_running_loop(), self._what
        began = loop.time()
        requests = self._handshakes()
        opening = []
        for number in range(what.sockets):
            await asyncio.sleep(began + number * what.ramp_seconds / what.sockets - loop.time())
            opening.append(asyncio.create_task(self._open(requests[number % len(requests)])))
        await asyncio.gather(*opening)
        await self._all_open.wait()
        self.steady.set()
        self._sending = True
        began_ns = monotonic_ns()
        for number, socket in enumerate(self._sockets):
            socket.due_ns = began_ns + number * self._every_ns // len(self._sockets)
            self._schedule.at(socket.due_ns, socket.send)
        try:
            await asyncio.wait_for(self.over.wait(), what.seconds)
        except TimeoutError:
            pass
        self._sending = False
        self._schedule.close()
        await self._until_all_came_back()
        if missing := self.messages_sent - self.events:
            self.errors["messages missing"] += missing

    async def _until_all_came_back(self) -> None:
        if self.events >= self.messages_sent:
            return
        try:
            await asyncio.wait_for(self._all_back.wait(), _LAST_SECONDS)
        except TimeoutError:
            pass

    async def _open(self, request: bytes) -> None:
        began_ns = monotonic_ns()
        connection = await self.connect(_Socket)
        if connection is None:
            self._settle()
        else:
            connection.ask(request, began_ns)

    def _settle(self) -> None:
        """Of one more handshake it is known what came of it."""
        self._opening -= 1
        if not self._opening:
            self._all_open.set()

    def _handshakes(self) -> list[bytes]:
        return [
            head.replace(b"POST ", b"GET ", 1).replace(
                b"Content-Type: -\r\nContent-Length: 0\r\n",
                b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: " + frames.KEY.encode() + b"\r\n",
            )
            for head in self.heads(0, "-")
        ]

    def answered(self, connection: Connection, answer: MessageReader) -> None:
        assert isinstance(connection, _Socket)
        self.take(answer, began_ns=connection.began_ns, wrong="" if answer.status == 101 else "no socket")
        if answer.status == 101:
            self.firsts.append(monotonic_ns() - connection.began_ns)
            connection.frames = frames.FrameReader()
            self._sockets.append(connection)
        self._settle()

    def failed(self, connection: Connection, kind: str) -> None:
        super().failed(connection, kind)
        self._settle()

    def lost(self, connection: Connection) -> None:  # noqa: ARG002 (it counts, whichever it was)
        if self._sending:
            self.errors["socket closed"] += 1

    def send(self, socket: _Socket) -> None:
        """Send the message that is due, and plan the next."""
        if not self._sending or socket.transport.is_closing():
            return
        now = monotonic_ns()
        self.lates.append(now - socket.due_ns)
        socket.transport.write(frames.frame(frames.TEXT, _FORM % (now, self._audio), masked=True))
        self.messages_sent += 1
        socket.due_ns += self._every_ns
        self._schedule.at(socket.due_ns, socket.send)

    def frames_came(self, socket: _Socket, came: list[tuple[int, bytes]]) -> None:
        now = monotonic_ns()
        for opcode, payload in came:
            if opcode == frames.TEXT and (stamp := STAMP.search(payload)):
                self.delays.append(now - int(stamp[1]))
                self.events += 1
            elif opcode == frames.PING:
                socket.transport.write(frames.frame(frames.PONG, payload, masked=True))
            elif opcode == frames.CLOSE:
                self.errors[f"closed with {int.from_bytes(payload[:2], 'big')}"] += 1
        if not self._sending and self.events >= self.messages_sent:
            self._all_back.set()

    def stop(self) -> None:
        super().stop()
        self.over.set()


class _Socket(Connection):
    """A connection that becomes a WebSocket."""

    __slots__ = ("_owner", "due_ns", "frames")

    def __init__(self, worker: SocketsWorker) -> None:
        super().__init__(worker)
        self._owner = worker
        self.due_ns = 0
        self.frames: frames.FrameReader | None = None

    def send(self) -> None:
        self._owner.send(self)

    def data_received(self, data: bytes) -> None:
        if self.frames is None:
            super().data_received(data)
        else:
            self._owner.frames_came(self, self.frames.feed(data))
