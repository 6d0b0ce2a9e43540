"""Gateways of the day, and who calls them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gateway.credentials.key_ring import KeyRing
from tests.kit.asking import credential_of
from tests.kit.client import CHAT, QUESTION
from tests.kit.command import RunningCommand, running_command
from tests.kit.redis import RedisServer


@dataclass
class Served:
    """A gateway that is a job of its own."""

    command: RunningCommand
    file: Path
    ring: KeyRing
    session: aiohttp.ClientSession
    credentials: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    """Of all answers so far."""

    @property
    def target(self) -> str:
        """Its private listener, as Prometheus scrapes it."""
        return f"127.0.0.1:{self.command.admin_port}"

    def credential(self, tenant: str, **more: Any) -> str:
        """A credential of a tenant; the same each time unless there is more to say about it."""
        if more:
            return credential_of(self.ring, tenant=tenant, **more)
        if tenant not in self.credentials:
            self.credentials[tenant] = credential_of(self.ring, tenant=tenant, ttl_seconds=30 * 86400)
        return self.credentials[tenant]

    async def ask(
        self,
        tenant: str,
        method: str = "POST",
        target: str = CHAT,
        body: bytes | None = QUESTION,
        *,
        credential: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> int:
        """One request, with `more` fields; the status of its answer, or 0 where none came whole."""
        headers = {"Authorization": f"Bearer {credential or self.credential(tenant)}", **(more or {})}
        if body is not None:
            headers["Content-Type"] = "application/json"
        url = f"http://{self.command.host}:{self.command.port}{target}"
        try:
            async with self.session.request(method, url, data=body, headers=headers) as answer:
                await answer.read()
                status = answer.status
        except (aiohttp.ClientError, TimeoutError):
            status = 0
        self.statuses.append(status)
        return status

    @property
    def pid(self) -> int:
        """Of the process, or of the supervisor."""
        return self.command.process.pid

    async def workers(self) -> list[int]:
        """Those that serve."""
        async with self.session.get(f"http://{self.target}/livez") as answer:
            document = await answer.json()
        return [worker["pid"] for worker in document["workers"] if worker["state"] == "ready"]

    async def page(self) -> str:
        """Its metrics as they are now."""
        async with self.session.get(f"http://{self.target}/metrics") as answer:
            return await answer.text()

    @asynccontextmanager
    async def withholding(self, *tenants: str, size_bytes: int = 900_000) -> AsyncIterator[None]:
        """Begin a request of each tenant whose body does not come, and takes up room."""
        with ExitStack() as callers:
            for tenant in tenants:
                _, writer = await asyncio.open_connection(self.command.host, self.command.port)
                callers.callback(writer.close)
                writer.write(
                    f"POST {CHAT} HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {self.credential(tenant)}\r\n"
                    f"Content-Type: application/json\r\nContent-Length: {size_bytes}\r\n\r\n".encode()
                )
            yield

    @asynccontextmanager
    async def calling(
        self, tenant: str, *request: Any, every_seconds: float = 0.1, at_once: int = 1, **more: Any
    ) -> AsyncIterator[None]:
        """Keep a tenant asking, so many at once, each again so long after its answer."""

        async def call() -> None:
            while True:
                await self.ask(tenant, *request, **more)
                await asyncio.sleep(every_seconds)

        callers = [asyncio.create_task(call()) for _ in range(at_once)]
        try:
            yield
        finally:
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)


@asynccontextmanager
async def gateway_of(
    directory: Path,
    configuration: str,
    *options: str,
    redis: RedisServer | None = None,
    workers: int = 1,
    module: str = "gateway",
    **environ: str,
) -> AsyncIterator[Served]:
    """Run a gateway as its operator does, from a configuration file; with Redis it may have several workers."""
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "gateway.toml"
    file.write_text(configuration)
    where = () if redis is None else ("--set", f"redis_url={redis.url}")
    async with AsyncExitStack() as stack:
        command = await stack.enter_async_context(
            running_command(
                *("serve", "--config", str(file), "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
                *("--workers", str(workers), "--keys-dir", str(directory / "keys")),
                *("--set", "drain_notice_seconds=0", *where, *options),
                module=module,
                **environ,
            )
        )
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=120)
            )
        )
        yield Served(command, file, KeyRing.load(directory / "keys"), session)
