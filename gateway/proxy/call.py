"""Asking the upstream, whatever is asked: where, as whom, over which connection, and when it answered."""

from __future__ import annotations

from time import monotonic
from typing import NamedTuple

from gateway.exchange.exchange import Exchange
from gateway.policy.tenants import UpstreamAccess
from gateway.proxy.account_watch import ACCOUNT_FIELDS, AccountWatch
from gateway.proxy.deadlines import DeadlineTable
from gateway.proxy.pool import UpstreamPool
from gateway.proxy.reply import Reply
from gateway.proxy.upstream import Upstreams
from gateway.wire.headers import Head, RequestHead
from gateway.wire.passing import for_upstream, loop_field

_ACCOUNT_FIELDS = frozenset(ACCOUNT_FIELDS)


class _WayUp(NamedTuple):
    """How heads of one kind go up, as long as it is from here to there."""

    access: UpstreamAccess
    pool: UpstreamPool
    deployment: bytes
    before: bytes
    """What stands in front of the body's length, or all where none is stated."""

    behind: bytes

    def leads(self, call: Call) -> bool:
        """Whether it is that of this call."""
        return self.access is call.access and self.pool is call.pool and self.deployment == call.deployment


class Call(NamedTuple):
    """One exchange's call of the upstream."""

    exchange: Exchange
    access: UpstreamAccess
    pool: UpstreamPool
    reply: Reply
    accounts: AccountWatch
    deployment: bytes
    """Our name in CDN-Loop."""

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """What was sent up that no client may see."""
        logins = self.pool.logins
        return self.access.secrets + logins if logins else self.access.secrets

    def request_head(
        self, *, length: int | None, without: frozenset[bytes] = frozenset(), more: bytes = b""
    ) -> bytes:
        """The request's head as it goes up.

        `length` is the body's size in bytes where it is known, `without` are further fields, by lower-case name,
        that do not pass, `more` are lines that follow those that do.
        """
        head = self.exchange.head
        template = head.template
        if template is None or without or more or self.exchange.change is not None:
            return self._head(head, length, without, more)
        way = template.way_up
        if not isinstance(way, _WayUp) or not way.leads(self):
            # No value of a field has such a byte.
            before, _, behind = self._head(template, b"\0", without, b"").partition(b"\0")
            way = template.way_up = _WayUp(self.access, self.pool, self.deployment, before, behind)
        if not way.behind:
            return way.before
        stated = head.content_length if length is None else length
        assert stated is not None, "where a length stands, it is known"
        return b"%b%d%b" % (way.before, stated, way.behind)

    def _head(
        self, head: RequestHead, length: int | bytes | None, without: frozenset[bytes], more: bytes
    ) -> bytes:
        exchange, access, pool = self.exchange, self.access, self.pool
        return b"%b %b HTTP/1.1\r\n%b%b\r\n" % (
            exchange.method.encode("ascii"),
            # aiohttp hands the target on as text in which every byte stands for itself.
            pool.target(exchange.target.encode("utf-8", "surrogateescape")),
            for_upstream(
                head,
                host=pool.host,
                authorization=access.authorization,
                added=(*access.fields, *pool.proxy_fields, loop_field(head, self.deployment)),
                length=length,
                identity=exchange.change is not None,
                without=without,
            ),
            more,
        )

    async def read_head(self) -> Head:
        """The head of the answer, with its time. Raises an UpstreamFault."""
        reply = self.reply
        while (head := reply.head) is None:
            await reply.coming()
        exchange = self.exchange
        exchange.head_at = monotonic()
        first = head.names.first
        at = first.get(b"x-request-id")
        if at is not None:
            exchange.upstream_request_id = head.fields[at][1].decode("latin-1")
        if not _ACCOUNT_FIELDS.isdisjoint(first) and not exchange.operation.is_administration:
            self.accounts.saw(exchange.caller.tenant, head.pick(_ACCOUNT_FIELDS), exchange.head_at)
        return head

    def ended(self) -> float:
        """The upstream's part is over; returns when it was, said for the first time."""
        exchange = self.exchange
        if exchange.upstream_ended_at is None:
            exchange.upstream_ended_at = monotonic()
        return exchange.upstream_ended_at


async def call_upstream(upstreams: Upstreams, deadlines: DeadlineTable, exchange: Exchange) -> Call:
    """A connection on which this exchange may ask. Raises Overloaded, UpstreamUnreachable or UpstreamTimeout.

    Whoever gets it ends it, by `release` or `close` of its reply.
    """
    access = upstreams.access_for(exchange.operation, exchange.caller)
    pool = upstreams.opened(access.base_url) or await upstreams.open(access.base_url)
    tenant = exchange.caller.tenant.id
    if not pool.places.take(tenant):
        await pool.wait_for_place(exchange)
    exchange.forwarded_at = now = monotonic()
    reply = pool.kept(now) or await pool.made(tenant)
    reply.begin(tenant, deadlines.of(exchange.operation), now, no_body=exchange.method == "HEAD")
    return Call(exchange, access, pool, reply, upstreams.accounts, upstreams.deployment())
