"""The connections to one upstream origin: who may have one is decided by `places.py`; what is free is kept here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

import aiohttp
from yarl import URL

from gateway.errors import Overloaded
from gateway.exchange.exchange import Exchange
from gateway.policy.accounts import is_public
from gateway.policy.tenants import SECRET_BYTES
from gateway.proxy.answer_heads import AnswerHeads
from gateway.proxy.bites import Turns
from gateway.proxy.deadlines import ReplyDeadlines
from gateway.proxy.dial import Dialler
from gateway.proxy.places import Places
from gateway.proxy.reply import Reply
from gateway.proxy.wheel import Wheel
from gateway.settings.upstream import Upstream as UpstreamSettings
from gateway.wire.leading import Origin

_OFFICIAL_SECONDS = 15.0
_OTHERS_SECONDS = 4.0
"""Many servers in Python close idle connections after 5 seconds."""


class PoolEvents(NamedTuple):
    """Who is told what becomes of connections."""

    connected: Callable[[str, float], None]
    """An attempt to connect has ended, and how long it took: `connected`, `failed`, `timeout`, or `no_files` when that
    is our own doing."""

    waited: Callable[[str, str, float], None]
    """A tenant's exchange had to wait for a connection: whose, `served`, `refused` or `left`, and how long."""

    first: Callable[[str], None]
    """A tenant uses a pool for the first time; told once for each pool."""


