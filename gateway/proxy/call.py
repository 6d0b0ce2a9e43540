"""Asking the upstream, whatever is asked: where, as whom, over which connection, and when it answered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic

from gateway.errors import UpstreamBroken
from gateway.exchange.exchange import Exchange
from gateway.exchange.upstream_metrics import UpstreamTallies
from gateway.policy.tenants import UpstreamAccess
from gateway.proxy.account_watch import ACCOUNT_FIELDS, AccountWatch
from gateway.proxy.deadlines import DeadlineTable, ReplyDeadlines
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.reply import Reply
from gateway.proxy.upstream import Upstreams
from gateway.wire.answer_head import Head
from gateway.wire.headers import RequestHead
from gateway.wire.passing import for_upstream, loop_field
from gateway.wire.trace_context import CONTEXT_FIELDS

_CHANGES_NOTHING = frozenset({"GET", "HEAD"})
_PROJECT, _ORGANIZATION = ACCOUNT_FIELDS


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the exchanges of one standing go, and as whom."""

    access: UpstreamAccess
    pool: UpstreamPool
    deadlines: ReplyDeadlines
    tenant: str
    secrets: tuple[bytes, ...]
    """What is sent up that no client may see."""

    counts: UpstreamTallies
    """What is counted of the requests to that upstream."""

    alone: bool
    """Whether nobody else uses that account, so that its limits may be seen."""

    refused: Callable[[], None]
    """Is told that the upstream refuses our key."""


@dataclass(frozen=True, slots=True)
class _WayUp:
    """How heads of one kind go up, as long as it is from here to there."""

    to: Destination
    deployment: bytes
    written: bytes
    """The head as it goes up, with a place for each value that is a request's own."""

    places: tuple[int, ...] | None
    """Which of these values stands at each place; None: all of them, in their order."""

    length: int | None
    """Which of them is the length of the body."""


