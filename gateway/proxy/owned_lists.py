"""Lists of what an upstream has stored, with the caller's own entries alone: rewrite (g).

The upstream's pages are walked through as far as they show enough of the tenant's own; what is far away is asked for by
its id, some at once, and the walk goes on behind it. All of it takes a bounded time: then there is what was found, and
a client goes on from there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import orjson

from gateway.errors import BadRequest, UpstreamBroken, UpstreamTimeout
from gateway.exchange.observers import READABLE, AnswerRecorder
from gateway.limits.store import StoreUnavailable
from gateway.objects.registry import Registry
from gateway.objects.store import Entry, Named, Scope
from gateway.policy.owned_pages import AFTER, BEFORE, Filling, ListQuery, second_of, told_order
from gateway.policy.unknown_objects import unavailable, unknown
from gateway.proxy.answer import Answer
from gateway.proxy.deadlines import DeadlineTable
from gateway.proxy.handler import Handler
from gateway.proxy.list_source import AnsweredOtherwise, CursorLost, ListSource
from gateway.proxy.reading import Reading
from gateway.proxy.relay import Relay
from gateway.proxy.request import Request
from gateway.proxy.upstream import Upstreams
from gateway.wire.body_facts import Reference
from gateway.wire.list_pages import DATA, Envelope, ListedEntry, ListPage

SECONDS = 10.0
_MOST_KEPT_BYTES = 32 * 2**20
"""A page ends before it has more, if it has anything."""

_AT_ONCE = 8
"""Objects that are asked for by their ids at the same time."""

_ENOUGH = _AT_ONCE // 2
"""Of what is missing: pages that show so much are walked through, since they show it for one question."""

_FEW = 4 * _AT_ONCE
"""What is missing is asked for by its ids alone; of more, the upstream's pages may show many."""

_MOST_PAGES = 20
"""How many of the upstream's pages are walked through for what it has filtered, though they show little."""

_TURN = 1_000
"""Entries that the registry is asked for, or about, in one step."""

_FILTERED_CANDIDATES = 10_000
_CURSORS_TRIED = 3

Kept = list[tuple[str, bytes]]


def list_owned(
    upstreams: Upstreams,
    *,
    deadlines: DeadlineTable,
    relay: Relay,
    reading: Reading,
    registry: Registry | None,
) -> Handler:
    """The handler of lists for callers who may see their tenant's own entries alone."""

    async def handle(request: Request) -> Answer:
        exchange = request.exchange
        standing, scope = exchange.standing, exchange.caller.tenant.scope
        assert standing is not None and standing.listed is not None
        if registry is None or scope is None:
            raise unavailable()
        if exchange.head.has_body:
            raise BadRequest("A list is asked for without a body.")
        if exchange.change is None:
            exchange.choose(READABLE)
        query = ListQuery.read(standing.listed, exchange.target)
        source = ListSource(upstreams, exchange, query, deadlines=deadlines, reading=reading)
        walk = _OwnList if scope.others is None else _ListOfTheLast
        try:
            envelope, kept, has_more = await walk(query, source, registry, scope).page()
        except AnsweredOtherwise as other:
            return await _relayed(request, relay, other)
        except StoreUnavailable as outage:
            raise unavailable(outage) from outage
        if isinstance(exchange.recorder, AnswerRecorder):
            await _record(exchange.recorder, kept)
        assert source.last is not None
        call, head = source.last
        call.shows(head)
        return await relay.answer_other(request, call, head, envelope.around(kept, has_more=has_more))

    return handle


async def _relayed(request: Request, relay: Relay, other: AnsweredOtherwise) -> Answer:
    call, head = other.call, other.head
    with call.ended_by_failure():
        answer = await relay.answer(request, call, head)
    call.reply.release()
    return answer


async def _record(recorder: AnswerRecorder, kept: Kept) -> None:
    """Have what own entries say to have been made recorded: a batch names its output."""
    if recorder.makes:
        await recorder.answered({DATA: [orjson.loads(raw) for _, raw in kept]})


