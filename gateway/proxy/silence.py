"""Comments in a stream of events that is silent, for load balancers that cut what is: rewrite (h), off by default."""

from __future__ import annotations

from gateway.proxy.answer_sink import AnswerSink
from gateway.proxy.channel import Channel
from gateway.proxy.reply import Reply

_COMMENT = b":\n"
"""No blank line follows: to some clients that would be an event, and an empty one."""


class Comments:
    """Sends a comment into one answer after so much silence, again and again, between two events alone."""

    __slots__ = ("_client", "_reply", "_said_at", "_seconds", "_sink", "due_step")

    def __init__(self, sink: AnswerSink, *, reply: Reply, client: Channel, seconds: float) -> None:
        """`sink` gets what comes from `reply`, and sends it to `client`."""
        self.due_step: int | None = None
        self._sink = sink
        self._reply = reply
        self._client = client
        self._seconds = seconds
        self._said_at = 0.0

    @property
    def due_at(self) -> float:
        """When the silence has been long enough, as far as is known."""
        return max(self._reply.taken_at, self._said_at) + self._seconds

    def due(self, now: float) -> float:
        """Break a silence that is the upstream's own."""
        if self.due_at > now:
            return self.due_at
        reply = self._reply
        if self._sink.between_events and not (reply.held or reply.surplus or self._client.writing_paused):
            self._sink.comment(_COMMENT)
        self._said_at = now
        return self.due_at
