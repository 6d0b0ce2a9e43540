"""The way to the upstream: pools of connections, and as whom they are used.

aiohttp's connector dials, keeps, verifies and tunnels; who may use it is decided by `places.py`, what goes over
a connection is the business of `reply.py`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Literal, NamedTuple

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from yarl import URL

from gateway.errors import GatewayError, Overloaded, UpstreamTimeout, UpstreamUnreachable
from gateway.exchange.exchange import Exchange
from gateway.exchange.kept_errors import forget_origin
from gateway.operations.table import Operation
from gateway.policy.caller import Caller
from gateway.policy.tenants import UpstreamAccess
from gateway.proxy.account_watch import AccountWatch
from gateway.proxy.bites import Turns
from gateway.proxy.connection import hung_up
from gateway.proxy.places import Places
from gateway.proxy.reply import Reply, UpstreamProtocol, cause
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.settings import Upstream as UpstreamSettings

# One refused or reset connect may be a restart in progress; nothing was sent, so trying again is safe.
CONNECT_ATTEMPTS = 3
CONNECT_PAUSE_SECONDS = 0.05

_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
"""What the system says when it is this machine that has nothing left."""


Trusted = ssl.SSLContext | Literal[True]
"""Whose certificates are believed; True: the system's authorities."""


def trusted_certificates(ca_file: Path | None) -> Trusted:
    """Read the file of authorities. Raises SettingsInvalid when it cannot be used."""
    if ca_file is None:
        return True
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:  # ssl.SSLError is one
        raise SettingsInvalid(
            [Problem("upstream.ca_file", f"{ca_file}: cannot be used: {error.strerror or error}")]
        ) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


class PoolEvents(NamedTuple):
    """Who is told what becomes of connections."""

    connected: Callable[[str], None]
    """An attempt to connect failed: `failed`, `timeout`, or `no_files` when that is our own doing."""

    waited: Callable[[str, str, float], None]
    """A tenant's exchange had to wait for a connection: whose, `served`, `refused` or `left`, and how long."""

    first: Callable[[str], None]
    """A tenant uses a pool for the first time; told once for each pool."""


