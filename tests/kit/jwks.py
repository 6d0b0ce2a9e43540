"""Another issuer: its keys, its credentials, and its web server, which fails, lies and rotates when told to."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager

import jwt
import orjson
from aiohttp import web

from gateway.credentials.keys import Algorithm, Key

LOGIN = "https://login.example"
THEIRS, NEXT = Key.generate(Algorithm.ES256, "t1"), Key.generate(Algorithm.EDDSA, "t2")

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


def key_set(keys: Iterable[Key], *more: object) -> bytes:
    """The JWK Set of these keys' public parts, and whatever else is to stand in it."""
    return orjson.dumps({"keys": [*(key.public_jwk() for key in keys), *more]})


def their_credential(key: Key = THEIRS, *, ahead_seconds: int = 0, subject: str = "bob") -> str:
    """What that issuer gives out for a minute, its clock being ahead."""
    now = int(time.time()) + ahead_seconds
    claims = {
        "iss": LOGIN,
        "aud": "gateway",
        "sub": subject,
        "iat": now,
        "exp": now + 60,
        "scope": "models:read",
    }
    return jwt.encode(claims, jwt.PyJWK(key.jwk()), key.algorithm, headers={"kid": key.kid})


class JwksServer:
    """Serves `document` with status 200 under any path, unless `behaviour` is set.

    With `bearer`, as a cluster does, only to who sends it.
    """

    def __init__(self, *, is_secure: bool = False) -> None:
        self.bearer: str | None = None
        self._scheme = "https" if is_secure else "http"
        self.document = key_set([])
        self.behaviour: Behaviour | None = None
        self.requests: list[web.Request] = []
        self.asked = asyncio.Event()
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}/keys.json"

    def publish(self, *keys: Key) -> None:
        self.document = key_set(keys)
        self.behaviour = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.asked.set()
        if self.bearer is not None and request.headers.get("Authorization") != f"Bearer {self.bearer}":
            return web.Response(status=401 if "Authorization" not in request.headers else 403)
        if self.behaviour is not None:
            return await self.behaviour(request)
        return web.Response(body=self.document, content_type="application/json")


@asynccontextmanager
async def running_jwks_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[JwksServer]:
    """Start one on a free port of this machine, with `tls` by that alone."""
    server = JwksServer(is_secure=tls is not None)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    server.port = runner.addresses[0][1]
    try:
        yield server
    finally:
        await runner.cleanup()
