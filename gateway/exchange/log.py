"""One JSON line per exchange, on standard output, off the hot path.

Lines are collected and written in batches by a thread of their own: a slow or blocked reader of
standard output never delays an exchange; when it falls too far behind, lines are dropped and counted.
Every line arrives whole, though several workers write to one standard output; where a disk gets full in the middle of
one, the next stands behind a line end of its own.
No line ever holds a credential, a key, a body or a query string.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from queue import SimpleQueue
from typing import Any

import orjson

from gateway.endings import ROOM_BYTES
from gateway.exchange import whole_lines
from gateway.exchange.exchange import Exchange, Times

FLUSH_SECONDS = 0.05
_TEXT_LIMIT = 256
_ID_LIMIT = 64
_SHORTER_LIMITS = (128, 64)
"""For the texts of a line that would be too long to arrive whole; with the last of them none is."""


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
        self._was_full = False
        """Whether there may stand half a line, of this process or another: the next line begins behind its end."""

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

    @property
    def waiting_bytes(self) -> int:
        """What has been queued and is not written yet."""
        return self._pending_bytes + self._collected_bytes

    def _flush(self) -> None:
        # As a whole: `close` may be called from another thread, and what one takes the other must not take or miss.
        with self._lock:
            self._scheduled = False
            if not self._lines:
                return
            batch = b"".join(self._lines)
            self._lines.clear()
            self._collected_bytes = 0
            self._pending_bytes += len(batch)
            if self._thread is None:
                thread = threading.Thread(target=self._drain, name="gateway-log", daemon=True)
                thread.start()
                self._thread = thread
            self._batches.put(batch)

    def _drain(self) -> None:
        while (batch := self._batches.get()) is not None:
            for portion in whole_lines.portions(batch):
                self._write_portion(portion)
            with self._lock:
                self._pending_bytes -= len(batch)

    def _write_portion(self, portion: memoryview) -> None:
        begun = memoryview(b"\n" + portion) if self._was_full else portion
        try:
            whole_lines.write(self._descriptor, begun)
        except whole_lines.NotWritten as failed:
            # Nobody reads any more, or the disk is full: the lines are lost, the gateway goes on.
            self._was_full = failed.errno != errno.EPIPE
            self._dropped(min(bytes(lines).count(b"\n") for lines in (portion, failed.rest)))
        else:
            self._was_full = False

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Write what is pending, waiting for a slow reader at most `timeout_seconds`."""
        self._flush()
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join(timeout_seconds)
            self._thread = None


FIELDS = {
    "time": "When the request's first byte could have been read, in UTC.",
    "request_id": "The exchange's id, which the client has as `x-gateway-request-id`.",
    "upstream_request_id": "The upstream's `x-request-id`.",
    "tenant": "Who pays, once the credential has verified.",
    "subject": "Who calls, in the same way; left out where the tenant's `logging` is `minimal`.",
    "method": "As it was sent.",
    "operation": "Its id, as in the metrics.",
    "model": "Where it is known; left out where the tenant's `logging` is `minimal`.",
    "status": "What went to the client; null where nothing did.",
    "ending": "How the exchange ended, as in the metrics.",
    "duration_ms": "From the request's first byte to the last of the answer.",
    "first_byte_ms": "From the request's first byte to that of the answer's body.",
    "upstream_ms": "The upstream's part, connecting included; null where it was not asked.",
    "overhead_ms": "What the gateway itself added before it asked the upstream, or in all where it did not.",
    "waited_ms": "The part of it that was spent waiting for a connection to come free; only where there was any.",
    "bytes_in": "Body bytes that went up.",
    "bytes_out": "Body bytes that went down.",
    "worker": "Which worker it was, from 0 on; its successor after a restart has the same number.",
    "usage_known": "`reported`, `estimated` or `unreported`, as in the metrics; only where something was used.",
    "usage": "What was used, by kind as in the metrics and with its `total`; the `tier` where the answer names one; "
    "`estimated` where nobody reported it.",
    "reserved": "LLM tokens that were reserved for it, of the limit that took most; only where one counts them.",
    "object": "The id of what it made, or worked on, where that says later what it used.",
    "object_usage": "What the answer said of objects that were made before, by their ids: counted once, for who made "
    "each, and no part of what this exchange used.",
    "error": "The code of the gateway's own error; only where there was one.",
    "detail": "Its cause, or why a session ended, which the client is not told; only where there is one.",
}
"""What a line says: every field, in their order, with its meaning for who reads it."""

