"""Where Redis is: what a URL says, and connections to the server that a key belongs to.

    redis://[user:password@]host[:6379][/db]          one server; rediss:// with TLS
    unix://[user:password@]/path/to.sock[?db=0]       one server on this host
    redis+sentinel://[user:password@]host[:26379],host.../service[/db]   the master that Sentinels name
    redis+cluster://[user:password@]host[:6379],host...                  a Redis Cluster

`valkey` may stand for `redis`, and `rediss+sentinel`, `rediss+cluster` speak TLS. Query options are those of
redis-py (`ssl_ca_certs=`, `ssl_certfile=`, `ssl_keyfile=`, `ssl_check_hostname=`, …); `sentinel_username=`
and `sentinel_password=` log in to Sentinels, which otherwise get no login.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.redis.schemes import Topology, scheme_of

SENTINEL_SECONDS = 0.3
"""How long one Sentinel may take before the next is asked."""

Address = tuple[str, int]
_UNKNOWN_OPTION = re.compile(r"unexpected keyword argument '(\w+)'")

Connect = Callable[[], Awaitable[AbstractConnection]]
"""Returns a connection that is ready for commands; raises RedisError or OSError."""


@dataclass(frozen=True, slots=True)
class RedisServers:
    """What a Redis URL says. Its repr holds no password."""

    topology: Topology
    addresses: tuple[Address, ...]
    """The server, the Sentinels, or the nodes to start from; empty for a Unix socket."""
    name: str
    """For logs and metrics: hosts, or path, or Sentinel service; never a login."""
    service: str
    _kind: type[AbstractConnection]
    _options: _Options
    _sentinel_login: _Options

    @classmethod
    def parse(cls, url: str) -> RedisServers:
        """Read a URL as this module describes it; ValueError says what is wrong without quoting the URL."""
        plain_scheme, topology = scheme_of(url)
        rest = url.partition("://")[2]
        if topology is Topology.SINGLE:
            servers = cls._single(f"{plain_scheme}://{rest}")
        else:
            servers = cls._several(plain_scheme, topology, rest)
        try:
            servers._kind(
                **_arguments(servers._options.values)
            )  # connects nowhere, and says what it cannot take
        except (TypeError, RedisError) as error:
            unknown = _UNKNOWN_OPTION.search(str(error))
            what = f"there is no option {unknown[1]}" if unknown else str(error)
            raise ValueError(f"the Redis URL cannot be used: {what}") from None
        return servers

    @classmethod
    def _single(cls, url: str) -> RedisServers:
        options = dict(parse_url(url))
        kind: Any = options.pop("connection_class", Connection)
        if "path" in options:
            return cls(Topology.SINGLE, (), str(options["path"]), "", kind, _Options(options), _Options({}))
        host, port = str(options.pop("host", "localhost")), int(str(options.pop("port", 6379)))
        address = (host, port)
        return cls(Topology.SINGLE, (address,), f"{host}:{port}", "", kind, _Options(options), _Options({}))

    @classmethod
    def _several(cls, scheme: str, topology: Topology, rest: str) -> RedisServers:
        split = urlsplit(f"//{rest}")
        login, at, hosts = split.netloc.rpartition("@")
        default_port = 26379 if topology is Topology.SENTINEL else 6379
        addresses = tuple(_address(host, default_port) for host in hosts.split(",") if host)
        if not addresses:
            raise ValueError("the Redis URL names no host")
        service, _, database = split.path.strip("/").partition("/")
        if topology is Topology.SENTINEL and not service:
            raise ValueError(
                "a Sentinel URL names the service after the hosts: redis+sentinel://host:26379/name"
            )
        if topology is Topology.CLUSTER and service not in ("", "0"):
            raise ValueError("a Redis Cluster has no databases")
        options = dict(parse_url(f"{scheme}://{login}{at}host/{database}?{split.query}"))
        kind: Any = options.pop("connection_class", Connection)
        del options["host"]
        logins = {name: options.pop(f"sentinel_{name}", None) for name in ("username", "password")}
        name = service or ",".join(f"{host}:{port}" for host, port in addresses)
        return cls(topology, addresses, name, service, kind, _Options(options), _Options(logins))

    def connector(self, address: Address | None = None) -> Connect:
        """How to reach the one server, the master that Sentinels name now, or the node at `address`."""
        if self.topology is Topology.SENTINEL and address is None:
            return self._connect_to_master
        if address is None and self.addresses:
            address = self.addresses[0]
        return lambda: self._connect(address)

    async def ask_sentinel(self, address: Address, question: str) -> Any:
        """What one Sentinel says of the service. Raises RedisError or OSError, TimeoutError among them."""
        host, port = address
        login = dict(self._sentinel_login.values)
        tls = {name: value for name, value in self._options.values.items() if name.startswith("ssl")}
        async with asyncio.timeout(SENTINEL_SECONDS):
            sentinel = await _connected(self._kind, {"host": host, "port": port, **login, **tls})
            try:
                return await ask(sentinel, "SENTINEL", question, self.service)
            finally:
                await sentinel.disconnect(nowait=True)

    @property
    def shows_who_asks(self) -> bool:
        """Whether servers are shown a password or a certificate."""
        return any(self._options.values.get(name) for name in ("password", "ssl_certfile"))

    async def _connect_to_master(self) -> AbstractConnection:
        return await self._connect(await self.find_master())

    async def _connect(self, address: Address | None) -> AbstractConnection:
        options = dict(self._options.values)
        if address is not None:
            options["host"], options["port"] = address
        return await _connected(self._kind, options)

    async def find_master(self) -> Address:
        """Which server the Sentinels name now."""
        for address in self.addresses:
            try:
                reply = await self.ask_sentinel(address, "GET-MASTER-ADDR-BY-NAME")
            except (RedisError, OSError, TimeoutError):
                continue
            if reply:
                return reply[0].decode(), int(reply[1])
        raise ConnectionError(f"no Sentinel names a master for {self.service}")


class _Options:
    """Keyword arguments that may hold passwords: never shown, never compared."""

    __slots__ = ("values",)

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    def __repr__(self) -> str:
        return "…"


def _arguments(options: dict[str, Any]) -> dict[str, Any]:
    # No retries: a repeated script could charge twice. No timeouts: who connects or calls sets the deadline.
    # RESP2, and no introduction: the handshake needs no round trip of its own.
    return {
        **options,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "driver_info": None,
    }


async def _connected(kind: type[AbstractConnection], options: dict[str, Any]) -> AbstractConnection:
    connection = kind(**_arguments(options))
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    return connection


async def ask(connection: AbstractConnection, *words: str | bytes | int) -> Any:
    """Run one command on a connection that has been handed over to nobody, and return the reply."""
    await connection.send_command(*words)
    return await connection.read_response()


async def hand_over(connection: AbstractConnection, protocol: asyncio.Protocol) -> asyncio.WriteTransport:
    """Let `protocol` talk to the server from now on: the connection is kept to be disconnected, for nothing else.

    The one place that looks into redis-py's connections: its reading is a coroutine per reply.
    """
    writer: asyncio.StreamWriter | None = connection._writer
    if writer is None or await connection.can_read():
        raise ConnectionError("the server hung up, or spoke before it was asked")
    transport = writer.transport
    transport.set_protocol(protocol)
    return transport


def _address(text: str, default_port: int) -> Address:
    """Split `host`, `host:port` or `[v6]:port`."""
    try:
        split = urlsplit(f"//{text}")
        return split.hostname or "", split.port or default_port
    except ValueError:
        raise ValueError("a port in the Redis URL is not a number") from None
