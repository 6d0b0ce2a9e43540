"""The simulator as an aiohttp application: from a request to its operation's handler, and the answer out."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import aclosing
from dataclasses import replace
from http import HTTPStatus
from typing import Final
from urllib.parse import unquote

from aiohttp import web

from gateway.operations.table import OperationTable
from gateway.operations.targets import TargetRefused
from gateway.simulator import (
    audio,
    chat,
    files,
    images,
    realtime,
    responses,
    responses_socket,
    threads,
    vectors,
)
from gateway.simulator.administration import MOST_PROJECTS, Organization, stocked
from gateway.simulator.call import Call, Handler, Reply, as_json, paced
from gateway.simulator.errors import ApiError
from gateway.simulator.faults import Faults
from gateway.simulator.resources import generic_handlers
from gateway.simulator.store import Store

MODELS: Final = (
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4.1",
    "gpt-3.5-turbo-instruct",
    "gpt-4o-transcribe",
    "gpt-realtime",
    "gpt-image-1",
    "dall-e-3",
    "text-embedding-3-small",
    "text-embedding-3-large",
    "omni-moderation-latest",
    "tts-1",
    "whisper-1",
    "ft:gpt-4o-mini:acme::abc",
)
_NO_FAULTS: Final = Faults()
_CLIENT_FAULT: Final = "invalid_request_error"


def build_simulator(
    *,
    api_key: str | None = None,
    admin_api_key: str | None = None,
    most_projects: int = MOST_PROJECTS,
    pace_seconds: float = 0.02,
    store: Store | None = None,
) -> web.Application:
    """An upstream with an empty store of its own, or with this one; see the package for what it speaks.

    With `api_key`, exactly that key is accepted (and `ek_…` on the socket, and keys of projects that were made here)
    and everything else is 401; without, anything is. `admin_api_key` is the one that administers the organization then;
    without, that is no key of its own. Streamed answers have `pace_seconds` between their pieces. Serve it with
    `handler_cancellation=True`, so that a stream ends when its reader leaves.
    """
    # No limit: bodies are read part by part, or are the caller's business.
    app = web.Application(client_max_size=sys.maxsize)
    organization = Organization(api_key, admin_api_key, store or stocked(MODELS), MODELS, most_projects)
    app.router.add_route("*", "/{path:.*}", _Simulator(organization, pace_seconds).serve)
    return app


class _Simulator:
    """The table, the handlers, the organization."""

    def __init__(self, organization: Organization, pace_seconds: float) -> None:
        self._organization = organization
        self._pace_seconds = pace_seconds
        self._table = OperationTable.load()
        self._handlers: dict[str, Handler] = generic_handlers(self._table)
        for module in (audio, chat, files, images, realtime, responses, responses_socket, threads, vectors):
            self._handlers |= module.HANDLERS
        self._handlers |= organization.handlers()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; the way in for all of them."""
        store = self._organization.store
        call = Call(request, {}, store, self._pace_seconds, _NO_FAULTS, time.perf_counter())
        try:
            if "x-simulate" in request.headers:
                call = _with_faults(call)
                await _suffer(call)
            reply = await self._answer(call)
            if isinstance(reply, web.WebSocketResponse):
                return reply
        except ApiError as error:
            reply = as_json({"error": error.error}, error.status)
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            # Bodies are not validated: a handler that trips over one says so here.
            refusal = ApiError(400, f"The simulator could not make sense of this request: {error!r}")
            reply = as_json({"error": refusal.error}, refusal.status)
        except ConnectionError:
            return web.Response()  # nobody is there to read it
        return await _send(call, reply)

    async def _answer(self, call: Call) -> Reply | web.WebSocketResponse:
        request = call.request
        administers = request.path.startswith("/v1/organization/")
        store = self._organization.store_for(request, administers=administers)
        if store is not call.store:
            call = replace(call, store=store)
        try:
            socket = request.headers.get("Upgrade", "").lower() == "websocket"
            found = self._table.match(request.method, request.raw_path, socket=socket)
        except (TargetRefused, LookupError):
            found = None
        handler = self._handlers.get(found.operation.id) if found else None
        if found is None or handler is None:
            raise ApiError(404, f"Invalid URL ({request.method} {request.path})")
        if found.params:
            call = replace(call, params={name: unquote(value) for name, value in found.params.items()})
        return await handler(call)


def _with_faults(call: Call) -> Call:
    try:
        faults = Faults.parse(call.request.headers["x-simulate"])
    except ValueError as error:
        raise ApiError(400, str(error), param="x-simulate") from error
    pace_seconds = call.pace_seconds if faults.pace_seconds is None else faults.pace_seconds
    return replace(call, faults=faults, pace_seconds=pace_seconds)


async def _suffer(call: Call) -> None:
    """Let happen what happens before an answer: a delay, a lost connection, an error."""
    faults = call.faults
    await asyncio.sleep(faults.delay_seconds)
    if faults.drop:
        await call.hang_up()
    if faults.status is not None:
        message = f"Simulated failure with status {faults.status}."
        if faults.status == HTTPStatus.TOO_MANY_REQUESTS:
            raise ApiError(faults.status, message, type="requests", code="rate_limit_exceeded")
        raise ApiError(faults.status, message, type="server_error" if faults.status >= 500 else _CLIENT_FAULT)


async def _send(call: Call, reply: Reply) -> web.StreamResponse:
    """Send an answer, to its end or to where it is to be cut. The client may leave at any time."""
    headers = call.marks() | {"Content-Type": reply.content_type} | dict(reply.headers)
    cut_bytes = call.faults.cut_bytes
    body, length_bytes = reply.body, reply.length_bytes
    if isinstance(body, bytes):
        if cut_bytes is None:
            return web.Response(body=body, status=reply.status, headers=headers)
        length_bytes, body = len(body), paced((body,))
    response = web.StreamResponse(status=reply.status, headers=headers)
    if length_bytes is not None:
        response.content_length = length_bytes
    sent_bytes = 0
    try:
        await response.prepare(call.request)
        if call.request.method == "HEAD":
            return response
        async with aclosing(body) as pieces:
            async for piece in pieces:
                if cut_bytes is not None and sent_bytes + len(piece) >= cut_bytes:
                    await response.write(piece[: cut_bytes - sent_bytes])
                    await call.hang_up()
                await response.write(piece)
                sent_bytes += len(piece)
        await response.write_eof()
    except ConnectionError:
        pass
    return response