_RARE = frozenset(
    {"waited_ms", "usage_known", "usage", "reserved", "object", "object_usage", "error", "detail"}
)
"""Those that are not in every line."""


def access_record(exchange: Exchange, times: Times, *, worker: int = 0) -> dict[str, Any]:
    """What is logged of an exchange; durations in milliseconds, sizes in body bytes."""
    standing = exchange.standing
    way = exchange.method, exchange.model, exchange.status, exchange.ending
    alike = None if standing is None else standing.lines.get(way)
    if alike is None:
        alike = _alike(exchange, worker)
        if standing is not None:
            standing.keep_line(way, alike)
    record = alike.copy()
    microseconds = round(exchange.started_time * 1_000_000)
    record["time"] = f"{_second(microseconds // 1_000_000)}.{microseconds % 1_000_000:06}Z"
    record["request_id"] = exchange.id
    record["upstream_request_id"] = _short(exchange.upstream_request_id)
    whole, first_byte, upstream, overhead = times
    # In milliseconds, to the microsecond; `round` to so many digits takes four times as long.
    record["duration_ms"] = int(whole * 1_000_000 + 0.5) / 1000
    if first_byte is not None:
        record["first_byte_ms"] = int(first_byte * 1_000_000 + 0.5) / 1000
    if upstream is not None:
        record["upstream_ms"] = int(upstream * 1_000_000 + 0.5) / 1000
    record["overhead_ms"] = int(overhead * 1_000_000 + 0.5) / 1000
    record["bytes_in"] = exchange.bytes_in
    record["bytes_out"] = exchange.bytes_out
    if exchange.waited_seconds:
        record["waited_ms"] = int(exchange.waited_seconds * 1_000_000 + 0.5) / 1000
    if exchange.known is not None:
        record["usage_known"] = exchange.known
    if exchange.usage is not None:
        record["usage"] = exchange.usage.amounts()
    if exchange.reserved is not None:
        record["reserved"] = exchange.reserved
    if exchange.made is not None:
        record["object"] = _short(_cut(exchange.made, _ID_LIMIT))
    if exchange.shown:
        record["object_usage"] = {
            _short(_cut(one.id, _ID_LIMIT)): one.usage.amounts() for one in exchange.shown
        }
    error = exchange.error
    if error is not None:
        record["error"] = error.code
    detail = exchange.detail if error is None else error.detail
    if detail:
        record["detail"] = _short(detail)
    return record


def _alike(exchange: Exchange, worker: int) -> dict[str, Any]:
    """A line in which there stands what exchanges of one standing have alike that went and ended alike."""
    principal, tenant = exchange.caller.principal, exchange.caller.tenant
    said = {
        "tenant": principal.tenant or None,
        "subject": principal.subject or None,
        "method": exchange.method[:32],
        "operation": exchange.operation.id,
        "model": _short(exchange.model),
        "status": exchange.status,
        "ending": exchange.ending,
        "worker": worker,
    }
    hidden = {"subject", "model"} if tenant.settings.logging == "minimal" else ()
    return {name: said.get(name) for name in FIELDS if name not in hidden and name not in _RARE}


def encode(record: dict[str, Any]) -> bytes:
    """One line, short enough to arrive whole; control characters are escaped, so nothing can forge a second one."""
    bytes(ROOM_BYTES)  # raises MemoryError
    line = orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE, default=str)
    if len(line) <= whole_lines.MOST_BYTES:
        return line
    for limit in _SHORTER_LIMITS:
        shorter = {name: _cut(value, limit) for name, value in record.items()}
        line = orjson.dumps(shorter, option=orjson.OPT_APPEND_NEWLINE, default=str)
        if len(line) <= whole_lines.MOST_BYTES:
            return line
    if "object_usage" in record:
        return encode({name: value for name, value in record.items() if name != "object_usage"})
    return line


def _cut(value: Any, limit: int) -> Any:
    return value[:limit] + "…" if isinstance(value, str) and len(value) > limit else value


@lru_cache(maxsize=16)
def _second(unix_seconds: int) -> str:
    return datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _short(text: str | None) -> str | None:
    """A text of somebody else's, cut, and without characters that a terminal or a viewer would act upon."""
    if text is None:
        return None
    text = _cut(text, _TEXT_LIMIT)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text)