class _Walk:
    """One page of a list, found in the upstream's."""

    def __init__(self, query: ListQuery, source: ListSource, registry: Registry, scope: Scope) -> None:
        self._query = query
        self._source = source
        self._registry = registry
        self._scope = scope
        self._kind = query.kind.name
        self._backwards = query.before is not None and query.after is None
        """Whether the page ends at a cursor: it is found from its end."""

        self._cursors: list[str] = []
        """Behind which the upstream may be asked on, the best first; empty where it has no more."""

        self._ends_at = asyncio.get_running_loop().time() + SECONDS

    async def _first(self) -> ListPage:
        query = self._query
        page = await self._source.page(query.after, query.before)
        self._go_behind(page, self._query.before if self._backwards else query.after)
        return page

    async def _next(self) -> ListPage | None:
        """The upstream's next page; None where nothing is left to ask behind."""
        for cursor in self._cursors:
            after, before = (None, cursor) if self._backwards else (cursor, self._query.before)
            try:
                page = await self._source.page(after, before, own_cursor=True)
            except CursorLost:
                continue
            self._go_behind(page, cursor)
            return page
        self._cursors = []
        return None

    def _go_behind(self, page: ListPage, cursor: str | None) -> None:
        ids = [entry.id for entry in (page.entries if self._backwards else reversed(page.entries))]
        goes_on = page.has_more and bool(ids) and ids[0] != cursor
        self._cursors = ids[:_CURSORS_TRIED] if goes_on else []

    async def _own(self, entries: Sequence[ListedEntry]) -> Kept:
        """Those of a page that are the tenant's."""
        own: Kept = []
        for at in range(0, len(entries), _TURN):
            some = entries[at : at + _TURN]
            may = await self._registry.store.look(
                self._scope, [Named(self._kind, entry.id) for entry in some]
            )
            own += [(entry.id, entry.raw) for entry, mine in zip(some, may, strict=True) if mine]
        return own

    def _told(self, envelope: Envelope, kept: Kept, *, has_more: bool) -> tuple[Envelope, Kept, bool]:
        if has_more and not kept:
            raise UpstreamTimeout(
                "The tenant's own entries lie too far apart in the upstream's list; try again."
            )
        return envelope, kept[::-1] if self._backwards else kept, has_more


