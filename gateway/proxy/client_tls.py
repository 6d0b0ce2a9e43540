"""TLS towards clients: it stands between a connection and its protocol, to which it is a transport like any other.

The loop's own layer is not used here: it tells nobody of a connection before its handshake is over, so that nothing
would bound who is slow in that, counts a part of what is unsent, gives a large answer no longer to be read than an end
to be confirmed, and keeps a quarter of a megabyte for every connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from time import monotonic
from typing import Any, cast

from gateway.errors import BadRequest
from gateway.proxy.bites import LARGE_BITE_SECONDS
from gateway.proxy.client_channel import ClientChannel
from gateway.proxy.served_tls import ServedTls, Stage

_Data = bytes | bytearray | memoryview

SLICE_BYTES = 64 * 1024
"""What is sealed or opened at once: the library keeps buffers of that size for a connection that once had so much."""

_RECORD_BYTES = 16 * 1024
"""The most that a record has; no more is read at once."""

_MOST_UNASKED_BYTES = 8 * 1024
"""What the library may answer by itself on one connection, as to a change of keys: each costs as much as a request's
head, and who never reads would have them lie here. So many changes are the work of years."""

_HANDSHAKE = 0x16
"""How the first record of a handshake begins."""


class ClientTls(asyncio.BufferedProtocol, asyncio.Transport):
    """One client's connection by TLS."""

    def __init__(self, served: ServedTls, context: ssl.SSLContext, channel: ClientChannel) -> None:
        """`channel` is told of the connection at once, and hears nothing before the handshake is over; what it writes
        until then waits for that.
        """
        self._served = served
        self._context = context
        self._channel = channel
        self._protocol: asyncio.BaseProtocol = channel
        self._raw: asyncio.Transport
        self._tls: ssl.SSLObject
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._stage: int = Stage.SILENT
        self._paused = False
        self._early = b""
        """What was written before the handshake was over."""

        self._ends_early = False
        self._waiting = b""
        """What has come and is not wanted yet, beyond what the library has: that keeps as much for ever."""

        self._unasked_bytes = 0
        """How much the library has answered by itself."""

    # Of the connection, to which it is a protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._channel.connection_made(self)
        self._channel.agrees(self._served.handshake_seconds)

    def connection_lost(self, exc: BaseException | None) -> None:
        stage, self._stage = self._stage, Stage.ENDED
        if stage == Stage.SHAKING:
            self._served.failed("handshake")
        cast(asyncio.Protocol, self._protocol).connection_lost(cast(Exception, exc))

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def eof_received(self) -> bool | None:
        return None  # whoever has left is not answered any more, as without TLS

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._served.buffer

    def buffer_updated(self, nbytes: int) -> None:
        stage = self._stage
        data = self._served.buffer[:nbytes]
        if stage == Stage.OPEN:
            if self._waiting:
                self._waiting += data
            elif nbytes <= SLICE_BYTES:
                self._incoming.write(data)
                self._hand_on()
            else:
                self._hand_on_much(data)
        elif stage == Stage.SHAKING:
            self._shake_with(data)
        elif stage == Stage.SILENT:
            self._begin(data)

    # The handshake

    def _begin(self, data: memoryview) -> None:
        if data[0] == _HANDSHAKE:
            self._stage = Stage.SHAKING
            self._tls = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)
            self._shake_with(data)
        elif b"A"[0] <= data[0] <= b"Z"[0]:
            self._stage = Stage.PLAIN
            self._served.failed("plain_http")
            self._channel.refuse(
                BadRequest("A plain HTTP request came to a port that speaks TLS. Use https:// (or wss://).")
            )
        else:
            self._served.failed("handshake")
            self._raw.abort()

    def _shake_with(self, data: memoryview) -> None:
        """Go on with the handshake, which takes as long as a request or two, when it is its turn."""
        self._incoming.write(data)
        if self._served.turns.has_room:
            self._shake()
        else:
            self._raw.pause_reading()
            self._served.turns.wait(self._shake_in_turn, floods=True)

    def _shake_in_turn(self) -> None:
        if self._stage != Stage.SHAKING:
            return
        try:
            self._shake()
            if not self._paused:
                self._raw.resume_reading()
        except BaseException:
            self._raw.abort()  # as a transport does itself when its protocol fails
            raise

    def _shake(self) -> None:
        began = monotonic()
        is_over = broken = False
        try:
            self._tls.do_handshake()
            is_over = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            broken = True
        self._served.turns.spend(0, monotonic() - began)
        self._send_sealed()
        if broken:
            self._raw.close()  # the client has been told why
        elif is_over:
            self._opened()

    def _opened(self) -> None:
        self._stage = Stage.OPEN
        early, self._early = self._early, b""
        if early:
            self.write(early)
        if self._ends_early:
            self.write_eof()
            return
        self._channel.welcome()
        if self._incoming.pending:
            self._hand_on()

    # What comes

    def _hand_on_much(self, data: memoryview) -> None:
        began = monotonic()
        self._hand_on_slices(data)
        seconds = monotonic() - began
        if seconds > LARGE_BITE_SECONDS and self._stage == Stage.OPEN and not self._paused:
            # Records of a few bytes cost much, and the loop would read on at once: others first.
            self._raw.pause_reading()
            self._served.turns.spend(0, seconds)
            self._served.turns.wait(self._read_on, floods=True)

    def _hand_on_slices(self, data: memoryview) -> None:
        """Hand on what has come, one slice after the other; from where it is not wanted any more it waits here."""
        for at in range(0, len(data), SLICE_BYTES):
            if self._stage != Stage.OPEN:
                return
            if self._paused:
                self._waiting = bytes(data[at:])
                return
            self._incoming.write(data[at : at + SLICE_BYTES])
            self._hand_on()

    def _read_on(self) -> None:
        if self._stage == Stage.OPEN and not self._paused and not self._raw.is_closing():
            self._raw.resume_reading()

    def _hand_on(self) -> None:
        """Hand on what has come, as long as it is wanted."""
        incoming = self._incoming
        while self._stage == Stage.OPEN and not self._paused and incoming.pending:
            try:
                if isinstance(self._protocol, asyncio.BufferedProtocol):
                    came = self._open_into(self._protocol)
                else:
                    came = self._open(cast(asyncio.Protocol, self._protocol))
            except ssl.SSLWantReadError:
                self._send_unasked()
                return
            except ssl.SSLError:
                self._leave()
                return
            if not came:
                self._say_end()
                self._leave()
            self._send_unasked()

    def _leave(self) -> None:
        """End what the client has ended, behind what is on its way to it, and a word of why."""
        self._stage = Stage.LEFT
        self._send_sealed()
        self._raw.close()

    def _send_unasked(self) -> None:
        """Send what the library has to answer by itself, if there is any."""
        pending = self._outgoing.pending
        if pending:
            self._unasked_bytes += pending
            if self._unasked_bytes > _MOST_UNASKED_BYTES:
                self._raw.abort()
            else:
                self._send_sealed()

    def _open(self, protocol: asyncio.Protocol) -> bool:
        """Hand on all that is whole; False: behind it the client has said its end. Raises SSLError."""
        read, incoming = self._tls.read, self._incoming
        last = data = read(_RECORD_BYTES)
        if data and incoming.pending:
            pieces = [data]
            try:
                while incoming.pending and last:
                    last = read(_RECORD_BYTES)
                    pieces.append(last)
            except ssl.SSLError:
                pass  # it comes again when this has been handed on, unless what was missing does
            data = b"".join(pieces)
        if data:
            protocol.data_received(data)
        return bool(last)

    def _open_into(self, protocol: asyncio.BufferedProtocol) -> bool:
        """The same for who has a buffer for it, which holds at least a record."""
        read, incoming, size_bytes, last_bytes = cast(Any, self._tls.read), self._incoming, 0, 1
        with memoryview(cast(Any, protocol.get_buffer(-1))) as buffer:
            try:
                while incoming.pending and last_bytes and len(buffer) - size_bytes >= _RECORD_BYTES:
                    with buffer[size_bytes:] as room:
                        last_bytes = read(_RECORD_BYTES, room)
                    size_bytes += last_bytes
            except ssl.SSLError:
                if not size_bytes:
                    raise
        if size_bytes:
            protocol.buffer_updated(size_bytes)
        return bool(last_bytes)

    # Of its protocol, to which it is a transport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._raw.pause_reading()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            if self._incoming.pending or self._waiting:
                asyncio.get_running_loop().call_soon(self._go_on)
            else:
                self._raw.resume_reading()

    def _go_on(self) -> None:
        try:
            self._hand_on()
            if self._waiting and not self._paused:
                waiting, self._waiting = self._waiting, b""
                self._hand_on_slices(memoryview(waiting))
        except BaseException:
            self._raw.abort()
            raise
        if not self._paused and not self._raw.is_closing():
            self._raw.resume_reading()

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size() + len(self._early)

    def write(self, data: _Data) -> None:
        stage = self._stage
        if stage == Stage.OPEN:
            try:
                self._seal(data)
            except ssl.SSLError:  # nobody has been told so far that what came last cannot be understood
                self._stage = Stage.LEFT
                self._raw.abort()
        elif stage == Stage.PLAIN:
            self._raw.write(data)
        elif stage == Stage.LEFT:
            self._raw.abort()  # it may never read what was sent before, and there is more that nobody will have
        elif stage != Stage.ENDED:
            self._early += data

    def _seal(self, data: _Data) -> None:
        if len(data) <= SLICE_BYTES:
            self._tls.write(data)
            self._raw.write(self._outgoing.read())
            return
        whole = memoryview(data)
        for at in range(0, len(whole), SLICE_BYTES):
            self._tls.write(whole[at : at + SLICE_BYTES])
            self._raw.write(self._outgoing.read())

    def writelines(self, list_of_data: Iterable[_Data]) -> None:
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        stage = self._stage
        if stage == Stage.OPEN:
            self._say_end()
        elif stage != Stage.PLAIN:
            self._ends_early = True
            return
        self._raw.write_eof()

    def close(self) -> None:
        if self._stage == Stage.OPEN:
            self._say_end()
        self._raw.close()

    def abort(self) -> None:
        self._raw.abort()

    def _say_end(self) -> None:
        self._stage = Stage.ENDED
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # it has been written, and nobody waits for the client's
        self._send_sealed()

    def _send_sealed(self) -> None:
        if self._outgoing.pending and not self._raw.is_closing():
            self._raw.write(self._outgoing.read())
