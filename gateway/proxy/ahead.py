"""What a client sends ahead, while another request of its own is being answered, does not lie here without end.

Connections would otherwise hold a quarter of a megabyte each for as long as an answer takes, and nobody counts it.
"""

from __future__ import annotations

import weakref

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler

from gateway.proxy.bites import InBites

AHEAD_BYTES = 64 * 1024
AHEAD_SECONDS = 1.0
"""For how long more than that may lie here: until then the answer may just be ending."""


class Ahead(InBites, RequestHandler):
    """A client's connection that reads no more ahead than it keeps: what exceeds that ends it, behind the answer."""

    def pause_reading(self) -> None:
        """A body has filled its buffer."""
        super().pause_reading()
        self._watch()

    def _pause_reading_for_buffer(self) -> None:
        super()._pause_reading_for_buffer()
        self._watch()

    def _watch(self) -> None:
        request = self._current_request
        if request is not None and self._messages:
            self._loop.call_later(AHEAD_SECONDS, self._drop, weakref.ref(request))

    def _drop(self, answered: weakref.ref[web.BaseRequest]) -> None:
        if self._close or self._force_close or answered() is not self._current_request:
            return
        bodies = [payload for _, payload in self._messages if payload is not EMPTY_PAYLOAD]
        if self.surplus_bytes + sum(payload._size for payload in bodies) <= AHEAD_BYTES:
            return
        self.close()
        self._messages.clear()
        for payload in bodies:
            payload.read_nowait(-1)
        self._resume_transport_reading()  # what still comes is dropped; that the client leaves is noticed
