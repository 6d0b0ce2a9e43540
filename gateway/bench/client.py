"""One connection of the measuring client, and what all kinds of work do with it."""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from itertools import cycle
from time import monotonic_ns
from typing import cast

from gateway.bench.messages import MessageReader
from gateway.bench.spread import Spread
from gateway.bench.works import Outcome, Target, Work

_QUOTED_BYTES = 200

LOST = ("not HTTP", "more than was asked for", "reset", "cut", "closed unanswered")
"""The errors after which a request has no answer."""


class Connection(asyncio.Protocol):
    """Sends one request at a time and tells its worker of the answer, in the turn in which it came."""

    __slots__ = (
        "_worker",
        "began_ns",
        "busy",
        "first_stamp",
        "last_stamp",
        "reader",
        "seen",
        "transport",
        "whole",
    )

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.reader = MessageReader(answers=True)
        self.busy = False
        self.began_ns = 0
        self.seen = 0
        """For the worker: events, or messages, of this exchange."""
        self.first_stamp = 0
        self.last_stamp = 0
        self.whole = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=1)

    def ask(self, message: bytes, began_ns: int) -> None:
        """Send a request, or its beginning; latency counts from `began_ns`."""
        self.busy = True
        self.began_ns = began_ns
        self.seen = 0
        self._worker.sent += 1
        self.transport.write(message)

    def data_received(self, data: bytes) -> None:
        worker = self._worker
        try:
            rest = self.reader.feed(data)
        except ValueError:
            self._fail("not HTTP")
            return
        worker.came(self, data)
        if rest is None:
            return
        if rest:
            self._fail("more than was asked for")
            return
        self._answered()

    def _answered(self) -> None:
        self.busy = False
        reader = self.reader
        lasts = reader.lasts
        self._worker.answered(self, reader)
        reader.begin()
        if not lasts:
            self.transport.close()

    def _fail(self, kind: str) -> None:
        self.busy = False
        self.transport.abort()
        self._worker.failed(self, kind)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.busy:
            self._worker.lost(self)
        elif self.reader.until_close and exc is None:
            self._answered()
        else:
            self.busy = False
            self._worker.failed(self, "reset" if exc else "cut" if self.reader.line else "closed unanswered")

    def pause_writing(self) -> None:
        self._worker.paused(self)

    def resume_writing(self) -> None:
        self._worker.resumed(self)


class Worker(ABC):
    """Does one work and counts what comes of it. What a kind of work adds stands in its own module."""

    holds = False
    """Whether what is open at the end was to be open."""

    def __init__(self, work: Work, target: Target) -> None:
        self.work = work
        self.target = target
        self.sent = 0
        self.finished = 0
        self.ok = 0
        self.answer_bytes = 0
        self.sent_bytes = 0
        self.events = 0
        self.statuses: Counter[int] = Counter()
        self.errors: Counter[str] = Counter()
        self.first_error = ""
        self.latencies: list[int] = []
        self.firsts: list[int] = []
        self.delays: list[int] = []
        self.slips: list[int] = []
        self.lates: list[int] = []
        self.steady = asyncio.Event()
        """Everything runs that was to run, but for what has failed."""
        self.over = asyncio.Event()
        """Nothing more is to come."""
        self.stopping = False
        self._connections: list[Connection] = []
        self._tls = ssl.create_default_context(cafile=target.ca_file) if target.ca_file else None

    @abstractmethod
    async def run(self) -> None:
        """Do the work; return at its end."""

    def came(self, connection: Connection, data: bytes) -> None:  # noqa: B027 (not every work wants to know)
        """A piece of an answer came, as it stood on the wire."""

    @abstractmethod
    def answered(self, connection: Connection, answer: MessageReader) -> None:
        """An answer is whole; the connection is free, if it lasts."""

    def failed(self, connection: Connection, kind: str) -> None:  # noqa: ARG002 (works that count their connections ask)
        """The connection is gone, and no answer will come."""
        self.errors[kind] += 1

    def lost(self, connection: Connection) -> None:  # noqa: B027 (not every work wants to know)
        """The connection is gone, and nobody waited for an answer."""

    def paused(self, connection: Connection) -> None:  # noqa: B027 (not every work wants to know)
        """The connection takes nothing more for now."""

    def resumed(self, connection: Connection) -> None:  # noqa: B027 (not every work wants to know)
        """It takes more again."""

    def stop(self) -> None:
        """Begin nothing more."""
        self.stopping = True

    async def connect(self, make: type[Connection] = Connection) -> Connection | None:
        """A new connection; None, and an error counted, where none could be made."""
        target, loop = self.target, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.work.most_seconds):
                _, connection = await loop.create_connection(
                    lambda: make(self), target.host, target.port, ssl=self._tls
                )
        except (OSError, TimeoutError) as error:
            self.errors[f"not connected: {type(error).__name__}"] += 1
            return None
        self._connections.append(connection)
        return connection

    async def close(self) -> None:
        """Let go of every connection."""
        self.stopping = True
        for connection in self._connections:
            connection.transport.abort()
        await asyncio.sleep(0)  # in which they are told so

    def take(self, answer: MessageReader, *, began_ns: int, wrong: str = "") -> None:
        """Count an answer that is whole; `wrong` says what it lacks."""
        self.finished += 1
        self.latencies.append(monotonic_ns() - began_ns)
        self.answer_bytes += answer.body_bytes
        self.statuses[answer.status] += 1
        if answer.status >= 300:
            self.errors[f"status {answer.status}"] += 1
            if not self.first_error:
                self.first_error = answer.kept[:_QUOTED_BYTES].decode("utf-8", "replace")
        elif wrong:
            self.errors[wrong] += 1
        else:
            self.ok += 1

    def messages(self, body: bytes, content_type: str = "application/json") -> Iterator[bytes]:
        """The request without end, with each credential in turn."""
        return cycle([head + body for head in self.heads(len(body), content_type)])

    def heads(self, body_bytes: int, content_type: str) -> list[bytes]:
        """The head of a POST, once for each credential."""
        target = self.target
        fields = {
            "Host": f"{target.host}:{target.port}",
            "User-Agent": "OpenAI/Python 2.8.0",
            "Accept": "application/json",
            "Content-Type": content_type,
            "Content-Length": str(body_bytes),
            **target.headers,
        }
        common = f"POST {self.work.path} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in fields.items())
        return [
            f"{common}{credential}\r\n".encode()
            for credential in [f"Authorization: Bearer {c}\r\n" for c in target.credentials] or [""]
        ]

    def outcome(self, elapsed_seconds: float) -> Outcome:
        """What came of it, by now."""
        errors = dict(self.errors)
        pending = self.sent - self.finished - sum(errors.get(kind, 0) for kind in LOST)
        if pending > 0 and not self.holds:
            errors["unfinished"] = pending
        return Outcome(
            kind=self.work.kind,
            elapsed_seconds=round(elapsed_seconds, 4),
            sent=self.sent,
            finished=self.finished,
            ok=self.ok,
            statuses={str(status): count for status, count in self.statuses.items()},
            errors=errors,
            first_error=self.first_error,
            answer_bytes=self.answer_bytes,
            sent_bytes=self.sent_bytes,
            events=self.events,
            latency_us=Spread.of(self.latencies),
            first_us=Spread.of(self.firsts),
            delay_us=Spread.of(self.delays),
            slip_us=Spread.of(self.slips),
            late_us=Spread.of(self.lates),
        )
