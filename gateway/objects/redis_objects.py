"""Ownership in Redis, shared by all gateways: one script for each call, on keys of one tenant.

Objects of kinds that are listed are in a sorted set each, by creation; of the others there are digests, in hashes small
enough for Redis to pack: about twenty bytes each (lua/places.lua). Two tenants' keys are in different places of a
cluster, so that nothing here can tell whether an id was another's before: ids are the upstream's to give, and what it
says it has made for somebody is theirs.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from operator import attrgetter
from typing import Final

import orjson

from gateway.limits.store import StoreUnavailable
from gateway.objects.keys import (
    Word,
    base_key,
    index_key,
    intent_of,
    intent_words,
    is_id,
    leaves_of,
    slices,
    text_of,
    words_of,
    words_of_digests,
    words_of_made,
)
from gateway.objects.store import Begun, Entry, Intent, Made, Named, Scope
from gateway.operations.stored_kinds import StoredKinds
from gateway.redis.cluster import open_wire
from gateway.redis.line import Argument, RedisUnavailable, Reply
from gateway.redis.observer import NOBODY, Observer
from gateway.redis.schema import DEFAULT_PREFIX
from gateway.redis.script import Script
from gateway.redis.servers import RedisServers
from gateway.redis.wire import Awaited

_log = logging.getLogger("gateway.objects")

DEADLINE_SECONDS: Final = 0.5
"""Of one call. Whoever waits is a request."""

_AT_ONCE: Final = 1000
"""Objects of one call: Redis serves everybody, and does nothing else meanwhile."""

_MOST_INTENTS: Final = 10_000
_BUCKETS_AT_ONCE: Final = 256
_SCRIPTS: Final = ("about", "begin", "buckets", "count", "free", "look", "page", "record")
_MAY: Final = ord("1")


class RedisObjects:
    """An ObjectStore, as its protocol says. Nothing is connected before the first call."""

    def __init__(
        self,
        url: str,
        *,
        prefix: str = DEFAULT_PREFIX,
        deadline_seconds: float = DEADLINE_SECONDS,
        observer: Observer = NOBODY,
        kinds: StoredKinds | None = None,
    ) -> None:
        self._prefix = prefix
        self._kinds = kinds or StoredKinds.load()
        self._wire = open_wire(
            RedisServers.parse(url), prefix, deadline_seconds=deadline_seconds, observer=observer
        )
        self._scripts = {name: Script.load(__package__, "places", name) for name in _SCRIPTS}
        self._index = Script.load(__package__, "index")
        self.saw: Callable[[Scope, str], bool] = _nobody
        self._evicting: set[Scope] = set()
        """Tenants whose server may drop entries, so that what nobody knows may be anybody's."""

    def look(
        self, scope: Scope, named: Sequence[Named], intent: Intent | None = None
    ) -> asyncio.Future[list[bool]]:
        if (named and scope.others is not None) or len(named) > _AT_ONCE:
            return asyncio.ensure_future(self._look_in_pieces(scope, named, intent))
        key = base_key(self._prefix, scope)
        words = (
            1,
            key,
            *intent_words(self._kinds, intent),
            _MOST_INTENTS,
            "0" * len(named),
            *words_of(self._kinds, named),
        )
        return self._made(_Look(words, self._scripts["look"], scope, self.saw), key)

    async def _look_in_pieces(
        self, scope: Scope, named: Sequence[Named], intent: Intent | None
    ) -> list[bool]:
        signs = await self._spared(scope, named)
        words = words_of(self._kinds, named)
        if len(named) <= _AT_ONCE:
            found, _ = await self._look(scope, signs, words, intent)
        else:
            replies = await asyncio.gather(
                *(
                    self._look(scope, signs[at : at + _AT_ONCE], words[3 * at : 3 * (at + _AT_ONCE)])
                    for at in range(0, len(named), _AT_ONCE)
                )
            )
            found = "".join(piece for piece, _ in replies)
            if intent is not None and "0" not in found:
                await self._look(scope, "", (), intent)
        return [sign == "1" for sign in found]

    def record(self, scope: Scope, made: Sequence[Made], intent_id: str | None = None) -> asyncio.Future[int]:
        words = words_of_made(self._kinds, made, time.time())
        leaves = leaves_of(self._kinds, [one.kind for one in made])
        if len(made) > _AT_ONCE:
            return asyncio.ensure_future(self._record_in_pieces(scope, words, intent_id or "", leaves))
        return self._begun("record", scope, intent_id or "", leaves, *words)

    async def record_digests(self, scope: Scope, kind: str, digests: Sequence[tuple[bytes, int]]) -> int:
        """Record some of a kind that is not listed, each by its digest and the last day on which it counts."""
        words = words_of_digests(self._kinds[kind], digests)
        return await self._record_in_pieces(scope, words, "", leaves_of(self._kinds, [kind]))

    async def forget_intent(self, scope: Scope, exchange_id: str) -> None:
        await self.record(scope, (), exchange_id)

    async def free(self, scope: Scope, named: Sequence[Named], *, unseen: bool = False) -> int:
        words = words_of(self._kinds, named)
        return sum(
            [await self._run("free", scope, int(unseen), *piece) for piece in slices(words, 3, _AT_ONCE)]
        )

    async def page(
        self, scope: Scope, kind: str, *, after: Entry | None, ascending: bool, count: int
    ) -> list[Entry]:
        behind = "" if after is None else repr(after.created_at)
        return _entries(await self._run("page", scope, kind, int(ascending), behind, count, ""))

    async def find(self, scope: Scope, kind: str, object_id: str) -> Entry | None:
        if not is_id(object_id):
            return None
        wanted = words_of(self._kinds, [Named(kind, object_id)])[2]
        found = _entries(await self._run("page", scope, kind, 0, "", 1, wanted))
        return found[0] if found else None

    async def count(self, scope: Scope, kind: str) -> int:
        if self._kinds[kind].is_listed:
            return int(await self._run("count", scope, kind))
        return sum([len(digests) async for digests in self.digests(scope, kind)])

    async def digests(self, scope: Scope, kind: str) -> AsyncIterator[list[tuple[bytes, int]]]:
        """All of a kind that is not listed, some at a time, each with the last day on which it counts."""
        level, levels = 0, 1
        while level < levels:
            for first in range(0, 16**level, _BUCKETS_AT_ONCE):
                many = min(_BUCKETS_AT_ONCE, 16**level - first)
                levels, fields = await self._run("buckets", scope, kind, level, first, many)
                if fields:
                    yield [(name, int(day)) for name, day in zip(fields[::2], fields[1::2], strict=True)]
            level += 1

    async def begin(
        self, scope: Scope, *, recorded: bool | None, mark: str = "", acknowledged: bool = False
    ) -> Begun:
        await self._indexed(orjson.dumps([scope.tenant, scope.storage]))
        word = "" if recorded is None else int(recorded)
        found, lost, policy = await self._run(
            "begin", scope, secrets.token_hex(8), mark, word, int(acknowledged)
        )
        self._note_policy(scope._replace(others=None), policy.decode())
        return Begun(found.decode(), float(lost) if lost else None)

    async def scopes(self) -> list[Scope]:
        """Which tenants have had which storage."""
        members = await self._indexed(b"")
        return sorted(Scope(storage, tenant) for tenant, storage in map(orjson.loads, members))

    async def is_recorded_wholly(self, scope: Scope) -> bool:
        """Whether all that the tenant has ever made there is known."""
        fields, _ = await self._run("about", scope, 0)
        return dict(zip(fields[::2], fields[1::2], strict=True)).get(b"recorded") == b"1"

    async def intents(self, scope: Scope) -> AsyncIterator[Intent]:
        found, cursor = dict[bytes, bytes](), b""
        while cursor != b"0":
            _, (cursor, fields) = await self._run("about", scope, cursor or 0)
            found |= dict(zip(fields[::2], fields[1::2], strict=True))
        left = [intent_of(exchange_id, kept) for exchange_id, kept in found.items()]
        for intent in sorted(left, key=attrgetter("at")):
            yield intent

    async def close(self) -> None:
        await self._wire.close()

    def _note_policy(self, place: Scope, policy: str) -> None:
        if policy in ("", "noeviction"):
            self._evicting.discard(place)
            return
        if not self._evicting:
            _log.error(
                "Redis may drop whose stored objects are when its memory is full (maxmemory-policy %s): what is "
                "dropped is closed to its owner, and until that is noeviction nobody who is left alone on an account "
                "has what nobody knows",
                policy,
            )
        self._evicting.add(place)

    async def _spared(self, scope: Scope, named: Sequence[Named]) -> str:
        """A sign for each: 1 where it may be used although nobody knows it."""
        others = scope.others
        if others is None or not named or self._evicting:
            return "0" * len(named)
        words = words_of(self._kinds, named)
        pieces = [
            (Scope(scope.storage, other), at) for other in others for at in range(0, len(named), _AT_ONCE)
        ]
        replies = await asyncio.gather(
            *(
                self._look(whose, "?" * len(named[at : at + _AT_ONCE]), words[3 * at : 3 * (at + _AT_ONCE)])
                for whose, at in pieces
            )
        )
        spared = [is_id(one.id) for one in named]
        for (_, at), (found, recorded) in zip(pieces, replies, strict=True):
            for n, sign in enumerate(found, at):
                spared[n] = spared[n] and recorded and sign == "0"
        return "".join("1" if one else "0" for one in spared)

    async def _look(
        self, scope: Scope, signs: str, words: Sequence[Word], intent: Intent | None = None
    ) -> tuple[str, bool]:
        found, mark, recorded = await self._run(
            "look", scope, *intent_words(self._kinds, intent), _MOST_INTENTS, signs, *words
        )
        is_doubted = self.saw(scope, mark.decode())
        return found.decode(), recorded == b"1" and not is_doubted

    async def _record_in_pieces(
        self, scope: Scope, words: Sequence[Word], intent_id: str, leaves: Word
    ) -> int:
        pieces, new = list(slices(words, 5, _AT_ONCE)), 0
        for piece in pieces:
            new += await self._run("record", scope, intent_id if piece is pieces[-1] else "", leaves, *piece)
        return new

    async def _run(self, script: str, scope: Scope, *arguments: Word) -> Reply:
        return await self._begun(script, scope, *arguments)

    def _begun(self, script: str, scope: Scope, *arguments: Word) -> asyncio.Future[Reply]:
        key = base_key(self._prefix, scope)
        return self._made(_Asked((1, key, *arguments), self._scripts[script]), key)

    async def _indexed(self, member: bytes) -> Reply:
        key = index_key(self._prefix)
        return await self._made(_Asked((1, key, member), self._index), key)

    def _made(self, call: Awaited, key: str) -> asyncio.Future[Reply]:
        """Make a call, which leaves with all others of this turn of the loop; what becomes of it."""
        self._wire.call(call, key)
        self._wire.flush_soon()
        return call.reply


