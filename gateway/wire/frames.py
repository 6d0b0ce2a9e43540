"""WebSocket frames (RFC 6455), judged while they are relayed: what passes, passes unchanged.

One `FrameRelay` stands in each direction of a connection. Payload bytes pass as they come, in any pieces;
only what must be judged first is kept back: a frame's head until it is whole (14 bytes at most) and a
control frame until it is whole (139 bytes at most). Text that is no UTF-8 passes no further than to the piece
in which that shows.

The gateway speaks on the connection too. Its pings carry a random prefix, by which the relay of the other
direction knows the pongs that answer them and keeps them from the peer that never asked.
"""

from collections.abc import Callable

from gateway.wire.frame_format import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PONG,
    TEXT,
    FrameHead,
    FrameRefused,
    Later,
    Verdict,
    read_close,
    read_head,
    unmask,
)
from gateway.wire.own_frames import OwnFrames
from gateway.wire.text_frames import TextFollower, is_utf8

_SCAN_OVERLAP_BYTES = 64

_WHOLE_TEXT = 0x80 | TEXT
_WHOLE_MESSAGES = frozenset({_WHOLE_TEXT, 0x80 | BINARY})
_SHORTEST_BYTES, _LONGEST_BYTES = 8, 0xFFFF
"""Whatever is shorter is not worth a way of its own, or longer."""


