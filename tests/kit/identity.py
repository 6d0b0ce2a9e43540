"""A provider's endpoint at which workload identities are exchanged (RFC 8693): it checks all that it is shown."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
from aiohttp import web

PROVIDER = "idp_test"
SUBJECT = "eyJhbGciOiJSUzI1NiJ9.of-the-platform.canary-of-the-subject"
_GRANT_TYPE = "urn:ietf:params:oauth:grant-type:token-exchange"
_TYPES = {f"urn:ietf:params:oauth:token-type:{kind}" for kind in ("jwt", "id_token")}
_MEMBERS = {
    *("grant_type", "subject_token", "subject_token_type", "identity_provider_id", "service_account_id"),
}

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Asked:
    """One request, and what was granted for it."""

    subject: str
    account: str
    kind: str
    granted: str
    at: float
    """By `time.monotonic`."""


class IdentityEndpoint:
    """Grants a key of its own to each request that is right, unless `behaviour` is set."""

    def __init__(self) -> None:
        self.seconds: object = 3600
        self.first_seconds: object = None
        """Of the first grant, where that is another."""

        self.behaviour: Behaviour | None = None
        self.believed: set[str] | None = None
        """The subject tokens that are; None: all."""

        self.asked: list[Asked] = []
        self.requests = 0
        self.hold = asyncio.Event()
        """While it is not set, nobody is answered."""

        self.hold.set()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/oauth/token"

    @property
    def keys(self) -> list[str]:
        """What has been granted, in that order."""
        return [asked.granted for asked in self.asked]

    def table(self, file: Path, account: str = "svc_a", **more: Any) -> dict[str, Any]:
        """A table `workload_identity` that has it asked."""
        return {
            "token_file": str(file),
            "identity_provider_id": PROVIDER,
            "service_account_id": account,
            "token_endpoint": self.url,
            **more,
        }

    def toml(self, upstream: str, file: Path, account: str = "svc_a") -> str:
        """The same as part of a file, for the table of that upstream."""
        lines = (
            f"{key} = {orjson.dumps(value).decode()}\n" for key, value in self.table(file, account).items()
        )
        return f"[{upstream}.workload_identity]\n{''.join(lines)}"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        body = await request.read()
        await self.hold.wait()
        if self.behaviour is not None:
            return await self.behaviour(request)
        wrong = self._wrong(request, body)
        if wrong is not None:
            return refusal("invalid_request", wrong)
        members = orjson.loads(body)
        subject = members["subject_token"]
        if self.believed is not None and subject not in self.believed:
            return refusal("invalid_grant", "The subject token is not accepted.")
        account = members["service_account_id"]
        key = f"granted-{account}-{len(self.asked)}-{secrets.token_hex(8)}"
        seconds = self.seconds if self.asked or self.first_seconds is None else self.first_seconds
        self.asked.append(
            Asked(subject, account, members["subject_token_type"].rpartition(":")[2], key, monotonic())
        )
        return web.json_response(
            {
                "access_token": key,
                "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
                "token_type": "Bearer",
                "expires_in": seconds,
            }
        )

    def _wrong(self, request: web.Request, body: bytes) -> str | None:
        try:
            members = orjson.loads(body)
        except ValueError:
            return "The body is no JSON."
        if request.method != "POST" or request.path != "/oauth/token":
            return f"{request.method} {request.path} is not offered."
        if request.content_type != "application/json" or "Authorization" in request.headers:
            return "The header is not as it should be."
        if members.keys() != _MEMBERS or not all(
            isinstance(value, str) and value for value in members.values()
        ):
            return f"The parameters are {sorted(members)}."
        if members["grant_type"] != _GRANT_TYPE or members["subject_token_type"] not in _TYPES:
            return "That grant type or subject token type is not offered."
        if members["identity_provider_id"] != PROVIDER:
            return "There is no such identity provider."
        return None


def refusal(code: str, words: str, *, status: int = 400) -> web.Response:
    """An error as OAuth has it."""
    return web.json_response({"error": code, "error_description": words}, status=status)


def shown(file: Path, subject: str) -> str:
    """Put a subject token into a file as Kubernetes does, at once; returns it."""
    fresh = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    fresh.write_text(subject)
    os.replace(fresh, file)  # noqa: PTH105 (what a reader sees is the one or the other)
    return subject


@asynccontextmanager
async def running_identity_endpoint() -> AsyncIterator[IdentityEndpoint]:
    """Start one on a free port of this machine."""
    endpoint = IdentityEndpoint()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", endpoint.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    endpoint.port = runner.addresses[0][1]
    try:
        yield endpoint
    finally:
        endpoint.hold.set()
        await runner.cleanup()
