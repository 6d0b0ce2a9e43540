"""The way to the upstream: pools of connections, and as whom they are used.

aiohttp's connector dials, pools, verifies and tunnels; what goes over a connection is the business of
`reply.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import aiohttp
from aiohttp.client_reqrep import ClientRequest
from yarl import URL

from gateway.errors import UpstreamTimeout, UpstreamUnreachable
from gateway.operations.table import Operation
from gateway.policy.caller import Caller
from gateway.policy.tenants import UpstreamAccess
from gateway.proxy.reply import Reply, UpstreamProtocol, cause
from gateway.settings.settings import Upstream as UpstreamSettings

# One refused or reset connect may be a restart in progress; nothing was sent, so trying again is safe.
CONNECT_ATTEMPTS = 3
CONNECT_PAUSE_SECONDS = 0.05


class Upstreams:
    """The pools of one process, by base URL, and what opens each upstream."""

    def __init__(
        self,
        settings: UpstreamSettings,
        *,
        administration: UpstreamAccess,
        http_proxy: str | None,
        connected: Callable[[str], None],
    ) -> None:
        self._settings = settings
        self._administration = administration
        self._http_proxy = http_proxy
        self._connected = connected
        self._pools: dict[str, UpstreamPool] = {}

    async def open(self, base_url: str) -> UpstreamPool:
        """The pool of an upstream, made on first use. Raises OSError for an unreadable CA file."""
        pool = self._pools.get(base_url)
        if pool is None:
            pool = UpstreamPool(
                self._settings, base_url=base_url, http_proxy=self._http_proxy, connected=self._connected
            )
            await pool.start()
            pool = self._pools.setdefault(base_url, pool)
        return pool

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
        connected: Callable[[str], None],
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

        self._http_proxy = http_proxy
        self._connected = connected
        self._connector: aiohttp.TCPConnector | None = None
        self._request: ClientRequest | None = None
        self._waiting = 0

    async def start(self) -> None:
        """Make the pool; needs the running loop. Raises OSError for an unreadable CA file."""
        loop = asyncio.get_running_loop()
        context: ssl.SSLContext | bool = True
        if self.settings.ca_file is not None:
            context = await asyncio.to_thread(ssl.create_default_context, cafile=str(self.settings.ca_file))
            context.set_alpn_protocols(["http/1.1"])
        self._connector = aiohttp.TCPConnector(
            limit=self.settings.max_connections,
            keepalive_timeout=self.settings.keepalive_seconds,
            ttl_dns_cache=30,
            ssl=context,
        )
        factory: Any = partial(UpstreamProtocol, loop=loop)
        self._connector._factory = factory
        proxy = URL(self._http_proxy) if self._http_proxy else None
        if proxy is not None and self._url.scheme == "http":
            # Without a tunnel the proxy itself is asked, in absolute form.
            self.base_path = b"http://" + self.host + self.base_path
            if proxy.user is not None:
                login = aiohttp.encode_basic_auth(proxy.user, proxy.password or "")
                self.proxy_fields = ((b"Proxy-Authorization", login.encode("latin-1")),)
        # A template: the connector reads from it where to connect, never what to send.
        self._request = ClientRequest("GET", self._url, loop=loop, ssl=context, proxy=proxy)
        self._timeout = aiohttp.ClientTimeout(
            total=None,
            connect=self.settings.connect_timeout_seconds,
            sock_connect=self.settings.connect_timeout_seconds,
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._connector is not None:
            await self._connector.close()

    def target(self, raw_target: bytes) -> bytes:
        """The request target upstream: the base URL's path in place of `/v1`, the rest byte for byte."""
        return self.base_path + raw_target[3:]

    async def open(self) -> Reply:
        """A connection, from the pool or new. Raises UpstreamUnreachable or UpstreamTimeout.

        A failed connect is tried again, because nothing was sent; nothing else ever is.
        """
        connector, request = self._connector, self._request
        assert connector is not None
        assert request is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.settings.connect_timeout_seconds
        attempt = 1
        self._waiting += 1
        try:
            while True:
                try:
                    connection = await connector.connect(request, traces=[], timeout=self._timeout)
                except (aiohttp.ServerTimeoutError, TimeoutError) as error:
                    self._connected("timeout")
                    raise UpstreamTimeout(
                        "The upstream could not be reached in time. Try again later.", detail=cause(error)
                    ) from error
                except (aiohttp.ClientSSLError, aiohttp.ClientConnectorDNSError) as error:
                    self._connected("failed")
                    raise UpstreamUnreachable(
                        "The upstream could not be reached securely or by name. Tell the gateway's operator.",
                        detail=cause(error),
                    ) from error
                except (aiohttp.ClientError, OSError) as error:
                    self._connected("failed")
                    if attempt >= CONNECT_ATTEMPTS or loop.time() + CONNECT_PAUSE_SECONDS > deadline:
                        raise UpstreamUnreachable(
                            "The upstream cannot be reached. Try again later.", detail=cause(error)
                        ) from error
                    await asyncio.sleep(CONNECT_PAUSE_SECONDS * attempt)
                    attempt += 1
                else:
                    protocol = connection.protocol
                    assert isinstance(protocol, UpstreamProtocol)
                    if protocol.should_close or not protocol.is_connected():
                        connection.close()  # something came, or went wrong, while it was idle
                        continue
                    protocol.idle = False
                    return Reply(connection, protocol, loop)
        finally:
            self._waiting -= 1

    def counts(self) -> dict[str, int]:
        """Connections by state, for the gauge."""
        connector: Any = self._connector
        if connector is None:
            return {"busy": 0, "idle": 0, "waiting": 0}
        return {
            "busy": len(connector._acquired),
            "idle": sum(map(len, connector._conns.values())),
            "waiting": self._waiting,
        }
