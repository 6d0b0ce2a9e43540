"""Which models there are, as upstreams list them: what their answers to clients say, and what they are asked here.

Metrics name no model that is not known. Each way upstream is asked as soon as there is one, and again every hour, one
after the other, beside all requests. One that does not say, as a server that is still starting, is asked again soon,
then less and less often. Whoever cannot be asked is told of once, and counted; nothing depends on it but names.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from time import monotonic

from gateway.errors import GatewayError
from gateway.exchange.exchange import Exchange
from gateway.exchange.observers import StreamObserver, Watch
from gateway.policy.accounts import is_public
from gateway.policy.model_names import ModelNames, listed_models
from gateway.policy.tenants import TenantBook, UpstreamAccess
from gateway.proxy.by_sight import codings_of
from gateway.proxy.deadlines import ReplyDeadlines
from gateway.proxy.reading import Reading
from gateway.proxy.upstream import Upstreams
from gateway.wire.answer_head import Head
from gateway.wire.codings import decoded
from gateway.wire.headers import NO_HEAD
from gateway.wire.passing import loop_field
from gateway.wire.search import Piece

_log = logging.getLogger("gateway.models")

_DEADLINES = ReplyDeadlines(first_byte_seconds=10.0, idle_seconds=5.0, total_seconds=10.0)
_MOST_BYTES = 2 * 2**20
_MOST_KEPT_BYTES = 4 * _MOST_BYTES
"""Of all answers together that go by: upstreams may take as long over them as over any other."""

_MOST_REMEMBERED = 256
_SPREAD = 0.1
"""The part of the time between two questions by which that varies: workers do not ask in step."""

_SOON_SECONDS = 2.0
"""After how long it is asked again what did not say, the first time; and how often it is looked who is to be asked."""


@dataclass(slots=True)
class _Way:
    """One way upstream, as it is asked."""

    access: UpstreamAccess
    tenant: str
    """Whose connection it is asked over."""

    due: float = 0.0
    pause_seconds: float = _SOON_SECONDS
    """Until it is asked again where it does not say."""


class ModelLists:
    """Learns names from lists of models, for as long as the process runs."""

    def __init__(
        self,
        *,
        upstreams: Upstreams,
        tenants: TenantBook,
        reading: Reading,
        names: ModelNames,
        every_seconds: float,
        loaded: Callable[[str, str], None],
    ) -> None:
        """`every_seconds`: how often upstreams are asked; 0: never. `loaded` is told of which, and `loaded` or
        `failed`."""
        self._upstreams = upstreams
        self._tenants = tenants
        self._reading = reading
        self._names = names
        self._every_seconds = every_seconds
        self._loaded = loaded
        self._asks: asyncio.Task[None] | None = None
        self._reads: asyncio.Task[None] | None = None
        self._read: set[int] = set()
        """The hashes of answers that have been read."""

        self._failing: set[str] = set()
        self._kept_bytes = 0
        """Of answers that are going by."""

    async def start(self) -> None:
        """Begin to ask, where that is wished."""
        if self._every_seconds:
            self._asks = asyncio.create_task(self._ask_again_and_again())

    async def close(self) -> None:
        """Ask no more."""
        tasks = {task for task in (self._asks, self._reads) if task is not None}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def watch(self, exchange: Exchange) -> ListWatch:
        """What watches the answer of an exchange that asks for the list."""
        tenant = exchange.caller.tenant
        watch = ListWatch(self, tenant.id, tenant.access.name)
        exchange.observers.append(watch)
        return watch

    def keep(self, count: int) -> bool:
        """Whether so many bytes more of an answer may be kept, which count as kept then; below 0: they are not."""
        if self._kept_bytes + count > _MOST_KEPT_BYTES:
            return False
        self._kept_bytes += count
        return True

    def saw(self, tenant: str, upstream: str, body: bytes, applied: Sequence[bytes]) -> None:
        """Read an answer that went by, unless one is being read or it says nothing new: others will come."""
        known = hash((upstream, body))
        if known in self._read or (self._reads is not None and not self._reads.done()):
            return
        if len(self._read) >= _MOST_REMEMBERED:
            self._read.clear()
        self._read.add(known)
        self._reads = asyncio.create_task(self._learn_from(tenant, upstream, body, tuple(applied)))

    async def _learn_from(self, tenant: str, upstream: str, body: bytes, applied: tuple[bytes, ...]) -> None:
        try:
            text: bytes | None = body
            if applied:
                text = await asyncio.to_thread(decoded, body, applied, most_bytes=_MOST_BYTES)
            if text is not None:
                self._names.learn(await self._reading.answer(tenant, text, listed_models, ()), upstream)
        except (GatewayError, RuntimeError) as error:
            _log.info("a list of models that went by could not be read: %s", error)

    async def _ask_again_and_again(self) -> None:
        ways: dict[UpstreamAccess, _Way] = {}
        seen = None
        while True:
            if seen is not self._tenants.policies:  # other ones are in force
                seen = self._tenants.policies
                ways = {way.access: ways.get(way.access, way) for way in self._ways()}
            for way in ways.values():
                if way.due <= monotonic():
                    way.due = monotonic() + await self._ask(way)
            await asyncio.sleep(min(_SOON_SECONDS, self._every_seconds))

    def _ways(self) -> Iterator[_Way]:
        for policy in tuple(self._tenants.policies.values()):
            access = policy.access
            if policy.settings.enabled and (access.opener or not is_public(access.base_url)):
                yield _Way(access, policy.id)

    async def _ask(self, way: _Way) -> float:
        """Ask one of them; returns in how many seconds to do so again."""
        name = way.access.name
        try:
            why = await self._asked(way.access, way.tenant)
        except GatewayError as error:
            why = error.detail or error.code or "it did not answer"
        except Exception:  # noqa: BLE001 (whatever it is, the next one is asked, and this one again)
            _log.exception("asking upstream %s for its models failed", name)
            why = "a defect"
        self._loaded(name, "loaded" if why is None else "failed")
        if why is None:
            self._failing.discard(name)
            way.pause_seconds, seconds = _SOON_SECONDS, self._every_seconds
        else:
            seconds = min(way.pause_seconds, self._every_seconds)
            way.pause_seconds = 2 * seconds
            if name not in self._failing:
                self._failing.add(name)
                _log.warning(
                    "upstream %s does not list its models (%s): metrics call those `other` that no configuration names",
                    name,
                    why,
                )
        return seconds * random.uniform(1 - _SPREAD, 1 + _SPREAD)  # noqa: S311 (nothing is kept secret by it)

    async def _asked(self, access: UpstreamAccess, tenant: str) -> str | None:
        """Learn an upstream's list; or why there is none. Raises a GatewayError."""
        upstreams = self._upstreams
        access = upstreams.identities.opened(access)
        pool = await upstreams.open(access)
        if not pool.places.take(tenant):
            return "all connections are in use"
        reply = await pool.open(tenant, _DEADLINES)
        try:
            fields = [
                (b"Host", pool.host),
                (b"Accept", b"application/json"),
                (b"Accept-Encoding", b"identity"),
            ]
            if access.authorization is not None:
                fields.append((b"Authorization", access.authorization))
            fields += (*access.fields, *pool.proxy_fields, loop_field(NO_HEAD, upstreams.deployment()))
            block = b"".join(b"%b: %b\r\n" % field for field in fields)
            reply.write(b"GET %b HTTP/1.1\r\n%b\r\n" % (pool.target(b"/v1/models"), block))
            reply.start_clock()
            head = await reply.read_head()
            # Behind another head there may be what never ends: a connection that no longer speaks HTTP.
            body = await reply.peek(_MOST_BYTES) if head.status == 200 else b""
        except BaseException:
            reply.close()
            raise
        if body is None:
            reply.close()
            return "its list is too long"
        reply.release()
        if head.status != 200:
            return str(head.status)
        names = await self._reading.answer(tenant, body, listed_models, ())
        self._names.learn(names, access.name)
        return None if names else "its answer is no list"


class ListWatch(StreamObserver):
    """Keeps what one answer says, as far as it is short."""

    __slots__ = ("_applied", "_kept", "_lists", "_tenant", "_upstream")

    def __init__(self, lists: ModelLists, tenant: str, upstream: str) -> None:
        self._lists = lists
        self._tenant = tenant
        self._upstream = upstream
        self._applied: tuple[bytes, ...] = ()
        self._kept: bytearray | None = None
        """None before there is anything, and once it is too much."""

    def opened(self, head: Head) -> Watch | None:
        """Only what is a whole success."""
        if head.status != 200:
            return None
        self._applied, self._kept = codings_of(head), bytearray()
        return self._keep

    def ended(self) -> None:
        """The exchange has ended."""
        if self._kept:
            self._lists.saw(self._tenant, self._upstream, bytes(self._kept), self._applied)
        self._forget()

    def _keep(self, piece: Piece) -> None:
        kept = self._kept
        if kept is None:
            return
        if len(kept) + len(piece) > _MOST_BYTES or not self._lists.keep(len(piece)):
            self._forget()
        else:
            kept += piece

    def _forget(self) -> None:
        if self._kept is not None:
            self._lists.keep(-len(self._kept))
            self._kept = None
