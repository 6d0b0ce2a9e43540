"""An organization that a test administers by `gateway upstream`, and can disturb at any call."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from gateway.cli import main
from gateway.simulator import build_simulator
from tests.kit.command import Completed, environment, words

ADMIN_KEY = "sk-admin-that-nobody-may-read"
PROJECT = "gateway:default:acme"
LIMITS = "max_requests_per_1_minute = 300"

Fault = Callable[[web.Request, Callable[[], Awaitable[web.StreamResponse]]], Awaitable[web.StreamResponse]]
"""What happens in the place of a call, or around it."""


def answering(status: int, **headers: str) -> Fault:
    """This answer, and nothing done."""

    async def answer(_: web.Request, __: object) -> web.StreamResponse:
        error = {"message": "Simulated trouble.", "type": "server_error", "param": None, "code": None}
        return web.json_response({"error": error}, status=status, headers=headers)

    return answer


async def dropped(request: web.Request, _: object) -> web.StreamResponse:
    """Nothing is done, and nothing answered."""
    assert request.transport is not None
    request.transport.abort()
    raise ConnectionResetError


async def lost(
    request: web.Request, serve: Callable[[], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """It is done, and the answer gets lost."""
    await serve()
    return await dropped(request, None)


@dataclass
class Organization:
    """The simulator, with a configuration and whoever asks."""

    folder: Path
    port: int = 0
    calls: list[str] = field(default_factory=list)
    """Every call since the last command began."""

    faults: dict[int, Fault] = field(default_factory=dict)
    """By the number of a call of the next command."""

    fault: Fault | None = None
    """Of every call."""

    limits: str = f'[tenants.acme.limits.models."gpt-4o"]\n{LIMITS}'
    upstream: str = "monthly_spend_limit_usd = 50"
    more: str = ""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def key_file(self) -> Path:
        return self.folder / "upstream-keys" / "acme.key"

    @property
    def key(self) -> str:
        return self.key_file.read_text().strip()

    def configuration(self) -> Path:
        """The file that commands read, as it ought to be now."""
        file = self.folder / "gateway.toml"
        (self.folder / "admin.key").write_text(f"{ADMIN_KEY}\n")
        file.write_text(
            f'keys_dir = "{self.folder}/keys"\n[upstream]\nbase_url = "{self.base_url}"\n'
            f'admin_api_key = "file:{self.folder}/admin.key"\n[tenants.acme.upstream]\n{self.upstream}\n'
            f"{self.limits}\n{self.more}\n"
        )
        return file

    async def run(self, verb: str, *more: str) -> Completed:
        """Run a command to its end, in this process."""
        self.calls.clear()
        out, err = io.StringIO(), io.StringIO()
        command = ["upstream", verb, "--config", str(self.configuration()), *more]
        with redirect_stdout(out), redirect_stderr(err):
            code = await asyncio.to_thread(main, command)
        done = Completed(code, out.getvalue(), err.getvalue())
        assert ADMIN_KEY not in done.stdout + done.stderr
        return done

    async def killed(self, verb: str, *more: str, at: int, after: bool) -> None:
        """Run a command in a process of its own, which is killed at a call: before it is done, or after."""
        self.calls.clear()
        command = words(("upstream", verb, "--config", str(self.configuration()), *more))
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment({}),
        )

        async def kill(
            request: web.Request, serve: Callable[[], Awaitable[web.StreamResponse]]
        ) -> web.StreamResponse:
            if after:
                await serve()
            os.kill(process.pid, signal.SIGKILL)
            return await dropped(request, None)

        self.faults = {at: kill}
        async with asyncio.timeout(60):
            code = await process.wait()
        self.faults = {}
        assert code == -signal.SIGKILL

    async def ask(self, path: str, key: str = ADMIN_KEY, method: str = "GET", **body: object) -> Any:
        """Ask the simulator itself, past everything; the status where that is an error."""
        headers = {"Authorization": f"Bearer {key}", "x-of-the-test": "1"}
        async with (
            aiohttp.ClientSession(headers=headers) as session,
            session.request(method, self.base_url + path, json=body or None) as answer,
        ):
            return await answer.json() if answer.status == 200 else answer.status

    async def projects(self) -> list[dict[str, Any]]:
        return list((await self.ask("/organization/projects?limit=100"))["data"])

    async def keys(self) -> list[dict[str, Any]]:
        """All keys of all projects."""
        return [
            key
            for project in await self.projects()
            for key in (await self.ask(f"/organization/projects/{project['id']}/api_keys"))["data"]
        ]

    async def accounts(self) -> list[dict[str, Any]]:
        return [
            account
            for project in await self.projects()
            for account in (await self.ask(f"/organization/projects/{project['id']}/service_accounts"))[
                "data"
            ]
        ]

    async def is_whole(self) -> None:
        """Check that there is one project with limits, and one key, which is in the file."""
        (project,) = await self.projects()
        assert project["name"] == PROJECT
        path = f"/organization/projects/{project['id']}"
        rows = {row["model"]: row for row in (await self.ask(f"{path}/rate_limits"))["data"]}
        assert rows["gpt-4o"]["max_requests_per_1_minute"] == 300
        assert rows["gpt-4.1"]["max_requests_per_1_minute"] > 300
        assert (await self.ask(f"{path}/spend_limit"))["threshold_amount"] == 5000
        (account,) = await self.accounts()
        (key,) = await self.keys()
        assert key["owner"]["service_account"]["id"] == account["id"]
        assert (account["name"], key["expires_at"] - key["created_at"]) == (PROJECT, 90 * 86400)
        assert self.key.endswith(key["redacted_value"][-4:])
        assert await self.ask("/models", self.key) != 401
        assert sorted(self.key_file.parent.iterdir()) == [self.key_file]
        assert self.key_file.stat().st_mode & 0o777 == 0o600
        assert self.key_file.parent.stat().st_mode & 0o777 == 0o700

    @web.middleware
    async def observe(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Count a call, and disturb it."""
        if "x-of-the-test" in request.headers:
            return await handler(request)
        fault = self.fault or self.faults.pop(len(self.calls), None)
        self.calls.append(f"{request.method} {request.path}")
        return await (handler(request) if fault is None else fault(request, lambda: handler(request)))


@asynccontextmanager
async def running_organization(folder: Path, **options: Any) -> AsyncIterator[Organization]:
    """An organization without projects."""
    organization = Organization(folder)
    app = build_simulator(api_key="sk-common", admin_api_key=ADMIN_KEY, **options)
    app.middlewares.append(organization.observe)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        organization.port = runner.addresses[0][1]
        yield organization
    finally:
        await runner.cleanup()
