"""A multipart/form-data body watched while it streams by: small fields are read, files are not kept.

Policy must see `model`, and clients (curl among them) may send it behind the file. So the body flows on as
it comes, but for three things that wait:

- what may be the beginning of a delimiter, until the next bytes tell;
- a part's head until it is whole, and a field that policy reads, head and all, until its end has been seen: whoever
  raises upon what it says has let nothing of it pass;
- the last bytes of all, the closing delimiter if there is one, until `finish`. Who refuses the request never calls
  that, and the upstream is left with a body that visibly has no end, even if it would take one without a delimiter.

The upstream's parser is unknown, and a body that two parsers read differently could show policy one model
and the upstream another. Hence strictness wherever parsers are known to differ:

- what stands in front of the first delimiter and behind the closing one is short and could be no part, and line ends
  are CRLF;
- the boundary's spelling occurs in delimiters only: not behind a bare LF, not with anything behind it;
- every part has one Content-Disposition `form-data` with exactly one `name`, quoted or bare, without
  backslashes, never as `name*` or as an RFC 2047 word; a file's name whose end is in doubt stands behind it, and has
  nothing in it that could be taken for another, and nothing in front of a name could be taken for it;
- no part has parts of its own;
- no Content-Transfer-Encoding that changes bytes, no `_charset_`;
- a field that policy reads occurs once, but for those of which it wants every one, has no filename (a file to some, a
  field to others), no charset in which the letters of a model's name are other bytes, and is not larger than
  `max_field_bytes`; nor is a part of its name a file by a filename alone that is encoded, empty or in doubt.

Sources: RFC 7578 (form-data), RFC 2046 §5.1 (delimiters).
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum, auto
from typing import assert_never

from gateway.wire.part_heads import MultipartRefused, Part, read_part_head
from gateway.wire.search import Piece, occurs

MAX_FIELD_BYTES = 64 * 1024
MAX_HEAD_BYTES = 8 * 1024
MAX_PARTS = 1000
MAX_NAMES_BYTES = 64 * 1024
"""Of the names of all parts, which are kept."""

_MAX_BESIDE_BYTES = 1024
"""In front of the first delimiter, and behind the closing one."""

# One would do: what counts is that a length which was stated is never reached. Fewer than the shortest delimiter has,
# so that no model whose field has passed lacks the end of its name.
_LAST_BYTES = 4
_LARGE_TIMES = 16
"""How many times its boundary a piece is large that is looked at for a boundary first: most are of a file."""


class _State(Enum):
    START = auto()
    HEAD = auto()
    CONTENT = auto()
    EPILOGUE = auto()


@dataclass(frozen=True, slots=True)
class _Wait:
    """More bytes are needed: those from `hold_from` on must wait, those from `keep_from` on are context."""

    keep_from: int
    hold_from: int


class MultipartScanner:
    """Watches one body. Holds a part's head or a delimiter and the fields asked for, never a file."""

    def __init__(
        self,
        boundary: bytes,
        *,
        fields: Collection[str] = ("model",),
        every: Callable[[str, bool], bool] | None = None,
        max_field_bytes: int = MAX_FIELD_BYTES,
        max_parts: int = MAX_PARTS,
    ) -> None:
        self.fields: dict[str, str] = {}
        """The values of the fields asked for; each appears when its part has ended."""

        self.every: list[tuple[str, str]] = []
        """Names and values of all of which `every` says, by name and whether it is a file, that they are read."""
        self.parts: list[Part] = []
        self.closed = False
        """Whether the closing delimiter has been seen, and nothing behind it; it is held back."""

        self._dash_boundary = b"--" + boundary
        self._wanted = frozenset(fields)
        self._every = every
        self._max_field_bytes = max_field_bytes
        self._max_parts = max_parts
        self._state = _State.START
        # The last bytes seen. The first `_passed` of them went on already and stay for their context.
        self._tail = b""
        self._passed = 0
        self._value: bytearray | None = None
        self._closing_bytes = 0
        self._names_bytes = 0
        # What could have gone on and waits: the last bytes, or all of the field under way.
        self._held = bytearray()
        self._field_bytes = 0

    @property
    def held_bytes(self) -> int:
        """How many of the bytes seen wait here."""
        return len(self._held) + len(self._tail) - self._passed

    @property
    def file_bytes(self) -> int:
        """The size of all files so far."""
        return sum(part.size_bytes for part in self.parts if part.is_file)

    def feed(self, piece: Piece) -> tuple[Piece, ...]:
        """Take the next bytes of the body; return those that may go on now, in their order.

        Raises MultipartRefused, after which nothing may go on.
        """
        if (
            self._state is _State.CONTENT
            and self._value is None
            and len(piece) > _LARGE_TIMES * len(self._dash_boundary)
        ):
            going = self._amid_a_file(piece)
            if going:
                return going
        seen = self._tail + piece
        at = 0
        field_at = self._passed
        while True:
            match self._state:
                case _State.START | _State.CONTENT:
                    step = self._find_delimiter(seen, at)
                case _State.HEAD:
                    step = self._read_head(seen, at)
                    field_at = at
                case _State.EPILOGUE:
                    step = self._read_epilogue(seen, at)
                case never:
                    assert_never(never)
            if isinstance(step, _Wait):
                break
            at = step
        held = self._held
        held += seen[self._passed : step.hold_from]
        self._field_bytes = 0 if self._value is None else self._field_bytes + step.hold_from - field_at
        self._tail = seen[step.keep_from :]
        self._passed = step.hold_from - step.keep_from
        end = len(held) - max(0 if self.closed else _LAST_BYTES, self._field_bytes)
        if end <= 0:
            return ()
        first = bytes(held[:end])
        del held[:end]
        return (first,)

    def _amid_a_file(self, piece: Piece) -> tuple[Piece, ...]:
        """What may go on, nothing of the piece copied; nothing, and nothing taken, where a boundary occurs."""
        boundary, tail = self._dash_boundary, self._tail
        if occurs(boundary, piece) or boundary in tail + piece[: len(boundary)]:
            return ()
        size = len(piece)
        last = bytes(piece[-len(boundary) - 2 :])
        last_at = size - len(last)
        begin = last_at + self._maybe_delimiter(last, 0)
        end, keep_at = begin - _LAST_BYTES, begin - len(boundary) + 1
        waited = tail[self._passed :]
        before = bytes(self._held) + waited
        self.parts[-1].size_bytes += len(waited) + begin
        self._held = bytearray(piece[end:begin])
        self._tail = bytes(piece[keep_at:])
        self._passed = begin - keep_at
        going = memoryview(piece)[:end]
        return (before, going) if before else (going,)

    def finish(self) -> bytes:
        """The body has ended and policy is satisfied: return the rest, closing delimiter included.

        Raises MultipartRefused if the body has no end of its own.
        """
        if not self.closed:
            raise MultipartRefused("the body ends before its closing boundary")
        return bytes(self._held) + self._tail[self._passed :]

    def _find_delimiter(self, seen: bytes, at: int) -> int | _Wait:
        """Take content up to the next delimiter; return where the bytes behind it begin."""
        fresh = max(at, self._passed)
        found = seen.find(self._dash_boundary, at)
        if self._state is _State.START:
            begin = 0 if found < 0 else found
            self._check_preamble(seen, found)
        elif found < 0:
            begin = self._maybe_delimiter(seen, fresh)
        else:
            begin = found - 2
            if begin < fresh or seen[begin:found] != b"\r\n":
                raise MultipartRefused("the boundary occurs where no part ends")
        self._take_content(seen, fresh, begin)
        behind = found + len(self._dash_boundary)
        ending = seen[behind : behind + 2] if found >= 0 else b""
        match ending:
            case b"\r\n":
                self._end_part()
                self._state = _State.HEAD
                return behind + 2
            case b"--":
                self._end_part()
                self._state = _State.EPILOGUE
                self._closing_bytes = behind + 2 - begin
                self.closed = True
                return behind + 2
            case b"" | b"\r" | b"-":
                if self._state is _State.START:
                    return _Wait(keep_from=0, hold_from=0)
                # As much context as a boundary that began before `begin` and ends behind it would need.
                return _Wait(keep_from=max(0, begin - len(self._dash_boundary) + 1), hold_from=begin)
            case _:
                raise MultipartRefused("a boundary is followed by something else than its line end")

    def _check_preamble(self, seen: bytes, found: int) -> None:
        """Refuse what stands in front of the first delimiter, and could be more than that."""
        if found == 0 or (found < 0 and len(seen) <= _MAX_BESIDE_BYTES):
            return
        preamble = seen[: max(0, found)]
        if not preamble.endswith(b"\r\n") or b":" in preamble or len(preamble) > _MAX_BESIDE_BYTES:
            raise MultipartRefused("the body does not begin with its boundary")

    def _maybe_delimiter(self, seen: bytes, fresh: int) -> int:
        """Where a delimiter begins that may be complete with the next bytes; the end if there is none."""
        # Boundaries hold no CR, so only the last one can begin an unfinished delimiter.
        last = seen.rfind(b"\r", max(fresh, len(seen) - len(self._dash_boundary) - 2))
        unfinished = last >= 0 and (b"\r\n" + self._dash_boundary).startswith(seen[last:])
        return last if unfinished else len(seen)

    def _read_head(self, seen: bytes, at: int) -> int | _Wait:
        """Begin the part whose head is complete; return where its content begins."""
        end = seen.find(b"\r\n\r\n", at)
        if (end if end >= 0 else len(seen) - 3) - at > MAX_HEAD_BYTES:
            raise MultipartRefused(f"a part's head is longer than {MAX_HEAD_BYTES} bytes")
        if end < 0:
            return _Wait(keep_from=at, hold_from=at)
        if len(self.parts) == self._max_parts:
            raise MultipartRefused(f"the body has more than {self._max_parts} parts")
        head = seen[at:end]
        if self._dash_boundary in head:
            raise MultipartRefused("the boundary occurs in a part's head")
        part = read_part_head(head, self._wants)
        self._names_bytes += len(part.name.encode())
        if self._names_bytes > MAX_NAMES_BYTES:
            raise MultipartRefused(f"the names of the parts have more than {MAX_NAMES_BYTES} bytes")
        self._field_bytes = 0
        if part.name in self._wanted:
            if any(part.name == earlier.name for earlier in self.parts):
                raise MultipartRefused("the field occurs twice", param=part.name)
            self._value = bytearray()
        elif self._wants(part.name, part.is_file):
            self._value = bytearray()
        self.parts.append(part)
        self._state = _State.CONTENT
        return end + 4

    def _wants(self, name: str, is_file: bool) -> bool:
        return name in self._wanted or (self._every is not None and self._every(name, is_file))

    def _read_epilogue(self, seen: bytes, at: int) -> _Wait:
        begin = max(0, at - self._closing_bytes)
        epilogue = seen[begin + self._closing_bytes :]
        if len(epilogue) > _MAX_BESIDE_BYTES or b":" in epilogue or self._dash_boundary in b"--" + epilogue:
            self.closed = False
            raise MultipartRefused("something follows the closing boundary")
        return _Wait(keep_from=begin, hold_from=begin)

    def _take_content(self, seen: bytes, begin: int, end: int) -> None:
        if self._state is _State.START:
            return
        part = self.parts[-1]
        part.size_bytes += end - begin
        if self._value is None:
            return
        if part.size_bytes > self._max_field_bytes:
            raise MultipartRefused(f"the field is longer than {self._max_field_bytes} bytes", param=part.name)
        self._value += seen[begin:end]

    def _end_part(self) -> None:
        if self._value is None:
            return
        name = self.parts[-1].name
        try:
            value = self._value.decode("utf-8")
        except UnicodeDecodeError:
            raise MultipartRefused("the field is not UTF-8", param=name) from None
        if name in self._wanted:
            self.fields[name] = value
        else:
            self.every.append((name, value))
        self._value = None