class _Asked(Awaited):
    """A call whose failure is that of the store."""

    __slots__ = ()

    def failed(self, unavailable: RedisUnavailable) -> None:
        """Wake who waits with the failure."""
        if not self.reply.done():
            outage = StoreUnavailable(str(unavailable), sent=unavailable.sent)
            outage.__cause__ = unavailable
            self.reply.set_exception(outage)


class _Look(_Asked):
    """A look-up that tells what it saw."""

    __slots__ = ("_saw", "_scope")

    def __init__(
        self, words: Sequence[Argument], script: Script, scope: Scope, saw: Callable[[Scope, str], bool]
    ) -> None:
        super().__init__(words, script)
        self._scope = scope
        self._saw = saw

    def answered(self, reply: Reply) -> None:
        """Wake who waits with whether each may be used."""
        found, mark, _ = reply
        self._saw(self._scope, mark.decode())
        super().answered([sign == _MAY for sign in found])


def _entries(reply: Sequence[bytes]) -> list[Entry]:
    return [Entry(text_of(name), float(score)) for name, score in zip(reply[::2], reply[1::2], strict=True)]


def _nobody(scope: Scope, mark: str) -> bool:  # noqa: ARG001 (who remembers nothing doubts nothing)
    """Nobody wants to know."""
    return False
