"""A gateway that goes: a process that is told to stop, or one in whose place another accepts."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import orjson

from gateway.credentials.key_ring import KeyRing, ensure_ring
from tests.kit.asking import credential_of
from tests.kit.client import RawClient
from tests.kit.command import RunningCommand, running_command
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.waiting import until

WAYS = ("SIGTERM", "leave")


class Going(Protocol):
    """A gateway that serves, and can be sent away."""

    host: str
    port: int
    notice_seconds: float
    """How long, from the first word on, connections between two requests are kept."""

    async def connect(self) -> RawClient:
        """A connection, with a credential that opens everything."""

    async def go(self) -> None:
        """The first word of its end."""

    async def at_once(self) -> None:
        """The second word."""

    async def gone(self, within_seconds: float) -> float:
        """Wait for its end; how long that took from the first word on."""

    async def lines(self, count: int) -> list[dict[str, Any]]:
        """What it has logged, once it is so many lines."""


class Stopping:
    """`gateway serve`, by signals."""

    def __init__(self, command: RunningCommand, credential: str, notice_seconds: float) -> None:
        self.command = command
        self.host, self.port = command.host, command.port
        self.notice_seconds = notice_seconds
        self._credential = credential
        self._began = 0.0

    async def connect(self) -> RawClient:
        return await RawClient.connect(self.host, self.port, self._credential)

    async def go(self) -> None:
        self.command.signal(signal.SIGTERM)
        self._began = time.monotonic()
        await self.command.says("stopping")

    async def at_once(self) -> None:
        self.command.signal(signal.SIGTERM)

    async def gone(self, within_seconds: float) -> float:
        assert await self.command.exit_code(within_seconds) == 0
        return time.monotonic() - self._began

    async def lines(self, count: int) -> list[dict[str, Any]]:
        await until(lambda: len(self.command.stdout) >= count)
        return [orjson.loads(line) for line in self.command.stdout]


class Leaving:
    """A process of several, whose sockets somebody else has open too."""

    def __init__(
        self, gateway: Gateway, drain_seconds: float, notice_seconds: float, held: list[socket.socket]
    ) -> None:
        self.gateway = gateway
        self.host, self.port = gateway.host, gateway.port
        self.notice_seconds = notice_seconds
        self.held = held
        """The same sockets, as a successor has them."""

        self._drain_seconds = drain_seconds
        self._began = 0.0
        self._draining: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def connect(self) -> RawClient:
        return await self.gateway.connect()

    async def go(self) -> None:
        self._began = time.monotonic()
        self.gateway.runner.leave()
        self._draining = asyncio.create_task(
            self.gateway.app.drain(self._drain_seconds, notice_seconds=self.notice_seconds)
        )
        self._ending = asyncio.create_task(self._ends(self._draining))

    async def _ends(self, draining: asyncio.Task[None]) -> None:
        await asyncio.wait({draining})
        await self.gateway.runner.cleanup()

    async def at_once(self) -> None:
        assert self._draining is not None
        self._draining.cancel()

    async def gone(self, within_seconds: float) -> float:
        assert self._ending is not None
        await asyncio.wait_for(self._ending, within_seconds)
        return time.monotonic() - self._began

    async def lines(self, count: int) -> list[dict[str, Any]]:
        return await self.gateway.lines.wait(count)


@asynccontextmanager
async def going(
    way: str,
    directory: Path,
    *,
    drain_seconds: float = 30.0,
    notice_seconds: float = 0.0,
    **more: Any,
) -> AsyncIterator[Going]:
    """One of `WAYS`. `more` are settings, nested."""
    ring, _ = ensure_ring(directory / "keys")
    async with AsyncExitStack() as stack:
        if way == "SIGTERM":
            yield await _stopping(stack, ring, directory, drain_seconds, notice_seconds, more)
        else:
            yield await _leaving(stack, ring, drain_seconds, notice_seconds, more)


async def _stopping(
    stack: AsyncExitStack,
    ring: KeyRing,
    directory: Path,
    drain_seconds: float,
    notice_seconds: float,
    more: dict[str, Any],
) -> Stopping:
    more = {"drain_seconds": drain_seconds, "drain_notice_seconds": notice_seconds} | more
    flags = [flag for key, value in _flat(more) for flag in ("--set", f"{key}={value}")]
    command = await stack.enter_async_context(
        running_command(
            *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
            *("--keys-dir", str(directory / "keys"), *flags),
        )
    )
    return Stopping(command, credential_of(ring), notice_seconds)


async def _leaving(
    stack: AsyncExitStack,
    ring: KeyRing,
    drain_seconds: float,
    notice_seconds: float,
    more: dict[str, Any],
) -> Leaving:
    gateway = await stack.enter_async_context(running_gateway(ring=ring, **more))
    listening = gateway.sockets
    held = [one.dup() for one in listening]
    for one in held:
        stack.callback(one.close)
    return Leaving(gateway, drain_seconds, notice_seconds, held)


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in settings.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return found
