"""A connection to one Redis server: dialled, by TLS where that is wanted, logged in, and asked one thing at a time."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass, field
from functools import cached_property

import hiredis

from gateway.redis.replies import NOT_YET, Argument, RedisError, Reply, pack, reader

Address = tuple[str, int]


@dataclass(frozen=True)
class Tls:
    """How a server is believed, and how we prove ourselves to it; files and words as Python's `ssl` has them."""

    ca_certs: str | None = None
    ca_path: str | None = None
    ca_data: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    password: str | None = field(default=None, repr=False)
    ciphers: str | None = None
    check_hostname: bool = True
    cert_reqs: str = "required"

    @cached_property
    def context(self) -> ssl.SSLContext:
        """Made once, from the files as they are then. Raises OSError where one cannot be read."""
        context = ssl.create_default_context()
        context.check_hostname = self.check_hostname and self.cert_reqs != "none"
        context.verify_mode = ssl.VerifyMode[f"CERT_{self.cert_reqs.upper()}"]
        if self.certfile or self.keyfile:
            context.load_cert_chain(self.certfile or "", self.keyfile, self.password)
        if self.ca_certs or self.ca_path or self.ca_data:
            context.load_verify_locations(self.ca_certs, self.ca_path, self.ca_data)
        if self.ciphers:
            context.set_ciphers(self.ciphers)
        return context


@dataclass(frozen=True)
class Login:
    """Who we are, and which database we want. Its repr holds no password."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    database: int = 0


class Connection(asyncio.Protocol):
    """One that is ready for commands; who has it ends it, by `close`, or hands its transport to another protocol."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._replies = reader()
        self._reply: asyncio.Future[Reply] | None = None
        self._strayed = False

    @classmethod
    async def to(cls, where: Address | str, login: Login, tls: Tls | None) -> Connection:
        """Dial an address, or the path of a socket, and log in. Raises RedisError or OSError; sets no deadline."""
        loop = asyncio.get_running_loop()
        if isinstance(where, str):
            _, connection = await loop.create_unix_connection(cls, where)
        else:
            host, port = where
            context = None if tls is None else tls.context
            _, connection = await loop.create_connection(cls, host, port, ssl=context)
        try:
            await connection._log_in(login)
        except BaseException:
            connection.close()
            raise
        return connection

    async def _log_in(self, login: Login) -> None:
        if login.username:
            await self.ask("AUTH", login.username, login.password or "")
        elif login.password:
            await self.ask("AUTH", login.password)
        if login.database:
            await self.ask("SELECT", login.database)

    async def ask(self, *words: Argument) -> Reply:
        """Run a command. Raises RedisError or OSError."""
        if self._transport is None:
            raise ConnectionError("the server hung up")
        waiting = self._reply = asyncio.get_running_loop().create_future()
        self._transport.write(pack(*words))
        reply = await waiting
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def hand_over(self, protocol: asyncio.Protocol) -> asyncio.WriteTransport:
        """Let `protocol` talk to the server from now on. Raises ConnectionError where the server has ended it."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._strayed:
            raise ConnectionError("the server hung up, or spoke before it was asked")
        transport.set_protocol(protocol)
        return transport

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # uvloop's are none by name

    def data_received(self, data: bytes) -> None:
        self._replies.feed(data)
        try:
            reply = self._replies.gets()
        except hiredis.ProtocolError as error:
            self._end(ConnectionError(f"what came is no reply: {error}"))
            self.close()
            return
        if reply is NOT_YET:
            return
        waiting, self._reply = self._reply, None
        if waiting is None:
            self._strayed = True
        elif not waiting.done():
            waiting.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._end(exc or ConnectionError("Connection closed by server."))

    def _end(self, error: Exception) -> None:
        waiting, self._reply = self._reply, None
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
