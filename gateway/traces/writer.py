"""The way of spans to a collector: collected on the loop's thread, sent in batches by a thread of their own.

A collector that is slow or away delays nobody: what exceeds the bound, or cannot be sent, is lost and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Protocol

from gateway.traces.said import Said

_log = logging.getLogger("gateway.traces")

MOST_WAITING = 4096
"""Spans; some kilobytes each."""

_BATCH = 512
_SECONDS = 1.0
"""How long a span waits for others at most."""

_AWAY_SECONDS = 5.0
"""How long a collector that could not be reached is left alone."""


class Export(Protocol):
    """What takes spans."""

    def __call__(self, spans: Sequence[Said], /) -> str | None:
        """Send them; what went wrong, or None. Called on one thread alone."""


class SpanWriter:
    """Hands spans to what sends them. `lost` is told how many never arrived."""

    def __init__(
        self, export: Export, *, lost: Callable[[int], None], shut: Callable[[], None] = lambda: None
    ) -> None:
        """`shut` has an `export` that goes on return soon; called on any thread."""
        self._export = export
        self._lost = lost
        self._shut = shut
        self._waiting: deque[Said] = deque()
        self._wake = threading.Event()
        self._closing = False
        self._closed_by = 0.0
        self._thread: threading.Thread | None = None
        self._is_away = False

    def write(self, span: Said) -> None:
        """Take one; called on the event loop's thread."""
        waiting = self._waiting
        if self._closing or len(waiting) >= MOST_WAITING:
            self._lost(1)
            return
        waiting.append(span)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="gateway-traces", daemon=True)
            self._thread.start()
        elif len(waiting) == _BATCH:
            self._wake.set()

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(_AWAY_SECONDS if self._is_away else _SECONDS)
            if not self._closing:
                self._wake.clear()
            self._send_waiting()

    def _send_waiting(self) -> None:
        waiting = self._waiting
        while waiting and not (self._closing and monotonic() > self._closed_by):
            batch = [waiting.popleft() for _ in range(min(len(waiting), _BATCH))]
            try:
                problem = self._export(batch)
            except Exception as failed:  # noqa: BLE001 (whatever becomes of spans, the gateway goes on)
                problem = f"{type(failed).__name__}: {failed}"
            if problem is not None:
                self._lost(len(batch))
            self._tell(problem)
            if problem is not None and not self._closing:
                return

    def _tell(self, problem: str | None) -> None:
        """Say once that spans do not arrive, and once that they do again."""
        if problem is not None and not self._is_away:
            _log.warning("spans cannot be sent, and are lost (gateway_spans_lost_total): %s", problem)
        elif problem is None and self._is_away:
            _log.warning("spans are sent again")
        self._is_away = problem is not None

    def close(self, timeout_seconds: float = 2.0) -> None:
        """Send what waits, for at most `timeout_seconds`; what is left then is lost."""
        self._closed_by = monotonic() + timeout_seconds
        self._closing = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        self._shut()
        if self._thread is not None:
            self._thread.join(0.1)
        left, self._waiting = len(self._waiting), deque()
        if left:
            self._lost(left)