class UpstreamPool:
    """Connections to one upstream origin, made in the running loop."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        name: str,
        base_url: str,
        http_proxy: str | None,
        trusted: ssl.SSLContext | None,
        events: PoolEvents,
        make_room: Callable[[], None],
        turns: Turns,
        wheel: Wheel,
    ) -> None:
        self.name = name
        """What metrics call it."""

        url = URL(base_url, encoded=True)
        port = "" if url.port is None or url.is_default_port() else f":{url.port}"
        self.host = f"{url.host_subcomponent}{port}".encode("ascii")
        self.base_path = path = url.raw_path.rstrip("/").encode("ascii")
        """What replaces `/v1` in the target."""

        self.origin = Origin(
            f"{url.host_subcomponent}".lower().encode("ascii"), b"%d" % (url.port or 0), path
        )
        """By what references are told that lead there."""

        self.proxy_fields: tuple[tuple[bytes, bytes], ...] = ()
        """What a proxy that is asked without a tunnel wants to see."""

        self.logins: tuple[bytes, ...] = ()
        """What of these no client may see."""

        proxy = URL(http_proxy) if http_proxy else None
        if proxy is not None and url.scheme == "http":
            # Without a tunnel the proxy itself is asked, in absolute form.
            self.base_path = b"http://" + self.host + self.base_path
            if proxy.user is not None:
                login = aiohttp.encode_basic_auth(proxy.user, proxy.password or "").encode("latin-1")
                self.proxy_fields = ((b"Proxy-Authorization", login),)
                secret = login.rpartition(b" ")[2]
                self.logins = (secret,) if len(secret) >= SECRET_BYTES else ()
        self.places = Places(settings.max_connections, tenant_share=settings.tenant_share, first=events.first)
        self._wheel = wheel
        self.due_step: int | None = None
        self._wait_seconds = settings.connection_wait_seconds
        self._keepalive_seconds = settings.keepalive_seconds or (
            _OFFICIAL_SECONDS if is_public(base_url) else _OTHERS_SECONDS
        )
        self._events = events
        self._turns = turns
        self._heads = AnswerHeads()
        self._loop = asyncio.get_running_loop()
        self._trusted = trusted
        self._dialler = Dialler(
            url,
            proxy=proxy,
            timeout_seconds=settings.connect_timeout_seconds,
            attempted=events.connected,
            make_room=make_room,
        )
        self._dialler.trust(trusted)
        self._idle: dict[Reply, None] = {}
        """Connections that nobody uses, in the order in which they came free."""

        self._closed = False

    def trust(self, trusted: ssl.SSLContext) -> None:
        """Believe these certificates for new connections, and keep no idle one that others vouched for."""
        self._trusted = trusted
        self._dialler.trust(trusted)
        self.drop_idle()

    async def close(self) -> None:
        """Close every connection that nobody uses, and keep none from now on."""
        self._closed = True
        self.drop_idle()
        self._wheel.forget(self)
        await self._dialler.close()

    def target(self, raw_target: bytes) -> bytes:
        """The request target upstream: the base URL's path in place of `/v1`, the rest byte for byte."""
        return self.base_path + raw_target[3:]

    async def wait_for_place(self, exchange: Exchange) -> None:
        """Take the right to a connection for the exchange's tenant where there was none; `open` takes it over.

        Raises Overloaded when none comes free in time. Nobody waits here who has one already.
        """
        places, tenant = self.places, exchange.caller.tenant.id
        began = monotonic()
        result = "left"
        try:
            served = await places.wait(tenant, self._wait_seconds)
            result = "served" if served else "refused"
        finally:
            seconds = monotonic() - began
            exchange.waited_seconds += seconds
            self._events.waited(tenant, result, seconds)
        if not served:
            raise Overloaded(
                "The gateway's connections to the upstream are all in use, or all that this tenant may have. "
                "Try again in a moment.",
                detail=f"{places.taken} of {places.most} connections to the upstream in use, "
                f"{places.held_by(tenant)} by this tenant",
            )

    async def open(self, tenant: str, deadlines: ReplyDeadlines, *, no_body: bool = False) -> Reply:
        """A connection, kept or new, for the place that the tenant has taken; the end of the reply gives it back.

        `no_body`: what is asked for has none, whatever its head says (HEAD). Raises UpstreamUnreachable,
        UpstreamTimeout, or Overloaded when it is this machine that cannot connect; then the place has been given
        back. Connecting is tried again, nothing else is here.
        """
        now = monotonic()
        reply = self.kept(now) or await self.made(tenant)
        reply.begin(tenant, deadlines, now, no_body=no_body)
        return reply

    async def made(self, tenant: str) -> Reply:
        """A new connection, for the place that the tenant has taken. Raises as `open` does."""
        trusted = self._trusted
        try:
            transport = await self._dialler.connect()
        except BaseException:
            self.places.give_back(tenant)
            raise
        reply = Reply(self._loop, self._turns, self._wheel, self._heads, self, vouched_by=trusted)
        transport.set_protocol(reply)
        reply.connection_made(transport)
        return reply

    async def made_for(self, lost: Reply) -> Reply:
        """A new connection for the exchange of one that was lost, in the same place. Raises as `open` does.

        Whoever had the lost one ends this one, and has to ask anew.
        """
        tenant = lost.leave()
        assert tenant is not None
        reply = await self.made(tenant)
        reply.begin_in_place_of(lost, tenant)
        return reply

    def kept(self, now: float) -> Reply | None:
        """The connection that came free last, of those that are as good as new."""
        idle, oldest = self._idle, now - self._keepalive_seconds
        while idle:
            reply, _ = idle.popitem()
            transport = reply.transport
            if transport is None or transport.is_closing():
                continue
            if reply.idle_since >= oldest and not reply.stirs():
                return reply
            transport.close()
        return None

    def keep(self, reply: Reply) -> bool:
        """Have a connection that is free again; False: it is of no use."""
        if self._closed or reply.vouched_by is not self._trusted:
            return False
        reply.idle_since = now = monotonic()
        self._idle[reply] = None
        if self.due_step is None:
            self._wheel.ask(self, now + self._keepalive_seconds)
        return True

    def gone(self, reply: Reply) -> None:
        """A connection that was kept is lost, or of no use any more."""
        self._idle.pop(reply, None)

    def due(self, now: float) -> float | None:
        """Close what has been idle for too long."""
        oldest = now - self._keepalive_seconds
        for reply in tuple(self._idle):
            if reply.idle_since > oldest:
                return reply.idle_since + self._keepalive_seconds
            del self._idle[reply]
            _close(reply)
        return None

    def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
        while self._idle:
            _close(self._idle.popitem()[0])

    def counts(self) -> dict[str, int]:
        """Connections by state, for the gauge."""
        return {"busy": self.places.taken, "idle": len(self._idle), "waiting": self.places.waiting}


def _close(reply: Reply) -> None:
    if reply.transport is not None:
        reply.transport.close()
