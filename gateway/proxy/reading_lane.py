"""A queue in front of one process that reads documents: tenants in turn, one document at a time.

Neither a document nor a tenant can keep others waiting for longer than one document takes; and nothing that goes
wrong in there, or there, is more than a 503 for the one who sent it.
"""

from __future__ import annotations

import asyncio
import io
import os
import pickle
import socket
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from gateway.errors import Overloaded
from gateway.exchange.process_log import speaks_as
from gateway.proxy.reading_process import ANSWER, CALL, SPEAKER, Call, Found
from gateway.wire.json_structure import Bounds

BITE_BYTES = 128 * 1024
MOST_WAITING = 1000
"""Documents of one tenant."""

IDLE_SECONDS = 60.0
"""A process that has read nothing for so long ends: each of many workers may have started some."""

_ENDING_SECONDS = 1.0
_POLL_SECONDS = 0.005
_INHERITED = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "MALLOC_ARENA_MAX", "PATH", "PYTHONHOME", "TZ")
_KINDS = {
    ("gateway.policy.batch_lines", "LineRefused"),
    ("gateway.policy.batch_lines", "LinesRead"),
    ("gateway.usage.reported", "Usage"),
    ("gateway.wire.body_facts", "AskedResponse"),
    ("gateway.wire.body_facts", "BodyFacts"),
    ("gateway.wire.body_facts", "EventFacts"),
    ("gateway.wire.body_facts", "Named"),
    ("gateway.wire.body_facts", "Reference"),
    ("gateway.wire.body_facts", "SocketRequest"),
    ("gateway.wire.json_members", "Change"),
    ("gateway.wire.json_members", "Place"),
    ("gateway.wire.request_fields", "Fault"),
    ("gateway.wire.request_fields", "RequestFields"),
}
"""What an answer may be made of: it comes from a process that has read what strangers wrote."""


class _Waiting:
    def __init__(self, pieces: Sequence[bytes], call: Call, bounds: Bounds | None) -> None:
        self.pieces = pieces
        self.call = call
        self.bounds = bounds
        self.answer: asyncio.Future[tuple[Found, Any]] = asyncio.get_running_loop().create_future()


