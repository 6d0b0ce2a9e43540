"""The way to the upstream: a pool of connections, and one exchange over one of them.

aiohttp's connector dials, pools, verifies and tunnels; its response parser reads. The request head
is written by us, so that what goes up is exactly what `headers.py` lets pass. Foreign exceptions
become the gateway's errors here, in one table. Private attributes of aiohttp are used as in `edge.py`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, assert_never

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.connector import Connection
from aiohttp.helpers import _EXC_SENTINEL as _NO_CAUSE
from aiohttp.helpers import set_exception
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from yarl import URL

from gateway.errors import GatewayError, UpstreamBroken, UpstreamTimeout, UpstreamUnreachable
from gateway.exchange.exchange import Exchange
from gateway.operations.table import Operation
from gateway.policy.tenants import UpstreamAccess
from gateway.settings.settings import Upstream as UpstreamSettings
from gateway.wire.headers import Head

READ_BUFFER_BYTES = 64 * 1024
# One refused or reset connect may be a restart in progress; nothing was sent, so trying again is safe.
CONNECT_ATTEMPTS = 3
CONNECT_PAUSE_SECONDS = 0.05
MOST_INTERIM_ANSWERS = 32
# No reasoning takes its time where records are read and written.
STORED_FIRST_BYTE_SECONDS = 120.0

_NO_TIMEOUT = aiohttp.ClientTimeout(total=None)


def cause(error: BaseException) -> str:
    """What went wrong, for the log: never the bytes that aiohttp's texts go on to quote."""
    said = error.strerror if isinstance(error, OSError) else None
    if isinstance(error, HttpProcessingError):
        said = " ".join((error.message or "").split("\n\n", 1)[0].split())[:100]
    return type(error).__name__ + (f": {said}" if said else "")


def _timed_out(error: BaseException) -> GatewayError:
    return UpstreamTimeout("The upstream took too long to answer.", detail=cause(error))


def _broken(error: BaseException) -> GatewayError:
    return UpstreamBroken("The upstream broke off its answer.", detail=cause(error))


def _not_http(error: BaseException) -> GatewayError:
    return UpstreamBroken("The upstream sent something that is not an HTTP answer.", detail=cause(error))


# First match wins: aiohttp's timeouts are also connection errors.
_BORDER: tuple[tuple[type[BaseException], Callable[[BaseException], GatewayError]], ...] = (
    (aiohttp.ServerTimeoutError, _timed_out),
    (TimeoutError, _timed_out),
    (aiohttp.ClientPayloadError, _broken),
    (HttpProcessingError, _not_http),
    (aiohttp.ClientError, _broken),
    (OSError, _broken),
)
FOREIGN = tuple(kind for kind, _ in _BORDER)


def translated(error: BaseException) -> GatewayError:
    """The gateway's error for one of aiohttp's or the system's, with the cause for the log."""
    for kind, ours in _BORDER:
        if isinstance(error, kind):
            return ours(error)
    raise TypeError(f"not a foreign exception: {error!r}")


@dataclass(frozen=True, slots=True)
class ReplyLimits:
    """How long the upstream may take, in seconds."""

    first_byte_seconds: float
    idle_seconds: float
    total_seconds: float


class LimitTable:
    """The limits in force by operation: those of its kind, else the general ones."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self._by_id: dict[str, ReplyLimits] = {}

    def of(self, operation: Operation) -> ReplyLimits:
        """The limits of one operation."""
        limits = self._by_id.get(operation.id)
        if limits is None:
            limits = self._by_id[operation.id] = self._resolved(operation)
        return limits

    def _resolved(self, operation: Operation) -> ReplyLimits:
        settings = self._settings
        first_byte = settings.first_byte_timeout_seconds
        match kind_of(operation):
            case "generation":
                own = settings.timeouts.generation
            case "transfer":
                own = settings.timeouts.transfer
            case "stored":
                own = settings.timeouts.stored
                first_byte = min(first_byte, STORED_FIRST_BYTE_SECONDS)
            case _ as never:
                assert_never(never)
        return ReplyLimits(
            own.first_byte_seconds or first_byte,
            own.idle_seconds or settings.idle_timeout_seconds,
            own.total_seconds or settings.total_timeout_seconds,
        )


def kind_of(operation: Operation) -> Literal["generation", "transfer", "stored"]:
    """What an operation's time goes into: a model's thinking, a file's bytes, or the reading of records."""
    if operation.model_location != "none" or operation.usage_location.startswith("response.usage"):
        return "generation"
    if "multipart/form-data" in operation.request_types or operation.streams:
        return "transfer"
    return "stored"


class _Protocol(ResponseHandler):
    """aiohttp's client protocol, without two habits that would let one exchange into another.

    It takes what comes on an idle connection for the answer to the next request, whoever makes it; and it
    forgets a body under way when the framing of what follows is broken.
    """

    idle = False

    def data_received(self, data: bytes) -> None:
        if self.idle and data:
            self.abort()
            return
        super().data_received(data)

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _NO_CAUSE) -> None:
        payload = self._payload
        super().set_exception(exc, exc_cause)
        if payload is not None and isinstance(exc, HttpProcessingError) and not payload.is_eof():
            set_exception(payload, aiohttp.ClientPayloadError("the body's framing is broken"), exc)