class Upstreams:
    """The pools of one process, by base URL, and what opens each upstream."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        administration: UpstreamAccess,
        http_proxy: str | None,
        events: PoolEvents,
        turns: Turns,
        accounts: AccountWatch,
        deployment: Callable[[], bytes],
    ) -> None:
        self.deployment = deployment
        """Our name in CDN-Loop, at any time."""

        self.accounts = accounts
        """Is told what answers say of whose account they come from."""

        self._settings = settings
        self._administration = administration
        self._http_proxy = http_proxy
        self._events = events
        self._turns = turns
        self._pools: dict[str, UpstreamPool] = {}
        self._trusted: Trusted | None = None

    def trust(self, trusted: Trusted) -> None:
        """Believe these certificates, and no others, for every connection that is made from now on."""
        if trusted is True and self._trusted is True:
            return  # as before
        self._trusted = trusted
        for pool in self._pools.values():
            pool.trust(trusted)

    async def open(self, base_url: str) -> UpstreamPool:
        """The pool of an upstream, made on first use. Raises SettingsInvalid for a CA file that cannot be used."""
        pool = self._pools.get(base_url)
        if pool is None:
            if self._trusted is None:
                trusted = await asyncio.to_thread(trusted_certificates, self._settings.ca_file)
                self._trusted = self._trusted or trusted
            pool = UpstreamPool(
                self._settings,
                base_url=base_url,
                http_proxy=self._http_proxy,
                events=self._events,
                make_room=self._drop_idle,
                turns=self._turns,
            )
            pool.start(self._trusted)
            pool = self._pools.setdefault(base_url, pool)
        return pool

    @property
    def administers(self) -> bool:
        """Whether there is a key for administration: without it those operations are closed."""
        return self._administration.api_key is not None

    def administer(self, administration: UpstreamAccess) -> None:
        """Where administration goes from now on, and with which key."""
        self._administration = administration

    def access_for(self, operation: Operation, caller: Caller) -> UpstreamAccess:
        """Where an operation goes, and as whom: administration has one place and one key for everybody."""
        if operation.is_administration:
            return self._administration
        access = caller.tenant.access
        return access if caller.upstream_secret is None else replace(access, api_key=caller.upstream_secret)

    def counts(self) -> dict[str, int]:
        """Connections by state, for the gauge."""
        counts = {"busy": 0, "idle": 0, "waiting": 0}
        for pool in tuple(self._pools.values()):
            for state, count in pool.counts().items():
                counts[state] += count
        return counts

    def held_by(self, tenant: str) -> int:
        """Connections that a tenant's exchanges hold, for the gauge."""
        return sum(pool.places.held_by(tenant) for pool in tuple(self._pools.values()))

    def _drop_idle(self) -> None:
        """Close what nobody uses: one pool's idle connections must not keep another from connecting."""
        for pool in self._pools.values():
            pool.drop_idle()

    async def close(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.close()


class UpstreamPool:
    """Connections to one upstream origin."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        base_url: str,
        http_proxy: str | None,
        events: PoolEvents,
        make_room: Callable[[], None],
        turns: Turns,
    ) -> None:
        url = URL(base_url, encoded=True)
        self.settings = settings
        self.base_path = url.raw_path.rstrip("/").encode("ascii")
        """What replaces `/v1` in the target."""

        port = "" if url.port is None or url.is_default_port() else f":{url.port}"
        self.host = f"{url.host_subcomponent}{port}".encode("ascii")
        self._url = url
        self.proxy_fields: tuple[tuple[bytes, bytes], ...] = ()
        """What a proxy that is asked without a tunnel wants to see."""

        self.places = Places(settings.max_connections, tenant_share=settings.tenant_share, first=events.first)
        self._http_proxy = http_proxy
        self._events = events
        self._make_room = make_room
        self._turns = turns
        self._connector: aiohttp.TCPConnector | None = None
        self._request: ClientRequest | None = None

    def start(self, trusted: Trusted) -> None:
        """Make the pool; needs the running loop."""
        loop = asyncio.get_running_loop()
        self._connector = aiohttp.TCPConnector(
            limit=0,  # who may have one is decided by the places
            keepalive_timeout=self.settings.keepalive_seconds,
            ttl_dns_cache=30,
        )
        factory: Any = partial(UpstreamProtocol, loop, self._turns)
        self._connector._factory = factory
        proxy = URL(self._http_proxy) if self._http_proxy else None
        if proxy is not None and self._url.scheme == "http":
            # Without a tunnel the proxy itself is asked, in absolute form.
            self.base_path = b"http://" + self.host + self.base_path
            if proxy.user is not None:
                login = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
                self.proxy_fields = ((b"Proxy-Authorization", login.encode("latin-1")),)
        self._proxy = proxy
        self.trust(trusted)
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=self.settings.connect_timeout_seconds,
            sock_connect=self.settings.connect_timeout_seconds,
        )

    def trust(self, trusted: Trusted) -> None:
        """Believe these certificates for new connections, and keep no idle one that others vouched for."""
        self.drop_idle()
        # A template: the connector reads from it where to connect, never what to send.
        self._request = ClientRequest(
            "GET", self._url, loop=asyncio.get_running_loop(), ssl=trusted, proxy=self._proxy
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._connector is not None:
            await self._connector.close()

    def target(self, raw_target: bytes) -> bytes:
        """The request target upstream: the base URL's path in place of `/v1`, the rest byte for byte."""
        return self.base_path + raw_target[3:]

    async def take_place(self, exchange: Exchange) -> None:
        """Take the right to a connection, for the exchange's tenant; `open` takes it over.

        Raises Overloaded when none comes free in time. Nobody waits here who has one already.
        """
        places, tenant = self.places, exchange.caller.tenant.id
        if places.take(tenant):
            return
        began = monotonic()
        result = "left"
        try:
            served = await places.wait(tenant, self.settings.connection_wait_seconds)
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

    async def open(self, tenant: str) -> Reply:
        """A connection, kept or new, for the place that the tenant has taken; the end of the reply gives it back.

        Raises UpstreamUnreachable, UpstreamTimeout, or Overloaded when it is this machine that cannot connect;
        then the place has been given back. A failed connect is tried again, because nothing was sent; nothing
        else ever is.
        """
        give_back = partial(self.places.give_back, tenant)
        try:
            connection, protocol = await self._connected()
        except BaseException:
            give_back()
            raise
        return Reply(connection, protocol, asyncio.get_running_loop(), give_back=give_back)

    async def _connected(self) -> tuple[Connection, UpstreamProtocol]:
        connector, request = self._connector, self._request
        assert connector is not None
        assert request is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.connect_timeout_seconds
        attempt = 1
        while True:
            try:
                connection = await connector.connect(request, traces=[], timeout=self._timeout)
            except (aiohttp.ClientError, OSError) as error:
                forget_origin(error)  # what dials keeps it
                failure = _failure(error)
                self._events.connected(failure.result)
                if (
                    failure.is_final
                    or attempt >= CONNECT_ATTEMPTS
                    or loop.time() + CONNECT_PAUSE_SECONDS > deadline
                ):
                    raise failure.error from error
                if failure.result == "no_files":
                    self._make_room()
                await asyncio.sleep(CONNECT_PAUSE_SECONDS * attempt)
                attempt += 1
            else:
                protocol = connection.protocol
                assert isinstance(protocol, UpstreamProtocol)
                gone = protocol.should_close or not protocol.is_connected()
                if gone or (protocol.idle and hung_up(protocol)):
                    connection.close()  # something came, or went wrong, while it was idle
                    continue
                protocol.idle = False
                return connection, protocol

    def drop_idle(self) -> None:
        """Close the connections that nobody uses."""
        connector: Any = self._connector
        for kept in () if connector is None else connector._conns.values():
            while kept:
                protocol, _ = kept.popleft()
                protocol.close()

    def counts(self) -> dict[str, int]:
        """Connections by state, for the gauge."""
        connector: Any = self._connector
        kept = () if connector is None else tuple(connector._conns.values())
        return {
            "busy": self.places.taken,
            "idle": sum(map(len, kept)),
            "waiting": self.places.waiting,
        }


class _Failure(NamedTuple):
    """A failed attempt to connect: what it is counted as, how it is told, and whether trying again is in vain."""

    result: str
    error: GatewayError
    is_final: bool = False


def _failure(error: aiohttp.ClientError | OSError) -> _Failure:
    if isinstance(error, TimeoutError):  # aiohttp's are among these
        return _Failure(
            "timeout",
            UpstreamTimeout(
                "The upstream could not be reached in time. Try again later.", detail=cause(error)
            ),
            is_final=True,
        )
    by_name = isinstance(error, aiohttp.ClientConnectorDNSError)
    if (isinstance(error, OSError) and error.errno in _NO_FILES) or (by_name and not _files_left()):
        return _Failure(
            "no_files",
            Overloaded(
                "The gateway cannot open more connections. Try again in a moment.",
                detail=f"no connection to the upstream: {cause(error)}",
            ),
        )
    if by_name or isinstance(error, aiohttp.ClientSSLError):
        return _Failure(
            "failed",
            UpstreamUnreachable(
                "The upstream could not be reached securely or by name. Tell the gateway's operator.",
                detail=cause(error),
            ),
            is_final=True,
        )
    return _Failure(
        "failed",
        UpstreamUnreachable("The upstream cannot be reached. Try again later.", detail=cause(error)),
    )


def _files_left() -> bool:
    """Whether a file can be opened: name resolution does not say when that was its trouble."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return False
    return True
