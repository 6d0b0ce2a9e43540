"""The Responses API over a WebSocket: each `response.create` is the body that would be posted, answered in events.

Requests of one lane (`stream_id`) are answered one after the other, lanes side by side. A response can be continued
that this connection made, or that is stored.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from gateway.simulator.call import Call, Handler, JsonObject
from gateway.simulator.errors import ApiError
from gateway.simulator.responses import begin, events, is_stored

_Lane = str | None


async def connect(call: Call) -> web.WebSocketResponse:
    """Answer what is asked until the client leaves."""
    socket = web.WebSocketResponse(max_msg_size=0, compress=False, autoclose=False)
    if not socket.can_prepare(call.request):
        raise ApiError(400, "This path is a WebSocket: connect with an upgrade request.")
    socket.headers.update(call.marks())
    await socket.prepare(call.request)
    await _Connection(call, socket).run()
    await socket.close(code=socket.close_code or WSCloseCode.OK)
    return socket


@dataclass(slots=True)
class _Connection:
    """One open socket."""

    call: Call
    socket: web.WebSocketResponse
    made: set[str] = field(default_factory=set)
    """The responses that began here."""

    lanes: dict[_Lane, asyncio.Queue[JsonObject]] = field(default_factory=dict)
    tellers: list[asyncio.Task[None]] = field(default_factory=list)
    sent_bytes: int = 0

    async def run(self) -> None:
        try:
            async for message in self.socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._hear(message.data)
        except ConnectionError:
            return
        finally:
            for teller in self.tellers:
                teller.cancel()

    async def _hear(self, data: str | bytes) -> None:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            event = None
        match event:
            case {"type": "response.create"}:
                lane = event.get("stream_id")
                if lane not in self.lanes:
                    self.lanes[lane] = asyncio.Queue()
                    self.tellers.append(asyncio.create_task(self._tell(lane)))
                self.lanes[lane].put_nowait(event)
            case {"type": "response.steer"}:
                steer = {name: event.get(name) for name in ("previous_response_id", "input")}
                error = _error("steering_not_supported", "The simulator cannot be steered.", "type")
                await self._send({"type": "response.steer.failed", "error": error, "steer": steer})
            case _:
                told = event.get("type") if isinstance(event, dict) else None
                await self._refuse(None, "invalid_event", f"This is no event of type '{told}'.", "type")

    async def _tell(self, lane: _Lane) -> None:
        """Answer one lane's requests, in their order."""
        try:
            while True:
                await self._answer(lane, await self.lanes[lane].get())
        except ConnectionError:
            return

    async def _answer(self, lane: _Lane, body: JsonObject) -> None:
        for name in ("model", "input"):
            if body.get(name) is None:
                message = f"Missing required parameter: '{name}'."
                return await self._refuse(lane, "missing_required_parameter", message, name)
        if body.get("background"):
            return await self._refuse(
                lane, "invalid_value", "Nothing goes on in the background here.", "background"
            )
        previous = body.get("previous_response_id")
        if previous is not None and previous not in self.made and not is_stored(self.call.store, previous):
            message = f"Previous response with id '{previous}' not found."
            return await self._refuse(lane, "previous_response_not_found", message, "previous_response_id")
        try:
            begun, answer = begin(self.call.store, body)
        except ApiError as refusal:
            return await self._send(
                _of(lane, {"type": "error", "status": refusal.status, "error": refusal.error})
            )
        self.made.add(begun["id"])
        if body.get("generate") is False:
            await self._warm_up(lane, begun)
            return None
        for _, event in events(begun, body, answer):
            assert isinstance(event, dict)
            await self._send(_of(lane, event))
            await asyncio.sleep(self.call.pace_seconds)
        return None

    async def _warm_up(self, lane: _Lane, begun: JsonObject) -> None:
        """Take in what a later response continues, and say nothing."""
        details = {
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
        nothing = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0} | details
        await self._send(_of(lane, {"type": "response.created", "sequence_number": 0, "response": begun}))
        begun |= {"status": "completed", "usage": nothing}
        await self._send(_of(lane, {"type": "response.completed", "sequence_number": 1, "response": begun}))

    async def _refuse(self, lane: _Lane, code: str, message: str, param: str | None = None) -> None:
        await self._send(_of(lane, {"type": "error", "status": 400, "error": _error(code, message, param)}))

    async def _send(self, event: JsonObject) -> None:
        message = orjson.dumps(event).decode()
        self.sent_bytes += len(message)
        if self.call.faults.cut_bytes is not None and self.sent_bytes > self.call.faults.cut_bytes:
            await self.call.hang_up()
        await self.socket.send_str(message)


def _of(lane: _Lane, event: JsonObject) -> JsonObject:
    return event if lane is None else event | {"stream_id": lane}


def _error(code: str, message: str, param: str | None) -> dict[str, Any]:
    return {"type": "invalid_request_error", "code": code, "message": message, "param": param}


HANDLERS: Final[dict[str, Handler]] = {"connectResponses": connect}
