"""An upstream's list as the gateway asks for it, to show a tenant its own of it: page by page, and object by object.

Each question goes up as the client's does, with its header fields, by the tenant's access and in its own connection
places; none is asked under conditions, for a part, or for an encoded answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from http import HTTPStatus

from gateway.errors import UpstreamBroken
from gateway.exchange.exchange import Exchange
from gateway.policy.owned_pages import ListQuery
from gateway.proxy.by_sight import codings_of, unreadable
from gateway.proxy.call import Call, call_beside
from gateway.proxy.deadlines import DeadlineTable
from gateway.proxy.reading import Reading
from gateway.proxy.recorded_answers import is_the_apis_own
from gateway.proxy.upstream import Upstreams
from gateway.wire.answer_head import Head
from gateway.wire.codings import decoded
from gateway.wire.list_pages import ListPage, find_object, find_page, page_in

_MOST_BYTES = 8 * 2**20
"""Of a page, and of an object."""

_SMALLER = 4
"""A page that is larger is asked for again, this many times shorter."""

_NOT_ASKED = frozenset(
    {b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since", b"if-range", b"range"}
)
_CURSOR_LOST = frozenset({400, 404, 410, 422})
"""What an upstream may say of a cursor that is there no longer."""


class AnsweredOtherwise(Exception):
    """The upstream answered no success; who catches it sends that down, and ends the reply."""

    def __init__(self, call: Call, head: Head) -> None:
        super().__init__(head.status)
        self.call = call
        self.head = head


class CursorLost(Exception):
    """The upstream does not know the object any more behind which it was asked for the list."""


class ListSource:
    """One list, asked for by one exchange."""

    def __init__(
        self,
        upstreams: Upstreams,
        exchange: Exchange,
        query: ListQuery,
        *,
        deadlines: DeadlineTable,
        reading: Reading,
    ) -> None:
        self._upstreams = upstreams
        self._exchange = exchange
        self._query = query
        self._deadlines = deadlines
        self._reading = reading
        self._tenant = exchange.caller.tenant.id
        self._most_entries = query.page_size
        self._widest = query.widest
        self.last: tuple[Call, Head] | None = None
        """The last page that was answered."""

    @property
    def reach(self) -> float:
        """How many times as long as the last page the next could be."""
        return self._widest / self._most_entries

    def widen(self) -> None:
        """Ask for pages that are as long as they can be."""
        self._most_entries = self._widest

    async def page(self, after: str | None, before: str | None, *, own_cursor: bool = False) -> ListPage:
        """A page as the upstream has it.

        `own_cursor`: the client named no such cursor, so that nobody is told if that is lost. Raises CursorLost,
        AnsweredOtherwise, an UpstreamFault or Overloaded.
        """
        while True:
            target = self._query.target(self._most_entries, after=after, before=before)
            call, head = await self._ask(target)
            if head.status != HTTPStatus.OK:
                if own_cursor and head.status in _CURSOR_LOST:
                    call.reply.close()
                    raise CursorLost
                raise AnsweredOtherwise(call, head)
            body = await self._body(call, head)
            if body is not None:
                break
            if self._most_entries == 1:
                raise unreadable()
            self._most_entries = self._widest = max(1, self._most_entries // _SMALLER)
        self.last = call, head
        places = await self._reading.answer(self._tenant, body, find_page, ())
        if places is None:
            raise UpstreamBroken("The upstream's list cannot be read, and may not pass unfiltered.")
        return page_in(body, places)

    async def objects(self, object_ids: Sequence[str]) -> list[bytes | None]:
        """These objects, all asked for at once; None for each that the upstream does not have.

        Raises AnsweredOtherwise, an UpstreamFault or Overloaded.
        """
        tasks = [asyncio.create_task(self._object(object_id)) for object_id in object_ids]
        try:
            return await asyncio.gather(*tasks)
        except BaseException as first:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for task in tasks:
                other = None if task.cancelled() else task.exception()
                if isinstance(other, AnsweredOtherwise) and other is not first:
                    other.call.reply.close()
            raise

    async def _object(self, object_id: str) -> bytes | None:
        call, head = await self._ask(self._query.object_target(object_id))
        if head.status == HTTPStatus.NOT_FOUND and await self._is_absent(call):
            return None
        if head.status != HTTPStatus.OK:
            raise AnsweredOtherwise(call, head)
        body = await self._body(call, head)
        found = None if body is None else await self._reading.answer(self._tenant, body, find_object, ())
        if body is None or found is None or found[0] != object_id:
            raise UpstreamBroken(
                "The upstream answered something else than the object that it was asked for."
            )
        _, begin, end = found
        return body[begin:end]

    async def _ask(self, target: str) -> tuple[Call, Head]:
        call = await call_beside(self._upstreams, self._deadlines, self._exchange)
        with call.ended_by_failure():
            head = await call.ask_for(target, without=_NOT_ASKED)
            if head.status != HTTPStatus.OK and 200 <= head.status < 300:
                raise UpstreamBroken(f"The upstream answered {head.status} where a list was asked for.")
        return call, head

    async def _body(self, call: Call, head: Head) -> bytes | None:
        """The body of a success, read to its end; None for one that is too long."""
        with call.ended_by_failure():
            body = await call.reply.peek(_MOST_BYTES)
        if body is None:
            call.reply.close()
            return None
        call.reply.release()
        applied = codings_of(head)
        if applied:
            body = await asyncio.to_thread(decoded, body, applied, most_bytes=_MOST_BYTES)
            if body is None:
                raise unreadable()
        return body

    async def _is_absent(self, call: Call) -> bool:
        """Whether the upstream's 404 says that there is no such object; then its reply has ended."""
        with call.ended_by_failure():
            is_absent = await is_the_apis_own(call.reply)
        if is_absent:
            call.reply.release()
        return is_absent
