"""Where Redis is: what a URL says, and connections to the server that a key belongs to.

    redis://[user:password@]host[:6379][/db]          one server; rediss:// with TLS
    unix://[user:password@]/path/to.sock[?db=0]       one server on this host
    redis+sentinel://[user:password@]host[:26379],host.../service[/db]   the master that Sentinels name
    redis+cluster://[user:password@]host[:6379],host...                  a Redis Cluster

`valkey` may stand for `redis`, and `rediss+sentinel`, `rediss+cluster` speak TLS. Query options: `db=`, `username=`,
`password=`; of TLS `ssl_ca_certs=`, `ssl_ca_path=`, `ssl_ca_data=`, `ssl_certfile=`, `ssl_keyfile=`, `ssl_password=`,
`ssl_ciphers=`, `ssl_check_hostname=`, `ssl_cert_reqs=`; `sentinel_username=` and `sentinel_password=` log in to
Sentinels, which otherwise get no login.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from urllib.parse import parse_qsl, unquote, urlsplit

from gateway.redis.connection import Address, Connection, Login, Tls
from gateway.redis.replies import RedisError

SENTINEL_SECONDS = 0.3
"""How long one Sentinel may take before the next is asked."""

Connect = Callable[[], Awaitable[Connection]]
"""Returns a connection that is ready for commands; raises RedisError or OSError."""


class Topology(Enum):
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES = {
    "redis": ("redis", Topology.SINGLE),
    "rediss": ("rediss", Topology.SINGLE),
    "unix": ("unix", Topology.SINGLE),
    "redis+sentinel": ("redis", Topology.SENTINEL),
    "rediss+sentinel": ("rediss", Topology.SENTINEL),
    "redis+cluster": ("redis", Topology.CLUSTER),
    "rediss+cluster": ("rediss", Topology.CLUSTER),
}


@dataclass(frozen=True, slots=True)
class RedisServers:
    """What a Redis URL says. Its repr holds no password."""

    topology: Topology
    addresses: tuple[Address, ...]
    """The server, the Sentinels, or the nodes to start from; empty for a Unix socket."""
    name: str
    """For logs and metrics: hosts, or path, or Sentinel service; never a login."""
    service: str
    _path: str
    _login: Login
    _sentinel_login: Login
    _tls: Tls | None

    @classmethod
    def parse(cls, url: str) -> RedisServers:
        """Read a URL as this module describes it; ValueError says what is wrong without quoting the URL."""
        scheme, separator, rest = url.partition("://")
        known = _SCHEMES.get(scheme.replace("valkey", "redis"))
        if known is None or not separator:
            raise ValueError(f"a Redis URL begins with one of {', '.join(f'{s}://' for s in _SCHEMES)}")
        plain_scheme, topology = known
        split = urlsplit(f"//{rest}")
        login, _, hosts = split.netloc.rpartition("@")
        username, _, password = login.partition(":")
        options = _Options(split.query)
        options.take(username=unquote(username) or None, password=unquote(password) or None)
        database = options.number("db")
        sentinel_login = Login(options.text("sentinel_username"), options.text("sentinel_password"))
        path = unquote(split.path) if plain_scheme == "unix" else ""
        if plain_scheme == "unix":
            addresses: tuple[Address, ...] = ()
            service = ""
        elif topology is Topology.SINGLE:
            addresses, service = (_address(hosts, 6379),), ""
            database = database or _number(split.path.strip("/"))
        else:
            addresses, service, place = _several(topology, hosts, split.path)
            database = database or place
        name = path or service or ",".join(f"{host}:{port}" for host, port in addresses)
        login_found = Login(options.text("username"), options.text("password"), database)
        tls = options.tls() if plain_scheme == "rediss" else None
        options.refuse_others()
        return cls(topology, addresses, name, service, path, login_found, sentinel_login, tls)

    def connector(self, address: Address | None = None) -> Connect:
        """How to reach the one server, the master that Sentinels name now, or the node at `address`."""
        if self.topology is Topology.SENTINEL and address is None:
            return self._connect_to_master
        if address is None and self.addresses:
            address = self.addresses[0]
        return lambda: self._connect(address)

    async def _connect_to_master(self) -> Connection:
        return await self._connect(await self._find_master())

    async def _connect(self, address: Address | None) -> Connection:
        # No retries: a repeated script could charge twice. No timeouts: who connects or calls sets the deadline.
        return await Connection.to(self._path if address is None else address, self._login, self._tls)

    async def _find_master(self) -> Address:
        for sentinel in self.addresses:
            try:
                async with asyncio.timeout(SENTINEL_SECONDS):
                    connection = await Connection.to(sentinel, self._sentinel_login, self._tls)
                    try:
                        reply = await connection.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
                    finally:
                        connection.close()
            except (RedisError, OSError, TimeoutError):
                continue
            if reply:
                return reply[0].decode(), int(reply[1])
        raise ConnectionError(f"no Sentinel names a master for {self.service}")


class _Options:
    """What stands behind the question mark, each once; ValueError names what is wrong, and never its value."""

    def __init__(self, query: str) -> None:
        self._left: dict[str, str] = dict(parse_qsl(query))

    def take(self, **stated: str | None) -> None:
        """Have these, where they are stated elsewhere in the URL."""
        self._left |= {name: value for name, value in stated.items() if value is not None}

    def text(self, name: str) -> str | None:
        return self._left.pop(name, None)

    def number(self, name: str) -> int:
        try:
            return int(self._left.pop(name, "0"))
        except ValueError:
            raise ValueError(f"{name} in the Redis URL is not a number") from None

    def tls(self) -> Tls:
        names = [name for name in self._left if name.removeprefix("ssl_") in _TLS_WORDS]
        words = {name.removeprefix("ssl_"): self._left.pop(name) for name in names}
        check = self._left.pop("ssl_check_hostname", "true").lower()
        if check not in _TRUE | _FALSE:
            raise ValueError("ssl_check_hostname in the Redis URL is neither true nor false")
        if words.get("cert_reqs", "required") not in ("none", "optional", "required"):
            raise ValueError("ssl_cert_reqs in the Redis URL is none of none, optional, required")
        return Tls(check_hostname=check in _TRUE, **words)

    def refuse_others(self) -> None:
        if self._left:
            raise ValueError(f"the Redis URL has an option that nobody knows: {min(self._left)}")


_TLS_WORDS = frozenset(
    ("ca_certs", "ca_path", "ca_data", "certfile", "keyfile", "password", "ciphers", "cert_reqs")
)
_TRUE, _FALSE = frozenset(("1", "true", "yes", "on")), frozenset(("0", "false", "no", "off"))


def _several(topology: Topology, hosts: str, path: str) -> tuple[tuple[Address, ...], str, int]:
    """The addresses, the service, and the database of a URL that names several hosts."""
    default_port = 26379 if topology is Topology.SENTINEL else 6379
    addresses = tuple(_address(host, default_port) for host in hosts.split(",") if host)
    if not addresses:
        raise ValueError("the Redis URL names no host")
    service, _, database = path.strip("/").partition("/")
    if topology is Topology.SENTINEL and not service:
        raise ValueError("a Sentinel URL names the service after the hosts: redis+sentinel://host:26379/name")
    if topology is Topology.CLUSTER:
        if service not in ("", "0"):
            raise ValueError("a Redis Cluster has no databases")
        return addresses, "", 0
    return addresses, service, _number(database)


def _number(text: str) -> int:
    if not text:
        return 0
    try:
        return int(text)
    except ValueError:
        raise ValueError("the database in the Redis URL is not a number") from None


def _address(text: str, default_port: int) -> Address:
    """Split `host`, `host:port` or `[v6]:port`."""
    try:
        split = urlsplit(f"//{text}")
        return split.hostname or "localhost", split.port or default_port
    except ValueError:
        raise ValueError("a port in the Redis URL is not a number") from None
