"""A connection to the upstream, and the reply that is read from it: one exchange after another.

The request is written by us, so that what goes up is exactly what `passing.py` lets pass. How the answer is read is
the business of `upstream_channel.py`.
"""

from __future__ import annotations

import asyncio
import math
import select
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from gateway.errors import UpstreamBroken
from gateway.proxy import tls
from gateway.proxy.answer_heads import AnswerHeads
from gateway.proxy.bites import ANSWERS, Turns
from gateway.proxy.channel import Held
from gateway.proxy.deadlines import ReplyDeadlines
from gateway.proxy.places import Places
from gateway.proxy.sink import Raw, RawSink
from gateway.proxy.upstream_channel import (
    AT_END,
    AT_HEAD,
    AT_IDLE,
    AT_OTHER,
    KEPT_BYTES,
    UpstreamChannel,
)
from gateway.proxy.wheel import Wheel
from gateway.wire.answer_head import Head
from gateway.wire.search import Piece


class Pool(Protocol):
    """Where a connection comes from, and goes when it is free again."""

    places: Places

    def keep(self, reply: Reply) -> bool:
        """Have a connection that is free again; False: it is of no use."""

    def gone(self, reply: Reply) -> None:
        """A connection that was kept is lost, or of no use any more."""


class Reply(UpstreamChannel):
    """A connection, and one answer after another; exactly one of `release` or `close` ends each."""

    __slots__ = ("_look", "_pool", "_tenant", "idle_since", "vouched_by")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        turns: Turns,
        wheel: Wheel,
        heads: AnswerHeads,
        pool: Pool,
        *,
        vouched_by: object,
    ) -> None:
        """`vouched_by`: the certificates that were believed when the connection was made."""
        super().__init__(loop, turns, wheel, heads)
        self.vouched_by = vouched_by
        self.idle_since = 0.0
        self._pool = pool
        self._tenant: str | None = None
        """Whose exchange has the connection; None: nobody's."""

        self._look: select.poll | None = None

    def begin(self, tenant: str, deadlines: ReplyDeadlines, now: float, *, no_body: bool = False) -> None:
        """An exchange of this tenant has the connection from `now` on (`time.monotonic`).

        `no_body`: it asks for an answer that has none (HEAD).
        """
        self._tenant = tenant
        self.deadlines = deadlines
        self._no_body = no_body
        self._at_now = AT_HEAD
        self.begin_anew(ANSWERS)
        self._head_due_at = math.inf
        total_at = self._total_at = now + deadlines.total_seconds
        if total_at < self._asked_at:
            self._be_asked(total_at)

    def begin_in_place_of(self, lost: Reply, tenant: str) -> None:
        """Have the exchange of a connection that was lost, and what is left of its time."""
        began_at = lost._total_at - lost.deadlines.total_seconds
        self.begin(tenant, lost.deadlines, began_at, no_body=lost._no_body)
        self._head_due_at = due_at = lost._head_due_at
        if due_at < self._asked_at:
            self._be_asked(due_at)

    def write(self, *data: Piece) -> None:
        """Send bytes of the request. Raises UpstreamBroken when the connection is gone."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise UpstreamBroken("The upstream closed its connection before the request was sent.")
        if self.tls is not None:
            tls.write(transport, data)
        elif len(data) == 1:
            transport.write(data[0])
        else:
            transport.writelines(data)

    @property
    def all_written(self) -> bool:
        """Whether nothing of the request waits here for the upstream to read."""
        return self.transport is None or not self.transport.get_write_buffer_size()

    def start_clock(self) -> float:
        """The request is out: from now on the first-byte deadline runs. Returns when that was."""
        now = monotonic()
        self._head_due_at = due_at = now + self.deadlines.first_byte_seconds
        if due_at < self._asked_at:
            self._be_asked(due_at)
        return now

    async def read_head(self) -> Head:
        """The final head; interim ones (1xx) are skipped. Raises an UpstreamFault."""
        while self.head is None:
            await self.coming()
        return self.head

    def coming(self) -> asyncio.Future[None]:
        """Is done when more of the answer has come. Raises an UpstreamFault where no more will."""
        if self._fault is not None:
            raise self._fault.error()
        waiter = self._waiter = self._loop.create_future()
        return waiter

    @property
    def went_unanswered(self) -> bool:
        """Whether the connection was lost before a byte of the answer had come."""
        return self._fault is not None and self._fault.unanswered

    @property
    def buffered(self) -> bool:
        """Whether a piece, or the end, can be had without waiting."""
        return bool(self._pieces) or self._at_now == AT_END

    @property
    def finished(self) -> bool:
        """Whether the whole body has come and been read, and its end was not a reset in disguise."""
        return self._at_now == AT_END and not self._pieces and self._fault is None

    async def read(self) -> bytes:
        """What has come of the body; empty at its end. Raises an UpstreamFault."""
        while not self._pieces:
            if self._at_now == AT_END and self._fault is None:
                return b""
            await self.coming()
        return self.read_nowait()

    def read_nowait(self) -> bytes:
        """What has come of the body and has not been read."""
        pieces, self._pieces = self._pieces, []
        self._pieces_bytes = 0
        self.go_on(Held.BY_READER)
        return pieces[0][0] if len(pieces) == 1 else b"".join([body for body, _ in pieces])

    async def peek(self, most_bytes: int) -> bytes | None:
        """The whole of a short body, which `read` will still return; None when it is longer.

        Raises an UpstreamFault.
        """
        self._room_bytes = most_bytes
        while self._at_now != AT_END and self._pieces_bytes <= most_bytes:
            self.go_on(Held.BY_READER)
            await self._more()
        if self._fault is not None:
            raise self._fault.error()
        self._room_bytes = KEPT_BYTES
        return b"".join([piece for piece, _ in self._pieces]) if self._pieces_bytes <= most_bytes else None

    @property
    def come(self) -> list[bytes]:
        """What has come of the body, which `read` will still return."""
        return [piece for piece, _ in self._pieces]

    async def begins(self, tells: Callable[[bytes], bool | None]) -> bool:
        """Whether the body begins so, which `read` will still return; waits as long as that cannot be told (None).

        That must be told by few bytes, in whatever pieces they come.
        """
        while (verdict := tells(b"".join([piece for piece, _ in self._pieces]))) is None:
            if self._at_now == AT_END:
                return False
            self.go_on(Held.BY_READER)
            await self._more()
        return verdict

    def put_back(self, body: bytes) -> None:
        """Let this be read instead of what was peeked."""
        self._pieces = [(body, None)] if body else []

    def whole(self) -> bytes | None:
        """The body, where its head states its length and all of it has come in one piece; it is taken away."""
        pieces, head = self._pieces, self.head
        if len(pieces) != 1 or self._at_now != AT_END or head is None or head.length is None or self._fault:
            return None
        self._pieces = []
        self._pieces_bytes = 0
        return pieces[0][0]

    def relay_to(self, sink: RawSink) -> None:
        """Let `sink` have the body: what has come of it now, the rest as it comes, and its end."""
        if self._pieces:
            pieces, self._pieces = self._pieces, []
            self._pieces_bytes = 0
            for body, chunks in pieces:
                sink.piece(body, chunks)
        if self._at_now != AT_END:
            self._sink, self._follows, self._passes = sink, sink.takes_raw, None
            self.go_on(Held.BY_READER)
        elif self._fault is not None:
            sink.fail(self._fault.error())
        else:
            sink.end()

    def take_over(self, raw: Raw) -> None:
        """The connection speaks another protocol now: what comes is for `raw`, and HTTP's deadlines do not apply."""
        self._wheel.forget(self)
        data = self.read_nowait()
        self._raw = raw
        if data:
            raw.feed_data(data)
        if self._at_now != AT_OTHER:
            raw.feed_eof()

    def release(self) -> None:
        """The exchange ended properly: the connection may serve another one."""
        if self._at_now != AT_END or not self._keeps or self._surplus:
            self.close()
            return
        tenant, self._tenant = self._tenant, None
        if tenant is None:
            return
        self.head = None
        if self._pieces:  # nobody wanted them
            self.read_nowait()
        transport = self.transport
        if transport is not None:
            if not transport.is_closing() and self._pool.keep(self):
                self._at_now = AT_IDLE
                if self._held:
                    self.go_on(Held.BY_SINK | Held.BY_READER)
            else:
                transport.close()
        self._pool.places.give_back(tenant)

    def close(self) -> None:
        """The exchange ended in any other way: nobody shares this connection any more."""
        tenant = self.leave()
        if tenant is not None:
            self._pool.places.give_back(tenant)

    def leave(self) -> str | None:
        """As `close`, but the place stays taken; returns by which tenant, None where the exchange has ended before."""
        tenant, self._tenant = self._tenant, None
        if tenant is None:
            return None
        self._at_now = AT_END
        self._decoder = self._sink = self._raw = self._fault = self._begun = self.head = None
        self._follows = False
        self._passes = None
        self._pieces = []
        self._pieces_bytes = 0
        self._wheel.forget(self)
        if self.transport is not None:
            self.transport.close()
        return tenant

    def stirs(self) -> bool:
        """Whether something has come over a connection that nobody uses, or its end, before the loop hears of it."""
        look = self._look
        if look is None:
            assert self.transport is not None
            look = self._look = select.poll()
            look.register(self.transport.get_extra_info("socket").fileno(), select.POLLIN | select.POLLRDHUP)
        return bool(look.poll(0))

    def strayed(self) -> None:
        self._pool.gone(self)
