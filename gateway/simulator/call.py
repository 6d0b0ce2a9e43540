"""What a handler of the simulator is given, and what it gives back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import orjson
from aiohttp import web

from gateway.simulator.errors import ApiError
from gateway.simulator.faults import Faults
from gateway.simulator.forms import read_form
from gateway.simulator.store import Store, new_id

JsonObject = dict[str, Any]
# The name of an event, if the stream names its events, and its data: JSON, or text sent as it is.
Event = tuple[str | None, JsonObject | str]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. A body that is not bytes is sent piece by piece; `length_bytes` is its length, if known."""

    body: bytes | AsyncGenerator[bytes, None]
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    length_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a known operation; parameters are percent-decoded."""

    request: web.Request
    params: Mapping[str, str]
    store: Store
    pace_seconds: float
    faults: Faults
    started: float

    def marks(self) -> dict[str, str]:
        """The headers of every answer, and those that were asked for."""
        return {
            "x-request-id": new_id("req_"),
            "openai-processing-ms": str(int((time.perf_counter() - self.started) * 1000)),
            "x-simulator": "streaming-gateway",
            **dict(self.faults.headers),
        }

    async def hang_up(self) -> NoReturn:
        """Close the connection once what was written is out, and raise ConnectionResetError."""
        transport = self.request.transport
        if transport is not None:
            # Aborting throws away what is buffered; draining at the lowest mark waits until nothing is.
            transport.set_write_buffer_limits(high=0)
            await self.request.writer.drain()
            transport.abort()
        raise ConnectionResetError("the connection was cut, as x-simulate asked")

    async def body(self, *required: str) -> JsonObject:
        """The JSON object or form that was sent; empty if none was. Raise ApiError if a field is missing."""
        body = await self._read()
        for name in required:
            if body.get(name) is None:
                message = f"Missing required parameter: '{name}'."
                raise ApiError(400, message, param=name, code="missing_required_parameter")
        return body

    async def _read(self) -> JsonObject:
        content_type = self.request.content_type
        if content_type.startswith("multipart/"):
            try:
                return await read_form(self.request)
            except ValueError as error:
                raise ApiError(400, f"Could not read the form: {error}") from error
        data = await self.request.read()
        if not data or not content_type.endswith("json"):
            return {}
        try:
            body = orjson.loads(data)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            raise ApiError(400, "We could not parse the JSON body of your request.")
        return body

    def later(self, paces: int, change: Callable[[], object]) -> None:
        """Do something after so many paces, unless the loop ends before."""
        asyncio.get_running_loop().call_later(paces * self.pace_seconds, change)

    def stream(self, pieces: Iterable[bytes], content_type: str, length_bytes: int | None = None) -> Reply:
        """An answer whose pieces are sent one by one, a pace apart."""
        return Reply(paced(pieces, self.pace_seconds), content_type=content_type, length_bytes=length_bytes)

    def events(self, events: Iterable[Event]) -> Reply:
        """An answer of server-sent events. An event is encoded when its time has come, not before."""
        return self.stream(map(_encoded, events), "text/event-stream; charset=utf-8")


async def paced(pieces: Iterable[bytes], pace_seconds: float = 0.0) -> AsyncGenerator[bytes, None]:
    """The pieces, the first one at once and each further one after a pace."""
    waiting = 0.0
    for piece in pieces:
        if waiting:
            await asyncio.sleep(waiting)
        waiting = pace_seconds
        yield piece


def as_json(value: object, status: int = 200) -> Reply:
    return Reply(orjson.dumps(value), status)


def _encoded(event: Event) -> bytes:
    name, data = event
    text = data.encode() if isinstance(data, str) else orjson.dumps(data)
    return b"data: " + text + b"\n\n" if name is None else f"event: {name}\ndata: ".encode() + text + b"\n\n"


Handler = Callable[[Call], Awaitable[Reply | web.WebSocketResponse]]