class Call:
    """One exchange's call of the upstream."""

    __slots__ = ("accounts", "deployment", "exchange", "reply", "to")

    def __init__(
        self, exchange: Exchange, to: Destination, reply: Reply, accounts: AccountWatch, deployment: bytes
    ) -> None:
        """`deployment`: our name in CDN-Loop."""
        self.exchange = exchange
        self.to = to
        self.reply = reply
        self.accounts = accounts
        self.deployment = deployment

    def request_head(
        self, *, length: int | None, without: frozenset[bytes] = frozenset(), more: bytes = b""
    ) -> bytes:
        """The request's head as it goes up.

        `length` is the body's size in bytes where it is known, `without` are further fields, by lower-case name,
        that do not pass, `more` are lines that follow those that do.
        """
        exchange, head, values = self.exchange, self.exchange.head, self.exchange.own_values
        span = exchange.span
        if span is not None:
            span.server = self.to.pool.origin
        if head.own is None or without or more or exchange.change is not None:
            return self._head(head.with_values(values), length, without, more)
        way = head.way_up
        if not isinstance(way, _WayUp) or way.to is not self.to or way.deployment != self.deployment:
            way = head.way_up = self._way_up(head, head.own)
        if length is not None and length != exchange.stated_bytes and exchange.stated_bytes is not None:
            if way.length is None:  # it is spelled as hardly anybody does
                return self._head(head.with_values(values), length, without, more)
            values = (*values[: way.length], b"%d" % length, *values[way.length + 1 :])
        if span is not None:
            values = (*values, span.lines)
        return way.written % (values if way.places is None else tuple([values[at] for at in way.places]))

    async def ask_for(self, target: str, *, without: frozenset[bytes]) -> Head:
        """Ask a question of the gateway's own for this exchange; the head of the answer. As `ask`."""
        exchange = self.exchange
        if exchange.span is not None:
            exchange.span.server = self.to.pool.origin
        exchange.asked_at = monotonic()
        return await self.ask(self._own_head(target, without=without))

    def shows(self, head: Head) -> None:
        """Of all that the upstream answered to this exchange's questions, this is what the client gets."""
        exchange, request_id = self.exchange, head.get(b"x-request-id")
        exchange.upstream_status = head.status
        exchange.upstream_request_id = None if request_id is None else request_id.decode("latin-1")

    def _own_head(self, target: str, *, without: frozenset[bytes]) -> bytes:
        """The head of such a question: as the client asks, but for another target."""
        exchange = self.exchange
        head = exchange.head.with_values(exchange.own_values)
        return self._head(head, None, without, b"", asks=("GET", target))

    def _way_up(self, head: RequestHead, own: tuple[int, ...]) -> _WayUp:
        """How all heads like this one go up."""
        # No value of a field has such a byte.
        *marks, mark = [b"\0%d\0" % at for at in range(len(own) + 1)]
        length = own.index(head.names.content_length) if head.names.content_length in own else None
        stated = None if length is None else marks[length]
        block = self._head(head.with_values(marks), stated, frozenset(), b"", mark)
        parts = block.replace(b"%", b"%%").split(b"\0")
        places = tuple(map(int, parts[1::2]))
        return _WayUp(
            self.to,
            self.deployment,
            b"%b".join(parts[::2]),
            None if places == tuple(range(len(own) + (self.exchange.span is not None))) else places,
            length,
        )

    def _head(
        self,
        head: RequestHead,
        length: int | bytes | None,
        without: frozenset[bytes],
        more: bytes,
        mark: bytes = b"",
        asks: tuple[str, str] | None = None,
    ) -> bytes:
        """`mark` is what stands in the place of the exchange's own place in a trace, where it has one; `asks`: by this
        method and for this target, in place of the exchange's."""
        exchange, access, pool = self.exchange, self.to.access, self.to.pool
        added = (*access.fields, *pool.proxy_fields, loop_field(head, self.deployment))
        if exchange.span is not None:
            without, added = without | CONTEXT_FIELDS, (*added, (b"traceparent", mark or exchange.span.lines))
        method, target = asks or (exchange.method, exchange.target)
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
            method.encode("ascii"),
            # aiohttp hands the target on as text in which every byte stands for itself.
            pool.target(target.encode("utf-8", "surrogateescape")),
            for_upstream(
                head,
                host=pool.host,
                authorization=access.authorization,
                added=added,
                length=length,
                identity=exchange.change is not None,
                without=without,
            ),
            more,
        )

    async def ask(self, block: bytes) -> Head:
        """Ask what has no body; the head of the answer. Raises an UpstreamFault, or Overloaded.

        Where the upstream hangs up instead, it is asked again, once, if it is to change nothing.
        """
        self.reply.write(block)
        self.reply.start_clock()
        try:
            return await self.read_head()
        except UpstreamBroken:
            if not self.may_ask_again:
                raise
        return await self.ask_again(block)

    @property
    def may_ask_again(self) -> bool:
        """Whether nothing was to be changed by what went up, and the connection was closed instead of an answer.

        Many servers close connections that nobody uses, just as the next request is on its way.
        """
        exchange = self.exchange
        return (
            self.reply.went_unanswered and exchange.method in _CHANGES_NOTHING and not exchange.head.has_body
        )

    async def ask_again(self, block: bytes) -> Head:
        """Ask the same over a new connection, in what is left of the time; the head of the answer.

        Raises an UpstreamFault, or Overloaded.
        """
        self.reply = reply = await self.to.pool.made_for(self.reply)
        reply.write(block)
        self.exchange.attempts += 1
        self.to.counts.asked_again.inc()
        self.exchange.asked_at = monotonic()
        return await self.read_head()

    async def read_head(self) -> Head:
        """The head of the answer. Raises an UpstreamFault."""
        head = await self.reply.read_head()
        self.answered(head)
        return head

    def answered(self, head: Head) -> None:
        """The head of the answer has come."""
        exchange = self.exchange
        exchange.head_at = now = monotonic()
        exchange.upstream_status = head.status
        self.to.counts.answered(head, exchange.model, exchange.asked_at or exchange.forwarded_at or now, now)
        request_id = head.get(b"x-request-id")
        if request_id is not None:
            exchange.upstream_request_id = request_id.decode("latin-1")
        first = head.names.first
        if (_PROJECT in first or _ORGANIZATION in first) and not exchange.operation.is_administration:
            self.accounts.saw(exchange.caller.tenant, head.pick(ACCOUNT_FIELDS), now)

    def gave_up(self, error: BaseException) -> None:
        """The exchange ends with this error, and its answer is not whole."""
        self.to.counts.gave_up(error, begun=self.exchange.head_at is not None)

    @contextmanager
    def ended_by_failure(self) -> Iterator[None]:
        """Whatever goes wrong meanwhile ends the call and its connection."""
        try:
            yield
        except BaseException as error:
            self.gave_up(error)
            self.reply.close()
            raise

    def ended(self) -> float:
        """The upstream's part is over; returns when it was, said for the first time."""
        exchange = self.exchange
        if exchange.upstream_ended_at is None:
            exchange.upstream_ended_at = monotonic()
        return exchange.upstream_ended_at


