"""What the gateway says itself in one direction of a WebSocket, between the frames of the peer. Pure."""

from __future__ import annotations

from gateway.wire.frame_format import build_ping, is_close

_MOST_WAITING = 64


class OwnFrames:
    """Frames and messages of ours that wait for their turn. Nothing ever follows a close frame."""

    __slots__ = ("_frames", "_masked", "_messages", "_pings_sent", "_prefix", "silent")

    def __init__(self, prefix: bytes, *, masked: bool) -> None:
        """`prefix` is what our pings begin with."""
        self._prefix = prefix
        self._masked = masked
        self._frames: list[bytes] = []
        self._messages: list[bytes] = []
        self._pings_sent = 0
        self.silent = False
        """A close frame of ours has gone."""

    @property
    def wait(self) -> bool:
        """Whether frames do that go at the end of the peer's."""
        return bool(self._frames)

    @property
    def messages_wait(self) -> bool:
        """Whether messages do that go at the end of the peer's."""
        return bool(self._messages)

    def frame(self, frame: bytes, *, now: bool) -> bytes:
        """A whole control frame; it is returned if it may go `now`, and waits else."""
        if self.silent:
            return b""
        if now:
            self.silent = is_close(frame)
            return frame
        self._frames.append(frame)
        return b""

    def message(self, frame: bytes, *, now: bool) -> bytes:
        """A whole message in one frame, likewise; only a few wait."""
        if self.silent or now:
            return b"" if self.silent else frame
        if len(self._messages) < _MOST_WAITING:
            self._messages.append(frame)
        return b""

    def next_ping(self) -> bytes:
        """A ping that no other is like."""
        self._pings_sent += 1
        return build_ping(self._prefix + self._pings_sent.to_bytes(4, "big"), masked=self._masked)

    def due(self, *, between_messages: bool) -> list[bytes]:
        """What goes now that a frame of the peer's has ended, and no message of its is under way."""
        due: list[bytes] = []
        for waiting in (self._frames, self._messages if between_messages else []):
            for frame in waiting:
                if not self.silent:
                    due.append(frame)
                    self.silent = is_close(frame)
            waiting.clear()
        return due