class _OwnList(_Walk):
    """A page of all that the registry knows: it says what the page has, the upstream's pages have its bytes."""

    async def page(self) -> tuple[Envelope, Kept, bool]:
        """Raises StoreUnavailable, ObjectUnknown, AnsweredOtherwise, an UpstreamFault or Overloaded."""
        query = self._query
        anchors: dict[str, Entry] = {}
        for name, object_id in query.cursors():
            entry = await self._registry.store.find(self._scope, self._kind, object_id)
            if entry is None:
                raise unknown(Reference(self._kind, object_id, name))
            anchors[name] = entry
        self._start = anchors.get(BEFORE if self._backwards else AFTER)
        self._until = None if self._backwards else anchors.get(BEFORE)
        await self._plan(query.is_ascending)
        page = await self._first()
        envelope = page.envelope
        if not envelope.pages:
            return envelope, await self._own(page.entries), False
        shows_ascending = told_order(page.entries)
        if shows_ascending is not None and shows_ascending != query.is_ascending:
            await self._plan(shows_ascending)
        try:
            async with asyncio.timeout_at(self._ends_at):
                await self._fill(page)
        except TimeoutError:
            pass  # there is what was found
        kept, has_more = self._filling.page()
        return self._told(envelope, kept, has_more=has_more)

    async def _plan(self, ascending: bool) -> None:
        self._ascending = ascending is not self._backwards
        self._filling = Filling(self._query.size)
        start, until = self._start, self._until
        if start and until and (until.created_at <= start.created_at) is self._ascending:
            self._filling.add((), are_all=True)  # nothing lies between them
            return
        left = _FILTERED_CANDIDATES if self._query.is_filtered else self._query.size + 1
        while left > 0 and not self._filling.knows_all:
            await self._add(min(left, _TURN))
            left -= _TURN

    async def _add(self, count: int) -> None:
        """Have the registry say which entries come next."""
        entries = await self._registry.store.page(
            self._scope,
            self._kind,
            after=self._filling.last or self._start,
            ascending=self._ascending,
            count=count,
        )
        are_all = len(entries) < count
        for at, entry in enumerate(entries):
            if self._until is not None and entry.id == self._until.id:
                entries, are_all = entries[:at], True
                break
        self._filling.add(entries, are_all=are_all)

    async def _fill(self, page: ListPage) -> None:
        query, filling, pages = self._query, self._filling, 1
        self._kept_bytes = 0
        self._run_begin = second_of(self._start, self._far_behind)
        shown = self._take(page)
        while not filling.is_done and self._kept_bytes < _MOST_KEPT_BYTES:
            if filling.wants_more:
                await self._add(_TURN)
            elif self._cursors and (
                self._shows_enough(shown) or not query.is_plain or (query.is_filtered and pages < _MOST_PAGES)
            ):
                pages += 1
                shown = await self._walk_on()
            elif not query.is_plain:
                filling.give_up()
            else:
                jump = await self._ask_for(filling.missing(_AT_ONCE))
                shown = 0
                if jump is not None and len(filling.missing(_FEW + 1)) > _FEW:
                    self._cursors, self._run_begin = [jump.id], second_of(jump, 0.0)
                    pages += 1
                    shown = await self._walk_on()

    def _shows_enough(self, shown: int) -> bool:
        """Whether to walk on behind a page that has shown so much, over longer ones where that takes them."""
        if shown >= _ENOUGH:
            return True
        if shown * self._source.reach < _ENOUGH or len(self._filling.missing(_ENOUGH)) < _ENOUGH:
            return False
        self._source.widen()
        return True

    async def _walk_on(self) -> int:
        page = await self._next()
        if page is not None:
            return self._take(page)
        if not self._query.is_plain:
            raise _changed()
        return 0

    def _take(self, page: ListPage) -> int:
        """Take from a page what was waited for; returns how much that was."""
        filling, entries = self._filling, page.entries
        shown = filling.found((entry.id, entry.raw) for entry in entries)
        self._kept_bytes += filling.newly_found_bytes
        if self._query.is_filtered:
            farthest = entries[0 if self._backwards else -1].made_at if entries else None
            end = -self._far_behind if not self._cursors else farthest
            if end is not None:
                filling.passed(min(self._run_begin, end), max(self._run_begin, end))
        return shown

    async def _ask_for(self, entries: Sequence[Entry]) -> Entry | None:
        """Ask for some by their ids; returns the last of those that are there."""
        last = None
        found: Kept = []
        absent: list[str] = []
        gone: list[Named] = []
        for entry, raw in zip(
            entries, await self._source.objects([entry.id for entry in entries]), strict=True
        ):
            if raw is None:
                gone.append(Named(self._kind, entry.id))
                absent.append(entry.id)
                continue
            last = entry
            if self._query.shows(raw):
                found.append((entry.id, raw))
            else:
                absent.append(entry.id)
        if gone:
            self._registry.unseen_soon(self._scope, gone)
        self._filling.absent(absent)
        self._filling.found(found)
        self._kept_bytes += self._filling.newly_found_bytes
        return last

    @property
    def _far_behind(self) -> float:
        """The time at which the walk began, where it began at an end of the list."""
        return -math.inf if self._ascending else math.inf


class _ListOfTheLast(_Walk):
    """A page for the only tenant that is left: all that the upstream has, but for what is known to be another's."""

    async def page(self) -> tuple[Envelope, Kept, bool]:
        """Raises StoreUnavailable, ObjectUnknown, AnsweredOtherwise, an UpstreamFault or Overloaded."""
        named = [Reference(self._kind, object_id, name) for name, object_id in self._query.cursors()]
        may = await self._registry.look(self._scope, [Named(self._kind, one.id) for one in named])
        for reference, mine in zip(named, may, strict=True):
            if not mine:
                raise unknown(reference)
        page: ListPage | None = await self._first()
        assert page is not None
        envelope = page.envelope
        if not envelope.pages:
            return envelope, await self._own(page.entries), False
        kept: Kept = []
        size, kept_bytes = self._query.size, 0
        is_whole = False
        try:
            async with asyncio.timeout_at(self._ends_at):
                while page is not None:
                    own = await self._own(page.entries)
                    kept += own[::-1] if self._backwards else own
                    kept_bytes += sum(len(raw) for _, raw in own)
                    if len(kept) > size or kept_bytes > _MOST_KEPT_BYTES:
                        break
                    is_whole = not self._cursors
                    page = await self._next()
                    if page is None and not is_whole:
                        raise _changed()
        except TimeoutError:
            is_whole = False
        return self._told(envelope, kept[:size], has_more=len(kept) > size or not is_whole)


def _changed() -> UpstreamBroken:
    return UpstreamBroken(
        "The upstream's list changed while it was read, so that nobody can tell what is in it. Try again."
    )
