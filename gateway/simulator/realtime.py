"""The realtime WebSocket, and the secrets with which a browser would open one.

Binary messages, which the API does not know, are echoed.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from gateway.simulator.audio import melody
from gateway.simulator.call import Call, Handler, JsonObject, Reply, as_json
from gateway.simulator.errors import ApiError
from gateway.simulator.store import new_id, now
from gateway.simulator.wording import pieces, plain_text, simulated_answer, size

_SECRET_SECONDS: Final = 60
_SOUND_BYTES: Final = 4800
_SECOND_BYTES: Final = 48_000
"""Of sound as sessions have it by default. Where a session detects turns, one is over after a second of it."""


async def connect(call: Call) -> web.WebSocketResponse:
    """Speak the realtime protocol until the client leaves, and return the close code it leaves with."""
    socket = web.WebSocketResponse(protocols=("realtime",), max_msg_size=0, compress=False, autoclose=False)
    if not socket.can_prepare(call.request):
        raise ApiError(400, "This path is a WebSocket: connect with an upgrade request.")
    socket.headers.update(call.marks())
    await socket.prepare(call.request)
    asked = call.request.query
    kind = {"type": "transcription"} if asked.get("intent") == "transcription" else {}
    await _Conversation(call, socket, _session(asked.get("model"), kind)).run()
    await socket.close(code=socket.close_code or WSCloseCode.OK)
    return socket


@dataclass(slots=True)
class _Conversation:
    """One open socket. Events are heard while responses are told: one of the conversation's, and any number apart."""

    call: Call
    socket: web.WebSocketResponse
    session: JsonObject
    items: list[JsonObject] = field(default_factory=list)
    buffered_bytes: int = 0
    sent_events: int = 0
    sent_bytes: int = 0
    conversation_id: str = field(default_factory=lambda: new_id("conv_"))
    telling: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """What is told now, by the ids of the responses."""

    current: str | None = None
    """The one among them that belongs to the conversation."""

    async def run(self) -> None:
        try:
            await self._send("session.created", {"session": self.session})
            async for message in self.socket:
                if message.type is WSMsgType.BINARY:
                    await self._write(message.data)
                elif message.type is WSMsgType.TEXT:
                    await self._hear(message.data)
        except ConnectionError:
            return
        finally:
            for telling in self.telling.values():
                telling.cancel()

    async def _hear(self, text: str) -> None:
        try:
            event = orjson.loads(text)
        except orjson.JSONDecodeError:
            event = None
        match event:
            case {"type": "session.update", "session": dict(changes)}:
                self.session |= changes
                await self._send("session.updated", {"session": self.session})
            case {"type": "conversation.item.create", "item": dict(item)}:
                await self._add(
                    {"id": new_id("item_"), "object": "realtime.item", "status": "completed"} | item
                )
            case {"type": "input_audio_buffer.append", "audio": str(audio)}:
                self.buffered_bytes += len(audio) * 3 // 4
                if _detects_turns(self.session) and self.buffered_bytes >= _SECOND_BYTES:
                    await self._commit()
                    if self.session["type"] != "transcription" and self.current is None:
                        self._respond({})
            case {"type": "input_audio_buffer.clear"}:
                self.buffered_bytes = 0
                await self._send("input_audio_buffer.cleared", {})
            case {"type": "input_audio_buffer.commit"} if self.buffered_bytes:
                await self._commit()
            case {"type": "response.create"} if self.session["type"] != "transcription":
                asked = event.get("response")
                asked = asked if isinstance(asked, dict) else {}
                if self.current is not None and asked.get("conversation") != "none":
                    await self._refuse(event, "conversation_already_has_active_response")
                else:
                    self._respond(asked)
            case {"type": "response.cancel"} if (
                told := event.get("response_id", self.current)
            ) in self.telling:
                self.telling[told].cancel()
            case {"type": "response.cancel"}:
                await self._refuse(event, "response_cancel_not_active")
            case _:
                await self._refuse(event)

    async def _commit(self) -> None:
        """Take what was heard for an item, and write it down where the session is there for that."""
        heard_bytes, self.buffered_bytes = self.buffered_bytes, 0
        heard = f"{heard_bytes} bytes of audio that nobody listened to"
        item = _item("user", {"type": "input_audio", "transcript": heard})
        place = {"item_id": item["id"], "previous_item_id": self._last_id()}
        await self._send("input_audio_buffer.committed", place)
        await self._add(item)
        if self.session["type"] == "transcription":
            written = {"item_id": item["id"], "content_index": 0}
            transcription = "conversation.item.input_audio_transcription"
            for piece in pieces(heard):
                await self._send(f"{transcription}.delta", written | {"delta": piece})
            usage = {"type": "duration", "seconds": heard_bytes / _SECOND_BYTES}
            await self._send(f"{transcription}.completed", written | {"transcript": heard, "usage": usage})

    def _respond(self, asked: JsonObject) -> None:
        response_id = new_id("resp_")
        if asked.get("conversation") != "none":
            self.current = response_id
        telling = asyncio.create_task(self._tell(response_id, asked))
        self.telling[response_id] = telling
        telling.add_done_callback(lambda _: self._told(response_id))

    def _told(self, response_id: str) -> None:
        del self.telling[response_id]
        if self.current == response_id:
            self.current = None

    async def _refuse(self, event: Any, code: str = "invalid_event") -> None:
        told = event if isinstance(event, dict) else {}
        message = f"The simulator can do nothing with this event of type '{told.get('type')}' now."
        error = {"type": "invalid_request_error", "code": code, "message": message, "param": None}
        await self._send("error", {"error": error | {"event_id": told.get("event_id")}})

    async def _add(self, item: JsonObject) -> None:
        added = {"previous_item_id": self._last_id(), "item": item}
        self.items.append(item)
        await self._send("conversation.item.added", added)
        await self._send("conversation.item.done", added)

    async def _tell(self, response_id: str, asked: JsonObject) -> None:
        """Send a response, event by event, a pace apart; cancelled, it still ends with response.done."""
        modalities = asked.get("output_modalities") or self.session["output_modalities"]
        aloud = "audio" in modalities
        apart, most = asked.get("conversation") == "none", asked.get("max_output_tokens")
        most = self.session["max_output_tokens"] if most is None else most
        response: JsonObject = {"id": response_id, "object": "realtime.response", "status": "in_progress"}
        response |= {"output_modalities": modalities, "metadata": asked.get("metadata"), "output": []}
        response |= {"conversation_id": None if apart else self.conversation_id, "max_output_tokens": most}
        said = pieces(simulated_answer(plain_text(self.items[-1:])))
        cut = isinstance(most, int) and len(said) > most
        said = said[:most] if cut else said
        read, written, sounded = size(plain_text(self.items)), len(said), 10 * len(said) if aloud else 0
        usage = {
            "total_tokens": read + written + sounded,
            "input_tokens": read,
            "output_tokens": written + sounded,
            "input_token_details": {"cached_tokens": 0, "text_tokens": read, "audio_tokens": 0},
            "output_token_details": {"text_tokens": written, "audio_tokens": sounded},
        }
        try:
            await self._send("response.created", {"response": response})
            for name, event in self._story(response, said, aloud):
                await self._send(name, {"response_id": response["id"]} | event)
                await asyncio.sleep(self.call.pace_seconds)
            response["status"] = "incomplete" if cut else "completed"
            if cut:
                response["status_details"] = {"type": "incomplete", "reason": "max_output_tokens"}
        except asyncio.CancelledError:
            details = {"type": "cancelled", "reason": "client_cancelled"}
            response |= {"status": "cancelled", "status_details": details}
        except ConnectionError:
            return
        if not self.socket.closed:
            await self._send("response.done", {"response": response | {"usage": usage}})

    def _story(self, response: JsonObject, said: list[str], aloud: bool) -> Iterator[tuple[str, JsonObject]]:
        kind, member = ("audio", "transcript") if aloud else ("text", "text")
        words = f"response.output_{kind}_transcript" if aloud else "response.output_text"
        item = _item("assistant") | {"status": "in_progress"}
        added = {"item": item, "previous_item_id": self._last_id()}
        whole = {"output_index": 0, "item": item}
        place = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        part = {"type": kind, member: ""}
        yield "response.output_item.added", whole
        yield "conversation.item.added", added
        yield "response.content_part.added", place | {"part": part}
        sound = {"delta": b64encode(melody()[:_SOUND_BYTES]).decode()}
        for piece in said:
            yield f"{words}.delta", place | {"delta": piece}
            if aloud:
                yield "response.output_audio.delta", place | sound
        if aloud:
            yield "response.output_audio.done", place
        spoken = {member: "".join(said)}
        yield f"{words}.done", place | spoken
        yield "response.content_part.done", place | {"part": part | spoken}
        item |= {"status": "completed", "content": [{"type": f"output_{kind}"} | spoken]}
        self.items.append(item)
        response["output"] = [item]
        yield "response.output_item.done", whole
        yield "conversation.item.done", added

    def _last_id(self) -> str | None:
        return self.items[-1]["id"] if self.items else None

    async def _send(self, name: str, data: JsonObject) -> None:
        self.sent_events += 1
        event = {"type": name, "event_id": f"event_{self.sent_events}"} | data
        await self._write(orjson.dumps(event).decode())

    async def _write(self, message: str | bytes) -> None:
        self.sent_bytes += len(message)
        if self.call.faults.cut_bytes is not None and self.sent_bytes > self.call.faults.cut_bytes:
            await self.call.hang_up()
        await (self.socket.send_str(message) if isinstance(message, str) else self.socket.send_bytes(message))