class Reply:
    """One exchange over one upstream connection; exactly one of `release` or `close` ends it."""

    __slots__ = (
        "_connection",
        "_head_due_at",
        "_loop",
        "_payload",
        "_peeked",
        "_total",
        "ended",
        "head",
        "limits",
        "protocol",
    )

    def __init__(self, connection: Connection, protocol: _Protocol, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._payload: StreamReader = EMPTY_PAYLOAD
        self._peeked = b""
        self._head_due_at: float | None = None
        self._total: asyncio.TimerHandle | None = None
        self.protocol = protocol
        self.head: Head | None = None
        self.ended = False

    @property
    def transport(self) -> asyncio.Transport:
        """Where the request is written; raises UpstreamBroken when the connection is gone."""
        transport = self.protocol.transport
        if transport is None or transport.is_closing():
            raise UpstreamBroken("The upstream closed its connection before the request was sent.")
        return transport

    def expect(self, limits: ReplyLimits, *, no_body: bool = False) -> None:
        """Prepare to read one answer; `no_body` for HEAD, whose answers have none whatever they say."""
        self.limits = limits
        self.protocol.set_response_params(
            skip_payload=no_body,
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=limits.first_byte_seconds,
            read_bufsize=READ_BUFFER_BYTES,
            max_line_size=65536,
            max_field_size=65536,
            max_headers=512,
        )
        # The read timer answers for both limits: it fails the head, or the body where that has begun.
        self._total = self._loop.call_later(limits.total_seconds, self.protocol._on_read_timeout)

    def start_clock(self) -> None:
        """The request is out: from now on the first-byte limit runs."""
        self._head_due_at = self._loop.time() + self.limits.first_byte_seconds
        self.protocol.start_timeout()

    async def read_head(self) -> Head:
        """The final head; interim ones (1xx) are skipped. Raises an UpstreamFault."""
        protocol = self.protocol
        interim = 0
        try:
            while True:
                message, payload = await protocol.read()
                if message.code == 101 or message.code >= 200:
                    break
                interim += 1
                if interim > MOST_INTERIM_ANSWERS:
                    raise UpstreamBroken("The upstream sends interim answers without end.")
                self._resume_clock()
        except FOREIGN as error:
            raise translated(error) from error
        codings = [
            value.strip().lower()
            for name, value in message.raw_headers
            if name.lower() == b"transfer-encoding"
        ]
        if codings not in ([], [b"chunked"]):
            raise UpstreamBroken("The upstream's answer has a transfer coding that is not spoken here.")
        self._payload = payload
        self.head = Head(message.code, message.reason or "", message.raw_headers)
        protocol.read_timeout = self.limits.idle_seconds
        if not payload.is_eof():
            protocol.start_timeout()
        return self.head

    def _resume_clock(self) -> None:
        # aiohttp stops its timer at every head; an interim one is no first byte.
        if self._head_due_at is not None:
            self.protocol.read_timeout = max(0.001, self._head_due_at - self._loop.time())
            self.protocol.start_timeout()

    @property
    def buffered(self) -> bool:
        """Whether a piece, or the end, can be had without waiting."""
        payload = self._payload
        # The end is asked for first: the payload of a bodiless answer has nothing else to say.
        return bool(self._peeked) or payload.is_eof() or payload.exception() is not None or payload._size > 0

    @property
    def finished(self) -> bool:
        """Whether the whole body has been read, and its end was not a reset in disguise."""
        return (
            not self._peeked
            and self._payload.at_eof()
            and not isinstance(self.protocol.exception(), aiohttp.ClientOSError)
        )

    async def read(self) -> bytes:
        """The next piece as it arrived; empty at the end of the body. Raises an UpstreamFault."""
        if self._peeked:
            piece, self._peeked = self._peeked, b""
            return piece
        payload = self._payload
        if payload.exception() is not None and payload._size:
            return payload._read_nowait(-1)  # what arrived before the break is still the client's
        try:
            piece = await payload.readany()
        except FOREIGN as error:
            raise translated(error) from error
        if not piece:
            # A reset looks like the end of a body that is delimited by the end of the connection.
            lost = self.protocol.exception()
            if isinstance(lost, aiohttp.ClientOSError):
                raise translated(lost)
        return piece

    async def peek(self, most_bytes: int) -> bytes | None:
        """The whole of a short body, which `read` will still return; None when it is longer.

        Raises an UpstreamFault.
        """
        body = b""
        while piece := await self.read():
            body += piece
            if len(body) > most_bytes:
                self._peeked = body
                return None
        self._peeked = body
        return body

    def put_back(self, body: bytes) -> None:
        """Let `read` return this instead of what was peeked."""
        self._peeked = body

    def upgraded(self) -> None:
        """The connection speaks another protocol now: HTTP's limits no longer apply."""
        self._cancel_total()

    def release(self) -> None:
        """The exchange ended properly: the connection may serve another one."""
        self._end()
        self.protocol.idle = True
        self._connection.release()

    def close(self) -> None:
        """The exchange ended in any other way: nobody shares this connection any more."""
        self._end()
        self._connection.close()

    def _end(self) -> None:
        self.ended = True
        self._cancel_total()
        # A limit of this exchange must not run out in the next one.
        self.protocol.read_timeout = None
        self.protocol._drop_timeout()

    def _cancel_total(self) -> None:
        if self._total is not None:
            self._total.cancel()
            self._total = None


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

    def access_for(self, exchange: Exchange) -> UpstreamAccess:
        """Where an exchange goes, and as whom: administration has one place and one key for everybody."""
        assert exchange.tenant is not None
        if exchange.operation.scope.startswith("org."):
            return self._administration
        access = exchange.tenant.access
        if exchange.upstream_secret is not None:
            return replace(access, api_key=exchange.upstream_secret)
        return access

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
        factory: Any = partial(_Protocol, loop=loop)
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
                    assert isinstance(protocol, _Protocol)
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
