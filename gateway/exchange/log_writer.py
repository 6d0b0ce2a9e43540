"""Writes lines off the hot path, in batches.

Lines are collected and written by a thread of their own: a slow or blocked reader never delays an exchange; when it
falls too far behind, lines are dropped and counted. Every line arrives whole, though several workers write to one
standard output; where a disk gets full in the middle of one, the next stands behind a line end of its own.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import NamedTuple

from gateway.exchange import whole_lines

FLUSH_SECONDS = 0.05


class _Batch(NamedTuple):
    lines: bytes
    kept: frozenset[bytes]


class LogWriter:
    """Writes lines to a file descriptor in batches.

    At most `max_pending_bytes` wait; what exceeds that is dropped, and `dropped` told how many lines. Of lines that are
    to be kept as many more may wait, and what exceeds that goes to `instead`, as they do where they cannot be written,
    or are not until the end.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        dropped: Callable[[int], None],
        max_pending_bytes: int = 8 * 2**20,
        instead: LogWriter | None = None,
    ) -> None:
        self._descriptor = descriptor
        self._instead = instead
        self._dropped = dropped
        self._max_pending_bytes = max_pending_bytes
        self._lines: list[bytes] = []
        self._kept: list[bytes] = []
        """Those of them that are to be kept."""

        self._collected_bytes = 0
        self._pending_bytes = 0
        self._scheduled = False
        self._was_full = False
        """Whether there may stand half a line, of this process or another: the next line begins behind its end."""

        self._batches: SimpleQueue[_Batch | None] = SimpleQueue()
        self._at_work: _Batch | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def write(self, line: bytes, *, is_kept: bool = False) -> None:
        """Queue one complete line; called on the event loop's thread. `is_kept`: also where others are dropped."""
        collected_bytes = self._collected_bytes + len(line)
        if self._pending_bytes + collected_bytes > self._max_pending_bytes:
            if not is_kept:
                self._dropped(1)
                return
            if self._pending_bytes + collected_bytes > 2 * self._max_pending_bytes:
                if self._instead is None:
                    self._dropped(1)
                else:
                    self._instead.write(line)
                return
        self._collected_bytes = collected_bytes
        self._lines.append(line)
        if is_kept:
            self._kept.append(line)
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
            batch = _Batch(b"".join(self._lines), frozenset(self._kept))
            self._lines.clear()
            self._kept.clear()
            self._collected_bytes = 0
            self._put(batch)

    def _put(self, batch: _Batch) -> None:
        self._pending_bytes += len(batch.lines)
        if self._thread is None:
            thread = threading.Thread(target=self._drain, name="gateway-log", daemon=True)
            thread.start()
            self._thread = thread
        self._batches.put(batch)

    def _drain(self) -> None:
        while (batch := self._batches.get()) is not None:
            self._at_work = batch
            for portion in whole_lines.portions(batch.lines):
                self._write_portion(portion, batch.kept)
            self._at_work = None
            with self._lock:
                self._pending_bytes -= len(batch.lines)

    def _write_portion(self, portion: memoryview, kept: frozenset[bytes]) -> None:
        begun = memoryview(b"\n" + portion) if self._was_full else portion
        try:
            whole_lines.write(self._descriptor, begun)
        except whole_lines.NotWritten as failed:
            # Nobody reads any more, or the disk is full: the lines are lost, the gateway goes on.
            self._was_full = failed.errno != errno.EPIPE
            there = bytes(portion).splitlines(keepends=True) if kept else []
            turned_over = self._turn_over([line for line in there if line in kept])
            lost = min(bytes(lines).count(b"\n") for lines in (portion, failed.rest))
            self._dropped(max(lost - turned_over, 0))
        else:
            self._was_full = False

    def _turn_over(self, lines: Sequence[bytes]) -> int:
        """Have what is kept written elsewhere, some of it perhaps a second time; how many lines."""
        if not lines or self._instead is None:
            return 0
        with self._instead._lock:
            self._instead._put(_Batch(b"".join(lines), frozenset()))
        return len(lines)

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Write what is pending, waiting for a slow reader at most `timeout_seconds`."""
        self._flush()
        if self._thread is not None:
            self._batches.put(None)
            self._thread.join(timeout_seconds)
            if self._thread.is_alive():
                self._turn_over(self._left())
            self._thread = None
        if self._instead is not None:
            self._instead.close(timeout_seconds)

    def _left(self) -> list[bytes]:
        """Lines that are to be kept, and that nobody has read yet."""
        at_work = self._at_work
        left = [] if at_work is None else list(at_work.kept)
        while not self._batches.empty():
            batch = self._batches.get_nowait()
            left += [] if batch is None else batch.kept
        self._batches.put(None)  # whoever hangs ends when somebody reads after all
        return left