class Lane:
    """Reads one document after the other, in a process of its own that is started when it is first needed."""

    def __init__(
        self, *, seconds: float, lost: Callable[[], None], idle_seconds: float = IDLE_SECONDS
    ) -> None:
        """`seconds`: how long anybody waits, and how long one document may take; `lost` counts dead processes."""
        self._seconds = seconds
        self._idle_seconds = idle_seconds
        self._lost = lost
        self._queues: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._process: _Process | None = None
        self._working: asyncio.Task[None] | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Documents that wait for their turn."""
        return sum(map(len, self._queues.values()))

    async def ask(
        self, tenant: str, pieces: Sequence[bytes], call: Call, bounds: Bounds | None
    ) -> tuple[Found, Any]:
        """Have a function called with a document, if it is within bounds. Raises Overloaded if not now."""
        queue = self._queues.setdefault(tenant, deque())
        if len(queue) >= MOST_WAITING:
            raise Overloaded(
                "Too many large bodies of yours wait to be read. Try again shortly.",
                detail="documents of one tenant that wait to be read",
            )
        waiting = _Waiting(pieces, call, bounds)
        queue.append(waiting)
        if self._working is None:
            self._working = asyncio.create_task(self._work())
        try:
            async with asyncio.timeout(self._seconds):
                return await waiting.answer
        except TimeoutError:
            raise Overloaded(
                "The body could not be read in time. Try again shortly.",
                detail="edge.json_reading_timeout_seconds",
            ) from None
        finally:
            waiting.pieces = ()  # it may still stand in the queue
            del waiting  # its error would hold itself

    async def close(self) -> None:
        """End the process; who still waits is told so."""
        if self._working is not None:
            self._working.cancel()
        self._rests(None)
        for queue in self._queues.values():
            for waiting in queue:
                waiting.answer.cancel()
        await self._end()
        await asyncio.gather(*self._ending)

    async def _work(self) -> None:
        """Read what waits, until nothing does."""
        self._rests(None)
        try:
            while (waiting := self._next()) is not None:
                if not waiting.answer.done():  # else its sender has gone
                    await self._read(waiting)
        finally:
            self._working = None
            if self._process is not None:
                self._rests(asyncio.get_running_loop().call_later(self._idle_seconds, self._rest))

    def _next(self) -> _Waiting | None:
        """The first document of the tenant whose turn it is; who was served stands behind all others."""
        while self._queues:
            tenant, queue = self._queues.popitem(last=False)
            if queue:
                waiting = queue.popleft()
                if queue:
                    self._queues[tenant] = queue
                return waiting
        return None

    async def _read(self, waiting: _Waiting) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                if self._process is not None and self._process.has_ended:
                    self._lost()
                    await self._end()
                if self._process is None:
                    self._process = _Process()
                found = await self._process.ask(waiting)
        except (OSError, EOFError, MemoryError, pickle.UnpicklingError) as lost:  # TimeoutError is an OSError
            self._lost()
            await self._end()
            if not waiting.answer.done():
                waiting.answer.set_exception(
                    Overloaded(
                        "The body could not be read at the moment. Try again shortly.", detail=repr(lost)
                    )
                )
        except BaseException as defect:
            await self._end()  # nobody knows what it waits for
            if not waiting.answer.done():
                waiting.answer.set_exception(defect)
            raise
        else:
            if not waiting.answer.done():
                waiting.answer.set_result(found)

    def _rests(self, until: asyncio.TimerHandle | None) -> None:
        if self._resting is not None:
            self._resting.cancel()
        self._resting = until

    def _rest(self) -> None:
        """End the process, which has nothing to do; the next document starts another."""
        process, self._process = self._process, None
        if process is not None:
            ending = asyncio.create_task(process.end())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.end()


class _Process:
    """A fresh interpreter at the other end of a socket. It inherits nothing that it does not need."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        environment[SPEAKER] = speaks_as().for_reader()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", "from gateway.proxy.reading_process import main; main()"],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=environment,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        self._socket = ours

    @property
    def has_ended(self) -> bool:
        """Whether it died while nobody asked it anything."""
        return self._process.poll() is not None

    async def ask(self, waiting: _Waiting) -> tuple[Found, Any]:
        """Send a call and a document, in bites; return what was found. Raises OSError or EOFError."""
        loop, pieces = asyncio.get_running_loop(), waiting.pieces
        written = pickle.dumps((waiting.call, waiting.bounds), pickle.HIGHEST_PROTOCOL)
        head = CALL.pack(len(written), sum(map(len, pieces))) + written
        await loop.sock_sendall(self._socket, head)
        for piece in pieces:
            view = memoryview(piece)
            for at in range(0, len(view), BITE_BYTES):
                await loop.sock_sendall(self._socket, view[at : at + BITE_BYTES])
                await asyncio.sleep(0)
        (length,) = ANSWER.unpack(await self._receive(ANSWER.size))
        word, value = _Answer(io.BytesIO(await self._receive(length))).load()
        try:
            return Found(word), value
        except ValueError as unknown:
            raise pickle.UnpicklingError(str(unknown)) from None

    async def _receive(self, length: int) -> bytearray:
        received = bytearray(length)
        view, at = memoryview(received), 0
        loop = asyncio.get_running_loop()
        while at < length:
            count = await loop.sock_recv_into(self._socket, view[at : at + BITE_BYTES])
            if not count:
                raise EOFError("the process that reads has ended")
            at += count
        return received

    async def end(self) -> None:
        """End it: by itself if it can, else by force."""
        self._socket.close()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ENDING_SECONDS
        while self._process.poll() is None:
            if loop.time() >= deadline:
                self._process.kill()
            await asyncio.sleep(_POLL_SECONDS)


class _Answer(pickle.Unpickler):
    """Makes values of the kinds that answers have, and of no other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KINDS:
            raise pickle.UnpicklingError(f"an answer has no {module}.{name}")
        return super().find_class(module, name)
