"""Realtime sessions, as the official SDK reads them."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import aiohttp
from openai import (
    AsyncOpenAI,
)

from tests.simulator.conftest import Start, told


class TestRealtime:
    async def test_a_conversation_ends_with_a_response_and_its_usage(self, sdk: AsyncOpenAI) -> None:
        async with sdk.realtime.connect(model="gpt-realtime") as connection:
            assert (await connection.recv()).type == "session.created"
            await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
            updated = await connection.recv()
            assert updated.type == "session.updated"
            assert updated.session.type == "realtime"
            assert updated.session.output_modalities == ["text"]
            await connection.conversation.item.create(
                item={
                    "type": "message",
                    "role": "user",
                    "content": [{"type": "input_text", "text": "hello"}],
                }
            )
            assert [(await connection.recv()).type for _ in range(2)] == [
                "conversation.item.added",
                "conversation.item.done",
            ]
            await connection.response.create()
            events = await told(connection)
        names: list[str] = [event.type for event in events]
        deltas = names.count("response.output_text.delta")
        assert names == [
            "response.created",
            "response.output_item.added",
            "conversation.item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * deltas,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "conversation.item.done",
            "response.done",
        ]
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert said.startswith("Simulated answer to: hello")
        done = events[-1]
        assert done.type == "response.done"
        assert done.response.status == "completed"
        assert done.response.usage is not None
        assert done.response.usage.output_tokens == deltas
        assert len({getattr(event, "event_id", None) for event in events}) == len(events)

    async def test_audio_is_heard_and_answered_aloud(self, sdk: AsyncOpenAI) -> None:
        async with sdk.realtime.connect(model="gpt-realtime") as connection:
            await connection.recv()
            await connection.input_audio_buffer.append(audio=b64encode(bytes(3000)).decode())
            await connection.input_audio_buffer.commit()
            committed = await connection.recv()
            assert committed.type == "input_audio_buffer.committed"
            added = await connection.recv()
            assert added.type == "conversation.item.added"
            assert added.item.id == committed.item_id
            await connection.recv()
            await connection.response.create()
            events = await told(connection)
        sound = b"".join(b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
        heard = "".join(e.delta for e in events if e.type == "response.output_audio_transcript.delta")
        assert len(sound) > 10_000
        assert "3000 bytes of audio" in heard

    async def test_a_response_can_be_cancelled_while_it_is_told(self, start: Start) -> None:
        async with (
            (await start(pace_seconds=0.05)).sdk() as sdk,
            sdk.realtime.connect(model="m") as connection,
        ):
            await connection.recv()
            await connection.response.create()
            assert (await connection.recv()).type == "response.created"
            await connection.response.create()
            await connection.response.cancel()
            events = await told(connection)
            names = [event.type for event in events]
            assert events[-1].response.status == "cancelled"
            assert "error" in names
            assert "response.output_item.done" not in names

    async def test_responses_apart_are_told_side_by_side_and_one_of_them_can_be_cancelled(
        self, start: Start
    ) -> None:
        async with (
            (await start(pace_seconds=0.05)).sdk() as sdk,
            sdk.realtime.connect(model="m") as connection,
        ):
            await connection.recv()
            for _ in range(2):
                await connection.response.create(response={"conversation": "none"})
            await connection.response.create()
            begun: list[Any] = []
            while len(begun) < 3:
                event = await connection.recv()
                if event.type == "response.created":
                    begun.append(event.response)
            assert [response.conversation_id is None for response in begun] == [True, True, False]
            await connection.response.cancel(response_id=begun[1].id)
            done = (await told(connection))[-1].response
            assert (done.id, done.status) == (begun[1].id, "cancelled")

    async def test_response_that_would_be_too_long_is_cut(self, sdk: AsyncOpenAI) -> None:
        async with sdk.realtime.connect(model="m") as connection:
            await connection.recv()
            await connection.response.create(response={"max_output_tokens": 2, "output_modalities": ["text"]})
            done = (await told(connection))[-1].response
            assert (done.status, done.max_output_tokens, done.usage.output_tokens) == ("incomplete", 2, 2)

    async def test_turn_that_is_detected_is_answered_without_being_asked(self, sdk: AsyncOpenAI) -> None:
        async with sdk.realtime.connect(model="m") as connection:
            await connection.recv()
            detects: Any = {"input": {"turn_detection": {"type": "server_vad"}}}
            await connection.session.update(session={"type": "realtime", "audio": detects})
            await connection.recv()
            for _ in range(2):
                await connection.input_audio_buffer.append(audio=b64encode(bytes(24_000)).decode())
            names = [event.type for event in await told(connection)]
            assert names[0] == "input_audio_buffer.committed"
            assert "response.created" in names

    async def test_transcription_session_writes_down_what_it_hears_and_answers_nothing(
        self, http: aiohttp.ClientSession
    ) -> None:
        async with http.ws_connect("/v1/realtime?intent=transcription") as socket:
            assert (await socket.receive_json())["session"]["type"] == "transcription"
            await socket.send_json(
                {"type": "input_audio_buffer.append", "audio": b64encode(bytes(72_000)).decode()}
            )
            await socket.send_json({"type": "input_audio_buffer.commit"})
            while not (told := await socket.receive_json())["type"].endswith("completed"):
                pass
            assert told["usage"] == {"type": "duration", "seconds": 1.5}
            await socket.send_json({"type": "response.create"})
            assert (await socket.receive_json())["type"] == "error"

    async def test_an_event_it_cannot_use_is_an_error_and_the_session_goes_on(
        self, http: aiohttp.ClientSession
    ) -> None:
        async with http.ws_connect("/v1/realtime") as socket:
            await socket.receive_json()
            for event in ("nonsense", "[]", '{"type": "input_audio_buffer.commit", "event_id": "e7"}'):
                await socket.send_str(event)
                told = await socket.receive_json()
                assert told["type"] == "error"
            assert told["error"]["event_id"] == "e7"

    async def test_binary_is_echoed_pings_are_answered_and_a_close_is_returned(
        self, http: aiohttp.ClientSession
    ) -> None:
        protocols = ("other", "realtime")
        async with http.ws_connect(
            "/v1/realtime", protocols=protocols, autoping=False, max_msg_size=0
        ) as socket:
            assert socket.protocol == "realtime"
            await socket.receive()
            await socket.send_bytes(b"\x00\x01" * 3_000_000)
            assert await socket.receive_bytes() == b"\x00\x01" * 3_000_000
            await socket.ping(b"there?")
            pong = await socket.receive()
            assert (pong.type, pong.data) == (aiohttp.WSMsgType.PONG, b"there?")
            await socket.close(code=4000)
            assert socket.close_code == 4000

    async def test_secrets_for_browsers_are_handed_out(self, sdk: AsyncOpenAI) -> None:
        secret = await sdk.realtime.client_secrets.create(
            session={"type": "realtime", "model": "gpt-realtime"}
        )
        assert secret.value.startswith("ek_")
        assert secret.session.type == "realtime"
        async with aiohttp.ClientSession() as session:
            made = await (await session.post(f"{sdk.base_url}realtime/sessions", json={"model": "m"})).json()
        assert made["client_secret"]["value"].startswith("ek_")
        assert made["model"] == "m"

    async def test_a_plain_request_is_told_to_upgrade(self, http: aiohttp.ClientSession) -> None:
        async with http.get("/v1/realtime?model=m") as answer:
            assert answer.status == 400
            assert "WebSocket" in (await answer.json())["error"]["message"]
