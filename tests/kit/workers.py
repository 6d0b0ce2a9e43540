"""A gateway of several workers, as its operator runs it, with a Redis of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from tests.kit.client import RawClient
from tests.kit.command import RunningCommand, running_command
from tests.kit.redis import RedisServer
from tests.kit.waiting import found

AT_ONCE = ("--set", "drain_notice_seconds=0")


@dataclass
class Workers:
    """Handles on them."""

    command: RunningCommand
    credential: str
    clients: list[RawClient] = field(default_factory=list)

    @property
    def supervisor(self) -> int:
        """Its process."""
        return self.command.process.pid

    async def page(self, path: str) -> tuple[int, Any]:
        """What the private listener answers, its JSON parsed where it is some."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.command.admin_port}{path}") as answer,
        ):
            body = await answer.read()
            is_json = answer.content_type == "application/json"
            return answer.status, orjson.loads(body) if is_json else body.decode()

    async def pids(self, *states: str) -> list[int]:
        """The workers in these states, by slot; without any, those that are ready."""
        _, document = await self.page("/livez")
        return [worker["pid"] for worker in document["workers"] if worker["state"] in (states or ("ready",))]

    async def connect(self) -> RawClient:
        """A connection to one of them; closed at the end, if the test has not done it."""
        client = await RawClient.connect(self.command.host, self.command.port, self.credential)
        self.clients.append(client)
        return client

    async def connect_to(self, pid: int) -> RawClient:
        """A connection that this worker has accepted."""
        for _ in range(200):
            client = await self.connect()
            await client.request("GET", "/gateway/me")
            local = client.socket.getsockname()[1]
            if local in _peers(pid, self.command.port):
                return client
            await client.close()
        raise AssertionError(f"{pid} accepts nobody")

    async def all_ready(
        self, count: int, *, but: tuple[int, ...] = (), within_seconds: float = 30.0
    ) -> list[int]:
        """Wait until so many are ready, none of them one of those; who they are."""

        async def ready() -> list[int]:
            pids = await self.pids()
            return pids if len(pids) == count and not set(pids) & set(but) else []

        return await found(ready, within_seconds)

    async def metric(self, series: str) -> float:
        """The value of one series; 0 when it has not appeared."""
        _, page = await self.page("/metrics")
        for line in page.splitlines():
            if line.rsplit(" ", 1)[0] == series:
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def signal(self, number: signal.Signals) -> None:
        """Send the supervisor a signal."""
        self.command.signal(number)


@asynccontextmanager
async def running_workers(
    directory: Path,
    base_url: str,
    redis: RedisServer | None,
    *more: str,
    workers: int = 2,
    module: str = "gateway",
) -> AsyncIterator[Workers]:
    """Run workers in front of an upstream, with keys in a directory of the test."""
    where = () if redis is None else ("--set", f"redis_url={redis.url}")
    async with running_command(
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--workers", str(workers)),
        *("--upstream", base_url, "--keys-dir", str(directory / "keys"), *where, *more),
        module=module,
    ) as command:
        credential = command.first_credential
        assert credential is not None
        running = Workers(command, credential)
        try:
            yield running
        finally:
            for client in running.clients:
                await client.close()


def is_alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _peers(pid: int, port: int) -> set[int]:
    """The ports of clients whose connections to this port a process holds."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(file)  # noqa: PTH115 (what it leads to is no path)
        except OSError:
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[9] in inodes and int(fields[1].rpartition(":")[2], 16) == port:
            found.add(int(fields[2].rpartition(":")[2], 16))
    return found