class FrameRelay:
    """Decides, for one direction of a connection, which bytes pass. Memory is bounded by its arguments.

    `watch_bytes`: complete messages up to this size are kept for `take_texts` until they have passed; larger ones are
    skipped, and so is one that is to be overlooked.
    `examine`: called with every complete data message (binary too: an upstream may read JSON out of either)
    before any of it passes, but for those that come whole and of which `plain`, given payload and mask, says that
    they are UTF-8 and need not be seen; says whether it does. After LATER the message is `examined`, nothing more
    passes, and whoever feeds stops until he has called `decide`. It may be asked twice about one message. A message of
    more than `examine_bytes` cannot wait: it is refused with 1009, or, when `suspicious` is given, passes as it comes
    and is refused before its end if that finds something (of at most 64 bytes) in any part of it; only the
    first part, which is what has been kept, may be `examined` LATER.
    """

    def __init__(
        self,
        *,
        from_client: bool,
        max_message_bytes: int = 16 * 2**20,
        own_prefix: bytes = b"",
        watch_bytes: int = 0,
        examine: Callable[[bytes], Verdict] | None = None,
        examine_bytes: int = 2**20,
        plain: Callable[[bytes, bytes], bool] = lambda _payload, _mask: False,
        suspicious: Callable[[bytes], bool | Later] | None = None,
    ) -> None:
        self.messages = 0
        """Complete data messages seen."""
        self.passed_bytes = 0
        """Bytes of the peer's own frames that passed; ours are not counted."""
        self.own_pongs = 0
        """Answers to our pings, swallowed."""
        self.close_code: int | None = None
        """The code of the close frame that was seen, `NO_CODE` when it had none, None before."""
        self.close_reason = ""
        self.examined: bytes | None = None
        """A message on which no verdict has been given yet, or the first part of one."""
        self.examined_whole = True

        self._from_client = from_client
        self._max_message_bytes = max_message_bytes
        self._own_prefix = own_prefix
        self._watch_bytes = watch_bytes
        self._examine = examine
        self._examine_bytes = examine_bytes
        self._plain = plain
        self._suspicious = suspicious

        self._pending = b""
        self._remaining = 0
        self._final = True
        self._mask = b""
        self._in_message = False
        self._message_bytes = 0
        # The payload of the message under way, unmasked, when somebody wants to see it.
        self._kept: bytearray | None = None
        # The frames of a message under way that wait for a verdict.
        self._held: bytearray | None = None
        # The last bytes of a message that was too large to wait and is searched as it passes.
        self._scanned: bytes | None = None
        self._texts: list[bytes] = []
        # Follows the text of a message under way; None where it is none.
        self._follower: TextFollower | None = None
        self._own = OwnFrames(own_prefix, masked=from_client)
        self._refused = False
        self.calm = True
        """Nothing is kept, nothing is under way, and nothing ends: the next byte begins a message."""

    @property
    def kept_bytes(self) -> int:
        """How much lies here of a message that must be seen whole."""
        return sum(len(kept) for kept in (self._kept, self._held, self.examined, self._pending) if kept)

    @property
    def at_boundary(self) -> bool:
        """Whether what has passed so far ends with a whole frame, so that a frame of ours may follow."""
        return not self._remaining or self._held is not None

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the peer; return what may be passed on now, frames of ours included.

        Raises FrameRefused. After that, and after a close frame, whatever comes is dropped, as the RFC wants.
        """
        if self.calm and self._is_whole_message(data):
            return data
        if self._refused or self.close_code is not None:
            return b""
        if self.examined is not None:
            self._pending += data
            return b""
        return self._go_on(data, [])

    def _is_whole_message(self, data: bytes) -> bool:
        """Whether this is the usual piece: one whole message in one frame, in which nobody finds anything."""
        size = len(data)
        if size < _SHORTEST_BYTES or data[0] not in _WHOLE_MESSAGES:
            return False
        length, begin = data[1], 2
        if self._from_client:
            length ^= 0x80  # frames of clients are masked
            begin = 6
        if length == 126:
            length = data[2] << 8 | data[3]
            begin += 2
            if length < 126:
                return False
        if size != begin + length or length > self._max_message_bytes or length > _LONGEST_BYTES:
            return False
        payload, mask = data[begin:], data[begin - 4 : begin] if self._from_client else b""
        if self._examine is not None:
            # What it has to say of one that may not pass is asked for again where that is acted upon.
            if not self._plain(payload, mask):
                if size > self._examine_bytes:
                    return False
                payload, mask = unmask(payload, mask), b""
                if (data[0] == _WHOLE_TEXT and not is_utf8(payload)) or self._examine(payload) is not None:
                    return False
                if length <= self._watch_bytes:
                    self._texts.append(payload)
        elif (
            not (payload.isascii() and not mask)  # most are, and a call costs more than to see it
            and data[0] == _WHOLE_TEXT
            and not is_utf8(payload, mask)
        ):
            return False
        elif length <= self._watch_bytes:
            self._texts.append(unmask(payload, mask))
        self.messages += 1
        self.passed_bytes += size
        return True

    def decide(self, refusal: FrameRefused | None, *, instead: bytes | None = None) -> bytes:
        """Give the verdict on what was `examined`; return what may be passed on now. Raises as `feed` does.

        `instead`: this goes in place of a whole message, such as nothing; what stands behind it does as it came.
        """
        held, self._held = bytes(self._held or b""), None
        examined, self.examined = self.examined, None
        self.calm = False
        if refusal is not None:
            self._refused = True
            raise refusal
        if self._watch_bytes and examined is not None and instead is None:
            self._texts.append(examined)
        passed: list[bytes] = []
        self._pass(held if instead is None else instead, passed)
        return self._go_on(b"", passed)

    def overlook(self) -> bytes:
        """Keep nothing of the message under way, be it for `take_texts` or until it has been examined: there is no
        room. Returns what was held of it; one that is `examined` stays, for it grows no more."""
        passed: list[bytes] = []
        if self.examined is None:
            held, self._held, self._kept = bytes(self._held or b""), None, None
            self._pass(held, passed)
        return b"".join(passed)

    def give_up(self) -> None:
        """Pass nothing more, and let go of what was kept."""
        self._refused = True
        self.calm = False
        self._kept = self._held = self.examined = None
        self._pending = b""

    def _go_on(self, data: bytes, passed: list[bytes]) -> bytes:
        self.calm = False
        if self._pending:
            data, self._pending = self._pending + data, b""
        try:
            self._advance(data, passed)
        except FrameRefused as refused:
            self._refused = True
            refused.passed = b"".join(passed)
            raise
        self.calm = (
            not (self._pending or self._remaining or self._in_message or self._own.wait or self._own.silent)
            and self.examined is None
            and self.close_code is None
        )
        return passed[0] if len(passed) == 1 else b"".join(passed)

    def take_texts(self) -> list[bytes]:
        """The messages completed since the last call, unmasked, oldest first; binary ones too: they may be events."""
        texts, self._texts = self._texts, []
        return texts

    def insert(self, frame: bytes) -> bytes:
        """Put a whole control frame of ours between the peer's frames; return what to write now.

        Nothing is returned while the peer is in the middle of a frame: the next `feed` that reaches a
        boundary returns it. Nothing ever follows a close frame, ours or the peer's.
        """
        if self.close_code is not None:
            return b""
        sent = self._own.frame(frame, now=self.at_boundary)
        self.calm = self.calm and not self._own.silent
        return sent

    def insert_message(self, frame: bytes) -> bytes:
        """Put a whole message of ours, in one frame, between the peer's messages; else as `insert` does it.

        While one of the peer's is under way only a few of ours wait.
        """
        if self.close_code is not None:
            return b""
        return self._own.message(
            frame, now=self._held is not None or not (self._remaining or self._in_message)
        )

    def ping(self) -> bytes:
        """Ask the receiving peer for a sign of life, like `insert`; at most one ping waits for a boundary."""
        return b"" if self._own.wait else self.insert(self._own.next_ping())

    def _advance(self, data: bytes, passed: list[bytes]) -> None:
        position = 0
        while position < len(data):
            start = position
            if not self._remaining:
                head = read_head(data, position, masked=self._from_client, within=self._in_message)
                if head is None:
                    self._pending = data[start:]
                    return
                position = head.payload_at
                if head.opcode >= CLOSE:
                    end = position + head.payload_bytes
                    if end > len(data):
                        self._pending = data[start:]
                        return
                    if self._control(head.opcode, unmask(data[position:end], head.mask)):
                        self._pass(data[start:end], passed)
                    if self.close_code is not None:
                        return
                    position = end
                    continue
                self._begin_frame(head)
                if self._held is not None and head.final and head.opcode != CONTINUATION:
                    whole = data[position : position + head.payload_bytes]
                    if len(whole) == head.payload_bytes and self._plain(whole, head.mask):
                        self._kept = self._held = self._follower = None
            end = min(len(data), position + self._remaining)
            self._data(data[start:end], position - start, passed)
            position = end
            if self.examined is not None:
                self._pending = data[position:]
                return

    def _control(self, opcode: int, payload: bytes) -> bool:
        """Act on a whole control frame; tell whether it passes."""
        if opcode == CLOSE:
            self.close_code, self.close_reason = read_close(payload)
        elif opcode == PONG and self._is_own(payload):
            self.own_pongs += 1
            return False
        return True

    def _is_own(self, payload: bytes) -> bool:
        prefix = self._own_prefix
        return bool(prefix) and len(payload) == len(prefix) + 4 and payload.startswith(prefix)

    def _begin_frame(self, head: FrameHead) -> None:
        size = head.payload_bytes if head.opcode != CONTINUATION else self._message_bytes + head.payload_bytes
        if size > self._max_message_bytes:
            raise FrameRefused(1009, f"a message is longer than {self._max_message_bytes} bytes")
        if head.opcode != CONTINUATION:
            self._kept = bytearray() if self._watch_bytes or self._examine else None
            self._held = bytearray() if self._examine else None
            self._scanned = None
            self._follower = TextFollower() if head.opcode == TEXT else None
        self._in_message = True
        self._message_bytes = size
        self._remaining = head.payload_bytes
        self._mask = head.mask
        self._final = head.final

    def _data(self, frame_bytes: bytes, head_bytes: int, passed: list[bytes]) -> None:
        """Take bytes of one data frame: its head, if it is in this piece, and payload up to its end."""
        payload_bytes, remaining = len(frame_bytes) - head_bytes, self._remaining
        if self._kept is not None or self._scanned is not None or self._follower is not None:
            payload = unmask(frame_bytes[head_bytes:], self._mask)
            if self._mask:
                turn = payload_bytes % 4
                self._mask = self._mask[turn:] + self._mask[:turn]
            if self._follower is not None:
                is_last = self._final and payload_bytes == remaining
                if head_bytes:
                    self._remaining = 0  # should it be refused now, nothing of the frame has passed
                self._follower.feed(payload, is_last=is_last)
            self._look(payload, len(frame_bytes), passed)
        if self._held is not None:
            self._held += frame_bytes
        else:
            self._pass(frame_bytes, passed)
        self._remaining = remaining - payload_bytes
        if self._remaining:
            return
        if self._final:
            self._end_message(passed)
        if self._own.wait or (self._own.messages_wait and not self._in_message):
            passed.extend(self._own.due(between_messages=not self._in_message))

    def _look(self, payload: bytes, raw_bytes: int, passed: list[bytes]) -> None:
        """Keep payload for whoever wants the whole message, or search it when that has become too large."""
        if self._kept is not None:
            if self._held is None:
                fits = len(self._kept) + len(payload) <= self._watch_bytes
            else:
                # The frames count, not the payload: a million empty fragments fill memory as well.
                fits = len(self._held) + raw_bytes <= self._examine_bytes
            if fits:
                self._kept += payload
                return
            kept, self._kept = bytes(self._kept), None
            if self._held is None:
                return
            if self._suspicious is None:
                raise FrameRefused(1009, "a message is too large to be examined")
            self._scanned = kept
        if self._scanned is not None and self._suspicious is not None:
            searched = self._scanned + payload
            self._scanned = searched[-_SCAN_OVERLAP_BYTES:]
            match self._suspicious(searched):
                case Later.LATER if self._held is not None:
                    self.examined, self.examined_whole = searched, False
                    return
                case True | Later.LATER:
                    raise FrameRefused(1008, "a message of this kind is too large to be examined")
                case False:
                    pass
        if self._held is not None:
            held, self._held = bytes(self._held), None
            self._pass(held, passed)

    def _end_message(self, passed: list[bytes]) -> None:
        self._in_message = False
        self._follower = None
        self.messages += 1
        kept, self._kept = self._kept, None
        self._scanned = None
        if self.examined is not None:
            return
        held, self._held = self._held, None
        if kept is None:
            return
        message = bytes(kept)
        if held is None or self._examine is None:
            self._texts.append(message)
            return
        verdict = self._examine(message)
        if verdict is Later.LATER:
            self._held, self.examined, self.examined_whole = held, message, True
            return
        if verdict is not None:
            raise FrameRefused(1008, verdict)
        if self._watch_bytes:
            self._texts.append(message)
        self._pass(bytes(held), passed)

    def _pass(self, frame_bytes: bytes, passed: list[bytes]) -> None:
        if self._own.silent or not frame_bytes:
            return
        self.passed_bytes += len(frame_bytes)
        passed.append(frame_bytes)