async def _destination(
    upstreams: Upstreams, deadlines: DeadlineTable, exchange: Exchange, access: UpstreamAccess
) -> Destination:
    pool = await upstreams.open(access)
    caller, operation = exchange.caller, exchange.operation
    return Destination(
        *(access, pool, deadlines.of(operation), caller.tenant.id, access.secrets + pool.logins),
        counts=upstreams.metrics.of(access.name),
        alone=caller.is_alone_on_account(operation),
        refused=partial(upstreams.identities.refused, access),
    )


async def call_upstream(upstreams: Upstreams, deadlines: DeadlineTable, exchange: Exchange) -> Call:
    """A connection on which this exchange may ask. Raises Overloaded, UpstreamIdentityUnavailable,
    UpstreamUnreachable or UpstreamTimeout.

    Whoever gets it ends it, by `release` or `close` of its reply.
    """
    standing = exchange.standing
    assert standing is not None
    access = upstreams.access_for(exchange.operation, exchange.caller)
    to = standing.destination
    if not isinstance(to, Destination) or to.access is not access:
        exchange.upstream = access.name
        access = upstreams.identities.opened(access)
        if not isinstance(to, Destination) or to.access is not access:
            to = standing.destination = await _destination(upstreams, deadlines, exchange, access)
    exchange.upstream = to.access.name
    pool, tenant = to.pool, to.tenant
    if not pool.places.take(tenant):
        await pool.wait_for_place(exchange)
    exchange.forwarded_at = now = monotonic()
    reply = pool.kept(now) or await pool.made(tenant)
    reply.begin(tenant, to.deadlines, now, no_body=exchange.method == "HEAD")
    exchange.attempts = 1
    return Call(exchange, to, reply, upstreams.accounts, upstreams.deployment())


async def call_beside(upstreams: Upstreams, deadlines: DeadlineTable, exchange: Exchange) -> Call:
    """As `call_upstream`, for one of several questions that the gateway asks by itself to answer this exchange."""
    access = upstreams.identities.opened(upstreams.access_for(exchange.operation, exchange.caller))
    to = await _destination(upstreams, deadlines, exchange, access)
    exchange.upstream = to.access.name
    if not to.pool.places.take(to.tenant):
        await to.pool.wait_for_place(exchange)
    if exchange.forwarded_at is None:
        exchange.forwarded_at = monotonic()
    reply = await to.pool.open(to.tenant, to.deadlines)
    exchange.attempts += 1
    return Call(exchange, to, reply, upstreams.accounts, upstreams.deployment())
