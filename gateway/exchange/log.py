"""One JSON line per exchange, on standard output, off the hot path.

Lines are collected and written in batches by a thread of their own: a slow or blocked reader of
standard output never delays an exchange; when it falls too far behind, lines are dropped and counted.
No line ever holds a credential, a key, a body or a query string.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

import orjson

from gateway.errors import ROOM_BYTES
from gateway.exchange.exchange import Exchange

FLUSH_SECONDS = 0.05
_TEXT_LIMIT = 256


class LogWriter:
    """Writes lines to a file descriptor in batches.

    At most `max_pending_bytes` wait; what exceeds that is dropped, and `dropped` told how many lines.
    """

    def __init__(
        self, descriptor: int, *, dropped: Callable[[int], None], max_pending_bytes: int = 8 * 2**20
    ) -> None:
        self._descriptor = descriptor
        self._dropped = dropped
        self._max_pending_bytes = max_pending_bytes
        self._lines: list[bytes] = []
        self._collected_bytes = 0
        self._pending_bytes = 0
        self._scheduled = False
        self._batches: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def write(self, line: bytes) -> None:
        """Queue one complete line; called on the event loop's thread."""
        if self._pending_bytes + self._collected_bytes + len(line) > self._max_pending_bytes:
            self._dropped(1)
            return
        self._collected_bytes += len(line)
        self._lines.append(line)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if not self._lines:
            return
        batch = b"".join(self._lines)
        self._lines.clear()
        self._collected_bytes = 0
        with self._lock:  # `close` may be called from another thread
            self._pending_bytes += len(batch)
            if self._thread is None:
                thread = threading.Thread(target=self._drain, name="gateway-log", daemon=True)
                thread.start()
                self._thread = thread
        self._batches.put(batch)

    def _drain(self) -> None:
        while (batch := self._batches.get()) is not None:
            view = memoryview(batch)
            while view:
                try:
                    view = view[os.write(self._descriptor, view) :]
                except OSError:
                    # Nobody reads any more: the lines are lost, the gateway goes on.
                    self._dropped(bytes(view).count(b"\n"))
                    break
            with self._lock:
                self._pending_bytes -= len(batch)

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Write what is pending, waiting for a slow reader at most `timeout_seconds`."""
        self._flush()
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join(timeout_seconds)
            self._thread = None


FIELDS = {
    "time": "When the request had come in with its head, in UTC.",
    "request_id": "The exchange's id, which the client has as `x-gateway-request-id`.",
    "upstream_request_id": "The upstream's `x-request-id`.",
    "tenant": "Who pays, once the credential has verified.",
    "subject": "Who calls, in the same way; left out where the tenant's `logging` is `minimal`.",
    "method": "As it was sent.",
    "operation": "Its id, as in the metrics.",
    "model": "Where it is known; left out where the tenant's `logging` is `minimal`.",
    "status": "What went to the client; null where nothing did.",
    "ending": "How the exchange ended, as in the metrics.",
    "duration_ms": "From the request's head to the last byte of the answer.",
    "first_byte_ms": "From the request's head to the first byte of the answer's body.",
    "upstream_ms": "The upstream's part, connecting included; null where it was not asked.",
    "overhead_ms": "What the gateway itself added before it asked the upstream, or in all where it did not.",
    "waited_ms": "The part of it that was spent waiting for a connection to come free; only where there was any.",
    "bytes_in": "Body bytes that went up.",
    "bytes_out": "Body bytes that went down.",
    "usage": "What was used, by kind as in the metrics and with its `total`; `estimated` where nobody reported it.",
    "error": "The code of the gateway's own error; only where there was one.",
    "detail": "Its cause, or why a session ended, which the client is not told; only where there is one.",
}
"""What a line says: every field, with its meaning for who reads it."""


def access_record(exchange: Exchange, *, now: float) -> dict[str, Any]:
    """What is logged of an exchange; durations in milliseconds, sizes in body bytes."""
    principal, tenant = exchange.caller.principal, exchange.caller.tenant
    began, first_byte_at = exchange.started_at, exchange.first_byte_at
    upstream_seconds = exchange.upstream_seconds(now)
    usage, error = exchange.usage, exchange.error
    record: dict[str, Any] = {
        "time": _time(exchange.started_time),
        "request_id": exchange.id,
        "upstream_request_id": _short(exchange.upstream_request_id),
        "tenant": principal.tenant or None,
        "subject": principal.subject or None,
        "method": exchange.method[:32],
        "operation": exchange.operation.id,
        "model": _short(exchange.model),
        "status": exchange.status,
        "ending": exchange.ending,
        "duration_ms": _milliseconds(now - began),
        "first_byte_ms": None if first_byte_at is None else _milliseconds(first_byte_at - began),
        "upstream_ms": None if upstream_seconds is None else _milliseconds(upstream_seconds),
        "overhead_ms": _milliseconds(exchange.overhead_seconds(now)),
        "bytes_in": exchange.bytes_in,
        "bytes_out": exchange.bytes_out,
    }
    if tenant.settings.logging == "minimal":
        del record["subject"], record["model"]
    if exchange.waited_seconds:
        record["waited_ms"] = _milliseconds(exchange.waited_seconds)
    if usage is not None:
        record["usage"] = usage.amounts()
    if error is not None:
        record["error"] = error.code
    detail = exchange.detail if error is None else error.detail
    if detail:
        record["detail"] = _short(detail)
    return record


def encode(record: dict[str, Any]) -> bytes:
    """One line; control characters are escaped by the encoder, so nothing can forge a second one."""
    bytes(ROOM_BYTES)  # raises MemoryError
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE, default=str)


def _time(unix_seconds: float) -> str:
    """A moment in UTC, to the microsecond; what begins in the same second differs in little."""
    microseconds = round(unix_seconds * 1_000_000)
    return f"{_second(microseconds // 1_000_000)}.{microseconds % 1_000_000:06}Z"


@lru_cache(maxsize=16)
def _second(unix_seconds: int) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _milliseconds(seconds: float) -> float:
    """To the microsecond; `round` to so many digits takes four times as long."""
    return int(seconds * 1_000_000 + 0.5) / 1000


def _short(text: str | None) -> str | None:
    """A text of somebody else's, cut, and without characters that a terminal or a viewer would act upon."""
    if text is None:
        return None
    if len(text) > _TEXT_LIMIT:
        text = text[:_TEXT_LIMIT] + "…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
