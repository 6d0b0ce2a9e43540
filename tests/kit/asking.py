"""One question, one connection, one answer: for tests that ask many different questions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing
from gateway.operations.table import OperationTable
from gateway.settings.settings import Credentials
from gateway.simulator import build_simulator
from tests.kit.client import JSON, RawAnswer, RawClient
from tests.kit.gateway import Gateway

TABLE = OperationTable.load()
"""The operations as they are shipped."""


async def ask(
    gateway: Gateway,
    method: str,
    target: str,
    body: object = None,
    *,
    headers: str | None = None,
    credential: str | None = None,
    **named: Any,
) -> RawAnswer:
    """The answer to one request. A body that is not bytes is sent as JSON; `named` says whose credential."""
    if body is not None and not isinstance(body, bytes):
        body = orjson.dumps(body)
    if headers is None:
        headers = "" if body is None else JSON
    credential = gateway.credential(**named) if credential is None else credential
    async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
        return await client.request(method, target, body, headers=headers)


def credential_of(ring: KeyRing, scopes: Iterable[str] | None = None, **more: Any) -> str:
    """A credential signed by a ring, with every scope unless told otherwise, for default settings."""
    named: dict[str, Any] = {"tenant": "default", "subject": "tester", "ttl_seconds": 600}
    named |= {"scopes": TABLE.scopes if scopes is None else frozenset(scopes)} | more
    accepted = Credentials(audience=named.pop("audience", "gateway"))
    return issue(ring, accepted, **named).credential


def error_of(answer: RawAnswer) -> dict[str, Any]:
    """The error of an answer in the API's shape."""
    error = orjson.loads(answer.body)["error"]
    assert isinstance(error, dict)
    return error


def assert_refused(answer: RawAnswer, status: int, code: str) -> None:
    """The answer is the gateway's own refusal in the API's shape."""
    _assert_refused(answer, status, code)
    assert answer.get("x-request-id") == answer.get("x-gateway-request-id") != None  # noqa: E711


def assert_refused_beyond(answer: RawAnswer, status: int, code: str) -> str:
    """The answer is the refusal of another gateway behind this one, whose id for it stays; returns that."""
    _assert_refused(answer, status, code)
    there = answer.get("x-request-id")
    assert there is not None
    assert there != answer.get("x-gateway-request-id") != None  # noqa: E711
    return there


def _assert_refused(answer: RawAnswer, status: int, code: str) -> None:
    error = error_of(answer)
    assert (answer.status, error["code"]) == (status, code)
    assert error.keys() == {"message", "type", "param", "code"}
    assert answer.get("content-type") == "application/json"


def assert_upstream_error(answer: RawAnswer, status: int, code: str) -> None:
    """The answer is the gateway's own error about the upstream, whole and in the API's shape."""
    error = error_of(answer)
    assert (answer.status, error["type"], error["code"]) == (status, "upstream_error", code), error
    assert answer.clean_end


def verdict(answer: RawAnswer) -> tuple[int, str | None]:
    """Status and code of an error; the status alone of what is none, or has no code."""
    try:
        return answer.status, error_of(answer)["code"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return answer.status, None


def form(*parts: tuple[str, bytes], file_at: int | None = None) -> bytes:
    """A multipart body with the boundary `edge`; the part `file`, or number `file_at`, has a filename."""
    pieces = []
    for number, (name, value) in enumerate(parts):
        filename = '; filename="a.bin"' if number == file_at or (file_at is None and name == "file") else ""
        head = f'--edge\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
        pieces.append(head.encode() + value + b"\r\n")
    return b"".join(pieces) + b"--edge--\r\n"


@dataclass
class Simulator:
    """A running simulator of the API, and what it was asked."""

    base_url: str
    asked: list[tuple[str, str]] = field(default_factory=list)
    """Method and raw target of every request."""

    headers: list[list[tuple[str, str]]] = field(default_factory=list)
    """The header fields of every request, names in lower case."""


@asynccontextmanager
async def running_simulator(
    *, keys: Iterable[str] = (), bodies: list[bytes] | None = None
) -> AsyncIterator[Simulator]:
    """The embedded upstream on a free port; with `keys`, those alone open it. `bodies` gets what JSON it is sent."""
    simulator = Simulator("")
    accepted = frozenset(f"Bearer {key}" for key in keys)

    @web.middleware
    async def witness(request: web.Request, handler: Any) -> web.StreamResponse:
        simulator.asked.append((request.method, request.raw_path))
        simulator.headers.append([(name.lower(), value) for name, value in request.headers.items()])
        if bodies is not None and request.content_type == "application/json":
            bodies.append(await request.read())
        if accepted and request.headers.get("Authorization") not in accepted:
            return web.json_response({"error": {"message": "Incorrect API key provided."}}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    app = build_simulator(pace_seconds=0.001)
    app.middlewares.append(witness)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        simulator.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield simulator
    finally:
        await runner.cleanup()