def _item(role: str, *parts: JsonObject) -> JsonObject:
    head = {"id": new_id("item_"), "object": "realtime.item", "type": "message", "status": "completed"}
    return head | {"role": role, "content": list(parts)}


def _detects_turns(session: JsonObject) -> bool:
    match session:
        case {"audio": {"input": {"turn_detection": {"type": str()}}}}:
            return True
    return False


def _session(model: str | None, asked: JsonObject) -> JsonObject:
    session: JsonObject = {"id": new_id("sess_"), "object": "realtime.session", "type": "realtime"}
    session |= {"model": model, "output_modalities": ["audio"], "instructions": "", "tools": []}
    session |= {"max_output_tokens": "inf"}
    return session | {name: value for name, value in asked.items() if value is not None}


async def create_client_secret(call: Call) -> Reply:
    asked = (await call.body()).get("session") or {}
    return as_json(_secret() | {"session": _session("gpt-realtime", asked)})


async def create_session(call: Call) -> Reply:
    """The older form: the session itself, with its secret in it."""
    return as_json(_session(None, await call.body()) | {"client_secret": _secret()})


def _secret() -> JsonObject:
    return {"value": new_id("ek_"), "expires_at": now() + _SECRET_SECONDS}


HANDLERS: Final[dict[str, Handler]] = {
    "connectRealtime": connect,
    "createRealtimeClientSecret": create_client_secret,
    "createRealtimeTranslationClientSecret": create_client_secret,
    "createRealtimeSession": create_session,
    "createRealtimeTranscriptionSession": create_session,
}
