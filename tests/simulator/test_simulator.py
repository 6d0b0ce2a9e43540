"""The simulator, driven by the official SDK with strict validation and by raw bytes, over real sockets."""

from __future__ import annotations

import asyncio
import io
import itertools
import struct
import sys
import wave
import zlib
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from openai import (
    APIConnectionError,
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    RateLimitError,
)
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from gateway.operations.table import OperationTable
from gateway.simulator import build_simulator
from gateway.simulator.faults import Faults
from gateway.simulator.forms import KEPT_BYTES, Content
from gateway.simulator.kinds import KINDS
from gateway.simulator.store import MAX_CONTENT_BYTES, MAX_OBJECTS, Store
from tests.kit.client import RawClient

QUESTION: list[Any] = [{"role": "user", "content": "how are you?"}]


@dataclass(frozen=True)
class Running:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sdk(self, api_key: str = "sk-anything", *, strict: bool = True) -> AsyncOpenAI:
        """A client that raises, if strict, when an answer is not what the SDK's own types say."""
        return AsyncOpenAI(
            api_key=api_key,
            base_url=f"{self.url}/v1",
            max_retries=0,
            timeout=10,
            _strict_response_validation=strict,
        )


Start = Callable[..., Awaitable[Running]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def run(**options: Any) -> Running:
            options.setdefault("pace_seconds", 0.001)
            runner = web.AppRunner(build_simulator(**options), handler_cancellation=True, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            return Running(runner.addresses[0][1])

        yield run


@pytest.fixture
async def simulator(start: Start) -> Running:
    return await start()


@pytest.fixture
async def sdk(simulator: Running) -> AsyncIterator[AsyncOpenAI]:
    async with simulator.sdk() as client:
        yield client


@pytest.fixture
async def lenient_sdk(simulator: Running) -> AsyncIterator[AsyncOpenAI]:
    """For the two places where the SDK's types are narrower than the API."""
    async with simulator.sdk(strict=False) as client:
        yield client


@pytest.fixture
async def http(simulator: Running) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(simulator.url) as session:
        yield session


async def until(condition: Callable[[], Awaitable[Any]]) -> Any:
    """What the condition returns once it is true; fails after five seconds."""
    async with asyncio.timeout(5):
        while not (found := await condition()):
            await asyncio.sleep(0.01)
        return found


async def told(connection: AsyncRealtimeConnection) -> list[Any]:
    """The events up to the end of a response; fails after five seconds."""
    events: list[Any] = []
    async with asyncio.timeout(5):
        while not events or events[-1].type != "response.done":
            events.append(await connection.recv())
    return events


async def sse(answer: aiohttp.ClientResponse) -> list[tuple[str | None, str]]:
    """The names and data of all events of a stream."""
    events = []
    for block in (await answer.text()).removesuffix("\n\n").split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        events.append((fields.get("event"), fields["data"]))
    return events


class TestChat:
    async def test_an_answer_says_that_it_is_simulated(self, sdk: AsyncOpenAI) -> None:
        answer = await sdk.chat.completions.with_raw_response.create(model="gpt-4o-mini", messages=QUESTION)
        chat = answer.parse()
        assert (chat.choices[0].message.content or "").startswith("Simulated answer to: how are you?")
        assert chat.system_fingerprint == "simulator"
        assert chat.model == "gpt-4o-mini"
        assert answer.headers["x-simulator"] == "streaming-gateway"
        assert answer.headers["x-request-id"].startswith("req_")
        assert int(answer.headers["openai-processing-ms"]) >= 0

    async def test_a_stream_says_the_same_as_the_whole_answer(self, sdk: AsyncOpenAI) -> None:
        whole = await sdk.chat.completions.create(model="gpt-4o", messages=QUESTION)
        stream = await sdk.chat.completions.create(model="gpt-4o", messages=QUESTION, stream=True)
        chunks = [chunk async for chunk in stream]
        assert chunks[0].choices[0].delta.role == "assistant"
        said = [chunk.choices[0].delta.content or "" for chunk in chunks]
        assert "".join(said) == whole.choices[0].message.content
        assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
        assert len({chunk.id for chunk in chunks}) == 1
        assert whole.usage is not None
        assert sum(map(bool, said)) == whole.usage.completion_tokens

    async def test_include_usage_adds_null_members_and_one_event_without_choices(
        self, http: aiohttp.ClientSession
    ) -> None:
        body: dict[str, Any] = {"model": "m", "messages": QUESTION, "stream": True}
        async with http.post("/v1/chat/completions", json=body) as answer:
            assert answer.content_type == "text/event-stream"
            plain = await sse(answer)
        body["stream_options"] = {"include_usage": True}
        async with http.post("/v1/chat/completions", json=body) as answer:
            with_usage = await sse(answer)
        assert plain[-1] == with_usage[-1] == (None, "[DONE]")
        assert all("usage" not in orjson.loads(data) for _, data in plain[:-1])
        chunks = [orjson.loads(data) for _, data in with_usage[:-1]]
        assert len(chunks) == len(plain)
        assert all(chunk["usage"] is None and chunk["choices"] for chunk in chunks[:-1])
        assert chunks[-1]["choices"] == []
        assert chunks[-1]["usage"]["total_tokens"] > chunks[-1]["usage"]["completion_tokens"] > 0

    async def test_a_limit_ends_the_answer_for_length(self, sdk: AsyncOpenAI) -> None:
        chat = await sdk.chat.completions.create(model="m", messages=QUESTION, max_completion_tokens=3, n=2)
        assert [choice.finish_reason for choice in chat.choices] == ["length", "length"]
        assert chat.choices[1].message.content == "Simulated answer to:"
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 6

    async def test_a_stored_completion_can_be_listed_read_and_deleted(self, sdk: AsyncOpenAI) -> None:
        unstored = await sdk.chat.completions.create(model="m", messages=QUESTION)
        stored = await sdk.chat.completions.create(
            model="m", messages=QUESTION, store=True, metadata={"a": "b"}
        )
        assert [chat.id async for chat in sdk.chat.completions.list()] == [stored.id]
        assert (await sdk.chat.completions.retrieve(stored.id)).choices == stored.choices
        async with aiohttp.ClientSession() as session:
            url = f"{sdk.base_url}chat/completions/{stored.id}/messages"
            listed = await (await session.get(url)).json()
        assert [message["content"] for message in listed["data"]] == ["how are you?"]
        await sdk.chat.completions.delete(stored.id)
        for gone in (stored.id, unstored.id):
            with pytest.raises(NotFoundError):
                await sdk.chat.completions.retrieve(gone)

    async def test_text_completions_answer_every_prompt(self, lenient_sdk: AsyncOpenAI) -> None:
        sdk = lenient_sdk  # its type has no null finish_reason
        whole = await sdk.completions.create(model="m", prompt=["one", "two"])
        assert [choice.text.startswith("Simulated answer to: ") for choice in whole.choices] == [True, True]
        stream = await sdk.completions.create(
            model="m", prompt="one", stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
        assert chunks[-1].usage is not None
        assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)

    async def test_a_missing_field_is_named(self, http: aiohttp.ClientSession) -> None:
        async with http.post("/v1/chat/completions", json={"model": "m"}) as answer:
            assert answer.status == 400
            error = (await answer.json())["error"]
        assert (error["param"], error["code"]) == ("messages", "missing_required_parameter")

    @pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "m", "messages": 7}'])
    async def test_a_body_that_makes_no_sense_is_refused(
        self, http: aiohttp.ClientSession, body: bytes
    ) -> None:
        headers = {"Content-Type": "application/json"}
        async with http.post("/v1/chat/completions", data=body, headers=headers) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["type"] == "invalid_request_error"


class TestResponses:
    async def test_a_stream_tells_the_whole_story_in_order(self, sdk: AsyncOpenAI) -> None:
        events = [e async for e in await sdk.responses.create(model="m", input="hello", stream=True)]
        names: list[str] = [event.type for event in events]
        deltas = names.count("response.output_text.delta")
        assert names == [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            *["response.output_text.delta"] * deltas,
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        first, last = events[0], events[-1]
        assert first.type == "response.created"
        assert last.type == "response.completed"
        assert (first.response.status, first.response.usage) == ("in_progress", None)
        assert last.response.usage is not None
        assert last.response.usage.output_tokens == deltas
        said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert last.response.output_text == said
        assert said.startswith("Simulated answer to: hello")

    async def test_a_response_is_kept_with_its_input(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.responses.create(model="m", input="hello")
        assert made.status == "completed"
        assert await sdk.responses.retrieve(made.id) == made
        items = [item async for item in sdk.responses.input_items.list(made.id)]
        assert [item.type for item in items] == ["message"]
        await sdk.responses.delete(made.id)
        with pytest.raises(NotFoundError):
            await sdk.responses.retrieve(made.id)

    async def test_a_background_response_completes_later(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.responses.create(model="m", input="hello", background=True)
        assert made.status == "queued"

        async def completed() -> bool:
            return (await sdk.responses.retrieve(made.id)).status == "completed"

        await until(completed)

    async def test_a_limit_makes_a_response_incomplete(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.responses.create(model="m", input="hello", max_output_tokens=2)
        assert (made.status, made.output_text) == ("incomplete", "Simulated answer")
        events = [
            e
            async for e in await sdk.responses.create(
                model="m", input="hello", max_output_tokens=2, stream=True
            )
        ]
        assert events[-1].type == "response.incomplete"

    async def test_a_conversation_keeps_its_items(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.conversations.create(
            metadata={"topic": "x"}, items=[{"type": "message", "role": "user", "content": "one"}]
        )
        added = await sdk.conversations.items.create(
            made.id, items=[{"type": "message", "role": "user", "content": "two"}]
        )
        listed = [str(item.id) async for item in sdk.conversations.items.list(made.id, order="asc")]
        assert listed[1:] == [item.id for item in added.data]
        assert (await sdk.conversations.items.retrieve(listed[0], conversation_id=made.id)).type == "message"
        assert (await sdk.conversations.items.delete(listed[0], conversation_id=made.id)).id == made.id
        await sdk.conversations.update(made.id, metadata={"topic": "y"})
        assert (await sdk.conversations.retrieve(made.id)).metadata == {"topic": "y"}
        assert (await sdk.conversations.delete(made.id)).deleted


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK says so of all of them
class TestAssistants:
    async def _assistant(self, sdk: AsyncOpenAI, *tools: Any) -> str:
        return (await sdk.beta.assistants.create(model="gpt-4o", instructions="Help.", tools=tools)).id

    async def test_a_run_is_streamed_from_created_to_done(
        self, sdk: AsyncOpenAI, http: aiohttp.ClientSession
    ) -> None:
        assistant_id = await self._assistant(sdk)
        thread = await sdk.beta.threads.create(messages=[{"role": "user", "content": "hello"}])
        body = {"assistant_id": assistant_id, "stream": True}
        async with http.post(f"/v1/threads/{thread.id}/runs", json=body) as answer:
            events = await sse(answer)
        names = [name for name, _ in events]
        deltas = names.count("thread.message.delta")
        assert names == [
            "thread.run.created",
            "thread.run.queued",
            "thread.run.in_progress",
            "thread.run.step.created",
            "thread.run.step.in_progress",
            "thread.message.created",
            "thread.message.in_progress",
            *["thread.message.delta"] * deltas,
            "thread.message.completed",
            "thread.run.step.completed",
            "thread.run.completed",
            "done",
        ]
        assert events[-1][1] == "[DONE]"
        runs = [orjson.loads(data) for name, data in events if (name or "").startswith("thread.run.")]
        assert runs[0]["usage"] is None
        assert runs[-1]["usage"]["completion_tokens"] == deltas

    async def test_the_sdk_follows_a_streamed_run(self, sdk: AsyncOpenAI) -> None:
        assistant_id = await self._assistant(sdk)
        events = [
            event
            async for event in await sdk.beta.threads.create_and_run(
                assistant_id=assistant_id,
                thread={"messages": [{"role": "user", "content": "hello"}]},
                stream=True,
            )
        ]
        assert [events[0].event, events[1].event] == ["thread.created", "thread.run.created"]
        last = events[-1]
        assert last.event == "thread.run.completed"
        thread_id = last.data.thread_id
        messages = [m async for m in sdk.beta.threads.messages.list(thread_id, order="asc")]
        assert [m.role for m in messages] == ["user", "assistant"]
        said = messages[1].content[0]
        assert said.type == "text"
        assert said.text.value.startswith("Simulated answer to: hello")
        steps = [s async for s in sdk.beta.threads.runs.steps.list(last.data.id, thread_id=thread_id)]
        assert [(s.type, s.status) for s in steps] == [("message_creation", "completed")]

    async def test_a_run_that_nobody_watches_completes(self, sdk: AsyncOpenAI) -> None:
        assistant_id = await self._assistant(sdk)
        thread = await sdk.beta.threads.create()
        run = await sdk.beta.threads.runs.create(thread.id, assistant_id=assistant_id)
        assert (run.status, run.usage) == ("queued", None)

        async def used() -> Any:
            return (await sdk.beta.threads.runs.retrieve(run.id, thread_id=thread.id)).usage

        assert (await until(used)).total_tokens > 0

    async def test_a_run_that_is_cancelled_stays_cancelled(self, start: Start) -> None:
        async with (await start(pace_seconds=0.03)).sdk() as sdk:
            assistant_id = await self._assistant(sdk)
            thread = await sdk.beta.threads.create()
            run = await sdk.beta.threads.runs.create(thread.id, assistant_id=assistant_id)
            await sdk.beta.threads.runs.cancel(run.id, thread_id=thread.id)
            await asyncio.sleep(0.5)
            again = await sdk.beta.threads.runs.retrieve(run.id, thread_id=thread.id)
            assert (again.status, again.usage) == ("cancelled", None)
            with pytest.raises(BadRequestError):
                await sdk.beta.threads.runs.cancel(run.id, thread_id=thread.id)

    async def test_a_run_that_is_cancelled_while_it_streams_ends_as_cancelled(self, start: Start) -> None:
        async with (await start(pace_seconds=0.03)).sdk() as sdk:
            assistant_id = await self._assistant(sdk)
            thread = await sdk.beta.threads.create()
            events = []
            async for event in await sdk.beta.threads.runs.create(
                thread.id, assistant_id=assistant_id, stream=True
            ):
                events.append(event)
                if event.event == "thread.message.created":
                    assert event.data.run_id is not None
                    await sdk.beta.threads.runs.cancel(event.data.run_id, thread_id=thread.id)
            assert events[-1].event == "thread.run.cancelled"
            assert "thread.run.completed" not in [event.event for event in events]

    async def test_a_function_is_called_and_its_output_submitted(self, sdk: AsyncOpenAI) -> None:
        assistant_id = await self._assistant(sdk, {"type": "function", "function": {"name": "look_up"}})
        thread = await sdk.beta.threads.create()
        stream = await sdk.beta.threads.runs.create(thread.id, assistant_id=assistant_id, stream=True)
        waiting = [event async for event in stream][-1]
        assert waiting.event == "thread.run.requires_action"
        assert waiting.data.required_action is not None
        call = waiting.data.required_action.submit_tool_outputs.tool_calls[0]
        assert call.function.name == "look_up"
        stream = await sdk.beta.threads.runs.submit_tool_outputs(
            waiting.data.id,
            thread_id=thread.id,
            tool_outputs=[{"tool_call_id": call.id, "output": "42"}],
            stream=True,
        )
        events = [event async for event in stream]
        assert [events[0].event, events[-1].event] == ["thread.run.step.completed", "thread.run.completed"]
        with pytest.raises(BadRequestError):
            await sdk.beta.threads.runs.submit_tool_outputs(
                waiting.data.id, thread_id=thread.id, tool_outputs=[]
            )

    async def test_a_message_is_found_only_under_its_own_thread(self, sdk: AsyncOpenAI) -> None:
        mine, other = await sdk.beta.threads.create(), await sdk.beta.threads.create()
        message = await sdk.beta.threads.messages.create(mine.id, role="user", content="hello")
        found = await sdk.beta.threads.messages.retrieve(message.id, thread_id=mine.id)
        assert found == message
        with pytest.raises(NotFoundError):
            await sdk.beta.threads.messages.retrieve(message.id, thread_id=other.id)
        await sdk.beta.threads.delete(mine.id)
        with pytest.raises(NotFoundError):
            await sdk.beta.threads.messages.retrieve(message.id, thread_id=mine.id)
        with pytest.raises(NotFoundError):
            await sdk.beta.threads.messages.create(mine.id, role="user", content="too late")
        with pytest.raises(NotFoundError):
            await sdk.beta.threads.messages.list("thread_none")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # some transcript formats
class TestAudio:
    async def test_wav_plays(self, sdk: AsyncOpenAI) -> None:
        answer = await sdk.audio.speech.create(
            model="tts-1", voice="alloy", input="x" * 50, response_format="wav"
        )
        with wave.open(io.BytesIO(answer.content)) as sound:
            assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (24_000, 1, 2)
            samples = sound.readframes(sound.getnframes())
            assert sound.getnframes() == pytest.approx(3 * 24_000)
        heights = struct.unpack(f"<{len(samples) // 2}h", samples)
        assert len(samples) == len(answer.content) - 44
        assert max(heights) > 7000
        assert min(heights) < -7000
        # A melody without clicks: no jump from one sample to the next.
        assert max(abs(a - b) for a, b in itertools.pairwise(heights)) < 1500

    @pytest.mark.parametrize(
        ("name", "content_type"),
        [
            ("mp3", "audio/mpeg"),
            ("opus", "audio/opus"),
            ("aac", "audio/aac"),
            ("flac", "audio/flac"),
            ("pcm", "audio/pcm"),
        ],
    )
    async def test_every_format_has_its_type_and_a_plausible_size(
        self, sdk: AsyncOpenAI, name: Any, content_type: str
    ) -> None:
        short = await sdk.audio.speech.create(model="m", voice="alloy", input="x" * 40, response_format=name)
        longer = await sdk.audio.speech.create(model="m", voice="alloy", input="x" * 80, response_format=name)
        assert short.response.headers["content-type"] == content_type
        assert 4_000 < len(short.content) < len(longer.content)

    async def test_a_text_too_long_to_speak_is_refused(self, sdk: AsyncOpenAI) -> None:
        with pytest.raises(BadRequestError, match="4096"):
            await sdk.audio.speech.create(model="m", voice="alloy", input="x" * 4097)

    async def test_a_transcript_comes_in_every_format(self, sdk: AsyncOpenAI) -> None:
        file = ("a.wav", bytes(96_000))
        whole = await sdk.audio.transcriptions.create(model="gpt-4o-transcribe", file=file)
        assert whole.text.startswith("Simulated transcription of a.wav, 96000 bytes")
        assert whole.usage is not None
        assert whole.usage.type == "tokens"
        text = await sdk.audio.transcriptions.create(model="m", file=file, response_format="text")
        assert text.strip() == whole.text
        srt = await sdk.audio.transcriptions.create(model="m", file=file, response_format="srt")
        assert srt.startswith("1\n00:00:00,000 --> 00:00:02,000\nSimulated")
        vtt = await sdk.audio.transcriptions.create(model="m", file=file, response_format="vtt")
        assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nSimulated")
        verbose = await sdk.audio.transcriptions.create(
            model="whisper-1", file=file, response_format="verbose_json"
        )
        assert (verbose.duration, verbose.segments and len(verbose.segments)) == (2.0, 1)
        translated = await sdk.audio.translations.create(model="whisper-1", file=file)
        assert translated.text.startswith("Simulated translation of a.wav")

    async def test_a_transcript_is_streamed(self, sdk: AsyncOpenAI) -> None:
        stream = await sdk.audio.transcriptions.create(
            model="gpt-4o-transcribe", file=("a.wav", bytes(96_000)), stream=True
        )
        events = [event async for event in stream]
        last = events[-1]
        assert last.type == "transcript.text.done"
        assert last.usage is not None
        said = "".join(event.delta for event in events if event.type == "transcript.text.delta")
        assert said == last.text


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # image variations
class TestVectorsAndImages:
    async def test_an_embedding_depends_on_the_text_alone(self, lenient_sdk: AsyncOpenAI) -> None:
        sdk = lenient_sdk  # asks for base64 and decodes it only after validation
        made = await sdk.embeddings.create(model="text-embedding-3-small", input=["one", "two", "one"])
        one, two, again = (item.embedding for item in made.data)
        assert one == again != two
        assert len(one) == 1536
        assert sum(x * x for x in one) == pytest.approx(1.0, abs=1e-3)
        assert made.usage.prompt_tokens == made.usage.total_tokens > 0

    async def test_floats_and_base64_are_the_same_vector(self, http: aiohttp.ClientSession) -> None:
        vectors = []
        for form in ("float", "base64"):
            body = {"model": "m", "input": "x", "encoding_format": form, "dimensions": 12}
            async with http.post("/v1/embeddings", json=body) as answer:
                vectors.append((await answer.json())["data"][0]["embedding"])
        assert struct.unpack("<12f", b64decode(vectors[1])) == pytest.approx(vectors[0])

    async def test_an_absurd_number_of_dimensions_is_refused(self, sdk: AsyncOpenAI) -> None:
        with pytest.raises(BadRequestError) as refused:
            await sdk.embeddings.create(model="m", input="x", dimensions=10**9)
        assert refused.value.param == "dimensions"

    async def test_lists_of_numbers_are_embedded_too(self, lenient_sdk: AsyncOpenAI) -> None:
        sdk = lenient_sdk
        assert len((await sdk.embeddings.create(model="m", input=[1, 2, 3])).data) == 1
        assert len((await sdk.embeddings.create(model="m", input=[[1, 2], [3]])).data) == 2

    async def test_nothing_is_flagged(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.moderations.create(input=["one", "two"])
        assert [result.flagged for result in made.results] == [False, False]

    async def test_an_image_is_a_png(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.images.generate(prompt="a cat", model="gpt-image-1", n=2)
        assert made.data is not None
        assert made.usage is not None
        assert len(made.data) == 2
        picture = b64decode(made.data[0].b64_json or "")
        assert picture.startswith(b"\x89PNG\r\n\x1a\n")
        at = picture.index(b"IDAT")
        (length,) = struct.unpack(">I", picture[at - 4 : at])
        assert len(zlib.decompress(picture[at + 4 : at + 4 + length])) == 8 * (1 + 3 * 8)
        (checksum,) = struct.unpack(">I", picture[at + 4 + length :][:4])
        assert checksum == zlib.crc32(picture[at : at + 4 + length])

    async def test_the_older_models_give_links_and_take_pictures(self, sdk: AsyncOpenAI) -> None:
        drawn = await sdk.images.generate(prompt="a cat", model="dall-e-3")
        edited = await sdk.images.edit(prompt="a dog", image=("a.png", b"png"), model="dall-e-2")
        varied = await sdk.images.create_variation(image=("a.png", b"png"), response_format="b64_json")
        assert drawn.data and edited.data and varied.data
        assert (drawn.data[0].url or "").startswith("https://simulator.invalid/")
        assert edited.data[0].revised_prompt == "Simulated image for: a dog"
        assert varied.data[0].b64_json


class TestFiles:
    async def test_a_file_is_uploaded_listed_read_and_deleted(self, sdk: AsyncOpenAI) -> None:
        data = bytes(range(256)) * 500
        made = await sdk.files.create(file=("data.bin", data), purpose="user_data")
        assert (made.bytes, made.filename, made.id[:5]) == (len(data), "data.bin", "file-")
        assert [file.id async for file in sdk.files.list(purpose="user_data")] == [made.id]
        assert [file.id async for file in sdk.files.list(purpose="batch")] == []
        assert (await sdk.files.content(made.id)).content == data
        deleted = await sdk.files.delete(made.id)
        assert (deleted.deleted, deleted.object) == (True, "file")
        with pytest.raises(NotFoundError):
            await sdk.files.content(made.id)

    @pytest.mark.parametrize(
        ("asked", "status", "got", "content_range"),
        [
            ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
            ("bytes=7-", 206, b"789", "bytes 7-9/10"),
            ("bytes=-2", 206, b"89", "bytes 8-9/10"),
            ("bytes=0-99", 206, b"0123456789", "bytes 0-9/10"),
            ("bytes=10-", 416, b"", "bytes */10"),
            ("lines=1-2", 200, b"0123456789", None),
        ],
    )
    async def test_a_range_of_a_file_can_be_read(
        self,
        sdk: AsyncOpenAI,
        http: aiohttp.ClientSession,
        asked: str,
        status: int,
        got: bytes,
        content_range: str | None,
    ) -> None:
        made = await sdk.files.create(file=("ten.txt", b"0123456789", "text/plain"), purpose="user_data")
        async with http.get(f"/v1/files/{made.id}/content", headers={"Range": asked}) as answer:
            assert (answer.status, await answer.read()) == (status, got)
            assert answer.headers.get("Content-Range") == content_range
            assert answer.content_type == "text/plain"
            assert answer.content_length == len(got)

    async def test_head_has_the_length_and_no_body(
        self, sdk: AsyncOpenAI, http: aiohttp.ClientSession
    ) -> None:
        made = await sdk.files.create(file=("ten.txt", b"0123456789"), purpose="user_data")
        for path in (f"/v1/files/{made.id}/content", "/v1/models"):
            async with http.head(path) as head, http.get(path) as whole:
                assert head.status == 200
                assert head.headers["Content-Length"] == whole.headers["Content-Length"]
                assert await head.read() == b""

    async def test_a_large_file_is_counted_and_its_beginning_kept(self, http: aiohttp.ClientSession) -> None:
        piece = bytes(range(1, 251)) * 4000
        count = KEPT_BYTES // len(piece) + 3

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(count):
                yield piece

        form = aiohttp.FormData({"purpose": "user_data"})
        form.add_field("file", pieces(), filename="large.bin")
        async with http.post("/v1/files", data=form) as answer:
            made = await answer.json()
        assert made["bytes"] == count * len(piece)
        async with http.get(f"/v1/files/{made['id']}/content") as answer:
            got = await answer.read()
        assert len(got) == made["bytes"]
        assert got[:KEPT_BYTES] == (piece * count)[:KEPT_BYTES]
        assert not any(got[KEPT_BYTES:])

    async def test_an_upload_in_parts_becomes_a_file(self, sdk: AsyncOpenAI) -> None:
        upload = await sdk.uploads.create(
            filename="parts.txt", purpose="user_data", bytes=10, mime_type="text/plain"
        )
        assert (upload.status, upload.id[:7]) == ("pending", "upload_")
        parts = [(await sdk.uploads.parts.create(upload.id, data=data)).id for data in (b"56789", b"01234")]
        with pytest.raises(BadRequestError, match="Expected 10 bytes"):
            await sdk.uploads.complete(upload.id, part_ids=parts[:1])
        done = await sdk.uploads.complete(upload.id, part_ids=parts[::-1])
        assert done.status == "completed"
        assert done.file is not None
        assert (await sdk.files.content(done.file.id)).content == b"0123456789"
        with pytest.raises(BadRequestError):
            await sdk.uploads.complete(upload.id, part_ids=parts)

    async def test_a_batch_answers_every_line_of_its_file(self, sdk: AsyncOpenAI) -> None:
        lines = [
            orjson.dumps(
                {
                    "custom_id": name,
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": {"model": "m", "messages": QUESTION},
                }
            )
            for name in ("a", "b")
        ]
        file = await sdk.files.create(file=("in.jsonl", b"\n".join([*lines, b"{}"])), purpose="batch")
        batch = await sdk.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        assert batch.status == "validating"

        async def completed() -> Any:
            found = await sdk.batches.retrieve(batch.id)
            return found if found.status == "completed" else None

        done = await until(completed)
        assert (done.request_counts.completed, done.request_counts.failed) == (2, 1)
        output = (await sdk.files.content(done.output_file_id)).content.splitlines()
        answers = [orjson.loads(line) for line in output]
        assert [line["custom_id"] for line in answers] == ["a", "b", None]
        assert answers[0]["response"]["body"]["system_fingerprint"] == "simulator"
        assert answers[2]["error"]["code"] == "invalid_request"

    async def test_a_batch_that_is_cancelled_answers_nothing(self, start: Start) -> None:
        async with (await start(pace_seconds=0.02)).sdk() as sdk:
            file = await sdk.files.create(file=("in.jsonl", b"{}"), purpose="batch")
            batch = await sdk.batches.create(
                input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h"
            )
            assert (await sdk.batches.cancel(batch.id)).status == "cancelling"

            async def cancelled() -> bool:
                return (await sdk.batches.retrieve(batch.id)).status == "cancelled"

            await until(cancelled)
            assert (await sdk.batches.retrieve(batch.id)).output_file_id is None

    async def test_a_batch_needs_a_batch_file(self, sdk: AsyncOpenAI) -> None:
        other = await sdk.files.create(file=("a.txt", b"x"), purpose="user_data")
        with pytest.raises(BadRequestError):
            await sdk.batches.create(
                input_file_id=other.id, endpoint="/v1/embeddings", completion_window="24h"
            )
        with pytest.raises(NotFoundError):
            await sdk.batches.create(
                input_file_id="file-none", endpoint="/v1/embeddings", completion_window="24h"
            )

    async def test_a_vector_store_counts_and_finds_its_files(self, sdk: AsyncOpenAI) -> None:
        files = [
            (await sdk.files.create(file=(f"{n}.txt", b"text"), purpose="assistants")).id for n in range(3)
        ]
        store = await sdk.vector_stores.create(name="mine", file_ids=files[:1])
        added = await sdk.vector_stores.files.create(store.id, file_id=files[1])
        assert (added.id, added.vector_store_id, added.usage_bytes) == (files[1], store.id, 4)
        batch = await sdk.vector_stores.file_batches.create(store.id, file_ids=files[2:])
        assert batch.file_counts.completed == 1
        store = await sdk.vector_stores.retrieve(store.id)
        assert (store.file_counts.total, store.usage_bytes) == (3, 12)
        hits = [hit async for hit in sdk.vector_stores.search(store.id, query="what?")]
        assert {hit.file_id for hit in hits} == set(files)
        assert hits[0].content[0].text.startswith("Simulated search result")
        listed = [
            f.id async for f in sdk.vector_stores.file_batches.list_files(batch.id, vector_store_id=store.id)
        ]
        assert set(listed) == set(files)
        assert (await sdk.vector_stores.files.delete(files[0], vector_store_id=store.id)).deleted
        assert (await sdk.files.retrieve(files[0])).id == files[0]
        assert (await sdk.vector_stores.delete(store.id)).deleted


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # assistants
class TestStore:
    async def test_a_list_is_paged_in_both_directions(self, sdk: AsyncOpenAI) -> None:
        made = [(await sdk.beta.assistants.create(model="m", name=str(n))).id for n in range(7)]
        page = await sdk.beta.assistants.list(limit=3)
        assert [a.id for a in page.data] == made[:3:-1]
        assert page.has_more
        assert [a.id async for a in page] == made[::-1]
        page = await sdk.beta.assistants.list(limit=3, order="asc", after=made[4])
        assert [a.id for a in page.data] == made[5:]
        assert not page.has_more
        page = await sdk.beta.assistants.list(limit=3, order="asc", before=made[4])
        assert [a.id for a in page.data] == made[1:4]
        assert page.has_more
        async with aiohttp.ClientSession() as session:
            listed = await (await session.get(f"{sdk.base_url}assistants?limit=2")).json()
        assert (listed["object"], listed["first_id"], listed["last_id"]) == ("list", made[6], made[5])

    @pytest.mark.parametrize(
        "query", ["limit=0", "limit=101", "limit=x", "after=asst_none", "before=asst_none"]
    )
    async def test_a_page_that_makes_no_sense_is_refused(
        self, http: aiohttp.ClientSession, query: str
    ) -> None:
        async with http.get(f"/v1/assistants?{query}") as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["param"] == query.partition("=")[0]

    async def test_an_object_is_updated_and_keeps_its_id(self, sdk: AsyncOpenAI) -> None:
        made = await sdk.beta.assistants.create(model="m", name="old", metadata={"a": "1"})
        changed = await sdk.beta.assistants.update(
            made.id, name="new", extra_body={"id": "asst_other", "object": "thread"}
        )
        assert (changed.id, changed.object, changed.name) == (made.id, "assistant", "new")
        assert (await sdk.beta.assistants.retrieve(made.id)).metadata == {"a": "1"}
        assert (await sdk.beta.assistants.delete(made.id)).object == "assistant.deleted"

    async def test_models_are_listed_and_read_whatever_their_name(self, sdk: AsyncOpenAI) -> None:
        names = [model.id async for model in sdk.models.list()]
        assert "ft:gpt-4o-mini:acme::abc" in names
        for name in names:
            assert (await sdk.models.retrieve(name)).owned_by == "simulator"
        with pytest.raises(NotFoundError) as refused:
            await sdk.models.retrieve("gpt-none")
        assert refused.value.type == "invalid_request_error"

    async def test_a_container_keeps_its_files(self, sdk: AsyncOpenAI) -> None:
        container = await sdk.containers.create(name="box")
        file = await sdk.containers.files.create(container.id, file=("a.txt", b"inside"))
        assert (file.bytes, file.container_id) == (6, container.id)
        content = await sdk.containers.files.content.retrieve(file.id, container_id=container.id)
        assert content.content == b"inside"
        assert [c.id async for c in sdk.containers.list()] == [container.id]
        await sdk.containers.delete(container.id)
        with pytest.raises(NotFoundError):
            await sdk.containers.files.retrieve(file.id, container_id=container.id)

    async def test_an_object_of_several_files_keeps_the_first(self, http: aiohttp.ClientSession) -> None:
        form = aiohttp.FormData({"name": "many"})
        for data in (b"first", b"second"):
            form.add_field("files[]", data, filename=f"{data!r}.txt")
        async with http.post("/v1/skills", data=form) as answer:
            made = await answer.json()
        assert (made["name"], made["bytes"]) == ("many", 5)
        async with http.get(f"/v1/skills/{made['id']}/content") as answer:
            assert await answer.read() == b"first"

    async def test_a_fine_tuning_job_is_made_and_cancelled(self, sdk: AsyncOpenAI) -> None:
        job = await sdk.fine_tuning.jobs.create(model="m", training_file="file-1")
        assert job.id.startswith("ftjob-")
        assert (await sdk.fine_tuning.jobs.cancel(job.id)).status == "cancelled"
        assert [event async for event in sdk.fine_tuning.jobs.list_events(job.id)] == []

    async def test_what_the_api_cannot_make_exists_when_asked_for(self, http: aiohttp.ClientSession) -> None:
        for path, expected in [
            ("/v1/organization/users/user-1", "user-1"),
            ("/v1/organization/spend_limit", "spend_limit"),
        ]:
            async with http.get(path) as answer:
                assert (await answer.json())["id"] == expected

    async def test_who_joins_a_project_keeps_their_own_id(self, http: aiohttp.ClientSession) -> None:
        async with http.post("/v1/organization/projects", json={"name": "p"}) as answer:
            project = f"/v1/organization/projects/{(await answer.json())['id']}"
        async with http.post(f"{project}/users", json={"user_id": "user-7", "role": "member"}) as answer:
            assert (await answer.json())["id"] == "user-7"
        async with http.get(f"{project}/users/user-7") as answer:
            assert (await answer.json())["role"] == "member"

    def test_what_hangs_under_a_deleted_object_is_gone(self) -> None:
        store = Store()
        for path in ("/v1/threads/t", "/v1/threads/t/runs/r", "/v1/threads/t/runs/r/steps/s"):
            collection, _, named = path.rpartition("/")
            store.create(collection, KINDS["run"], {}, id=named)
        store.create("/v1/threads/other/runs", KINDS["run"], {}, id="kept")
        store.delete("/v1/threads/t")
        assert store.all("/v1/threads/t/runs") == store.all("/v1/threads/t/runs/r/steps") == []
        assert store.has("/v1/threads/other/runs/kept")

    def test_the_oldest_objects_and_bytes_give_way(self) -> None:
        store = Store()
        for n in range(MAX_OBJECTS + 1):
            store.create("/v1/files", KINDS["file"], {}, id=f"file-{n}")
        assert not store.has("/v1/files/file-0")
        assert store.has("/v1/files/file-1")
        size_bytes = MAX_CONTENT_BYTES // 2
        for n in (1, 2, 3):
            store.keep(f"/v1/files/file-{n}", Content.of("f", "text/plain", bytes(size_bytes)))
        first, last = store.content("/v1/files/file-1"), store.content("/v1/files/file-3")
        assert first is not None
        assert last is not None
        assert (first.kept, first.length_bytes) == (b"", size_bytes)
        assert len(last.kept) == size_bytes


class TestEveryOperation:
    async def test_every_operation_answers_as_json_or_refuses_in_the_apis_shape(
        self, http: aiohttp.ClientSession
    ) -> None:
        statuses = set()
        for operation in OperationTable.load():
            path = operation.path.replace("{", "").replace("}", "-1")
            body: dict[str, Any] | None = {} if operation.method == "POST" else None
            async with http.request(operation.method, path, json=body) as answer:
                statuses.add(answer.status)
                assert answer.headers["x-simulator"] == "streaming-gateway", operation.id
                if answer.content_type == "application/json" and (text := await answer.read()):
                    shape = "object" if answer.status < 400 else "error"
                    assert shape in orjson.loads(text) or "value" in orjson.loads(text), operation.id
        assert statuses == {200, 400, 404}

    @pytest.mark.parametrize("path", ["/v1/nothing/here", "/", "/v1/models/../files", "/v1//models"])
    async def test_what_the_table_lacks_is_not_found(self, simulator: Running, path: str) -> None:
        client = await RawClient.connect("127.0.0.1", simulator.port, "sk")
        answer = await client.request("GET", path)
        await client.close()
        assert answer.status == 404
        assert orjson.loads(answer.body)["error"]["type"] == "invalid_request_error"

    async def test_it_runs_on_its_own(self, unused_tcp_port: int) -> None:
        """`python -m gateway.simulator` serves until it is told to stop."""
        arguments = ("-m", "gateway.simulator", "--port", str(unused_tcp_port), "--api-key", "sk-one")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        try:
            assert b"Running on" in await asyncio.wait_for(process.stdout.readline(), 10)
            async with Running(unused_tcp_port).sdk("sk-one") as sdk:
                assert await sdk.models.list()
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 10) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def test_exactly_one_key_is_accepted_if_one_is_given(self, start: Start) -> None:
        guarded = await start(api_key="sk-right")
        async with guarded.sdk("sk-right") as sdk:
            assert [model async for model in sdk.models.list()]
        async with guarded.sdk("sk-wrong") as sdk:
            with pytest.raises(AuthenticationError) as refused:
                await sdk.models.list()
            assert refused.value.code == "invalid_api_key"
            with pytest.raises(AuthenticationError):
                await sdk.chat.completions.create(model="m", messages=QUESTION)


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


class TestTiming:
    async def test_events_arrive_one_by_one_a_pace_apart(self, start: Start) -> None:
        paced = await start(pace_seconds=0.05)
        client = await RawClient.connect("127.0.0.1", paced.port, "sk")
        body = orjson.dumps({"model": "m", "messages": QUESTION, "stream": True, "max_tokens": 4})
        json = "Content-Type: application/json\r\n"
        await client.send(client.request_bytes("POST", "/v1/chat/completions", body, headers=json))
        head = await client.read_head()
        assert head.get("transfer-encoding") == "chunked"
        clock = asyncio.get_running_loop().time
        arrivals = []
        while chunk := await client.read_chunk():
            assert chunk.startswith(b"data: ")
            assert chunk.count(b"\n\n") == 1
            arrivals.append(clock())
        await client.close()
        assert len(arrivals) == 1 + 4 + 1 + 1
        # Six waits of 50 ms; what delays the first event shortens none of them by as much as 100 ms.
        assert arrivals[-1] - arrivals[0] > 0.2

    async def test_speech_arrives_piece_by_piece(self, start: Start) -> None:
        paced = await start(pace_seconds=5)
        client = await RawClient.connect("127.0.0.1", paced.port, "sk")
        body = orjson.dumps({"model": "m", "voice": "alloy", "input": "x" * 100, "response_format": "pcm"})
        json = "Content-Type: application/json\r\n"
        await client.send(client.request_bytes("POST", "/v1/audio/speech", body, headers=json))
        await client.read_head()
        async with asyncio.timeout(2):
            assert len(await client.read_chunk()) == 4800
        await client.close()

    async def test_a_whole_answer_does_not_wait(self, start: Start) -> None:
        async with (await start(pace_seconds=5)).sdk() as sdk, asyncio.timeout(2):
            await sdk.chat.completions.create(model="m", messages=QUESTION)
            await sdk.responses.create(model="m", input="hello")


class TestFaults:
    async def _ask(self, simulator: Running, simulate: str, stream: bool = False) -> Any:
        body = orjson.dumps({"model": "m", "messages": QUESTION, "stream": stream})
        headers = f"Content-Type: application/json\r\nx-simulate: {simulate}\r\n"
        client = await RawClient.connect("127.0.0.1", simulator.port, "sk")
        try:
            return await client.request("POST", "/v1/chat/completions", body, headers=headers)
        finally:
            await client.close()

    @pytest.mark.parametrize("stream", [False, True])
    @pytest.mark.parametrize("cut_bytes", [0, 1, 120, 1000])
    async def test_a_cut_answer_ends_after_exactly_so_many_bytes_and_not_cleanly(
        self, simulator: Running, stream: bool, cut_bytes: int
    ) -> None:
        whole = await self._ask(simulator, "pace=0", stream)
        assert whole.clean_end
        assert len(whole.body) > 120
        answer = await self._ask(simulator, f"cut={cut_bytes}; pace=0", stream)
        assert answer.status == 200
        if cut_bytes < len(whole.body):
            assert not answer.clean_end
            assert len(answer.body) == cut_bytes
        else:
            assert answer.clean_end

    async def test_a_cut_download_delivers_what_it_says(self, simulator: Running, sdk: AsyncOpenAI) -> None:
        data = bytes(range(250)) * 20_000
        made = await sdk.files.create(file=("a.bin", data), purpose="user_data")
        client = await RawClient.connect("127.0.0.1", simulator.port, "sk")
        answer = await client.request(
            "GET", f"/v1/files/{made.id}/content", headers="x-simulate: cut=4000000\r\n"
        )
        await client.close()
        assert not answer.clean_end
        assert answer.body == data[:4_000_000]

    async def test_the_sdk_sees_a_cut_stream_as_broken(self, sdk: AsyncOpenAI) -> None:
        stream = await sdk.chat.completions.create(
            model="m", messages=QUESTION, stream=True, extra_headers={"x-simulate": "cut=700"}
        )
        with pytest.raises(APIConnectionError):
            async for _ in stream:
                pass

    async def test_a_socket_is_cut_after_so_many_bytes_of_messages(self, http: aiohttp.ClientSession) -> None:
        async with http.ws_connect("/v1/realtime", headers={"x-simulate": "cut=2000"}) as socket:
            await socket.receive()
            await socket.send_bytes(bytes(1000))
            assert len(await socket.receive_bytes()) == 1000
            await socket.send_bytes(bytes(1000))
            assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
            assert socket.close_code == 1006

    async def test_a_dropped_request_has_no_answer(self, simulator: Running) -> None:
        with pytest.raises(asyncio.IncompleteReadError) as ended:
            await self._ask(simulator, "drop")
        assert ended.value.partial == b""

    async def test_a_failure_has_the_status_and_headers_that_were_asked_for(self, sdk: AsyncOpenAI) -> None:
        simulate = {"x-simulate": "status=429; retry-after=2; headers=x-a:1,x-b:y%2Cz"}
        with pytest.raises(RateLimitError) as limited:
            await sdk.models.list(extra_headers=simulate)
        assert limited.value.code == "rate_limit_exceeded"
        headers = limited.value.response.headers
        assert (headers["retry-after"], headers["x-a"], headers["x-b"]) == ("2", "1", "y,z")
        with pytest.raises(InternalServerError) as failed:
            await sdk.models.list(extra_headers={"x-simulate": "status=503"})
        assert failed.value.type == "server_error"

    async def test_a_delay_holds_back_the_head(self, simulator: Running) -> None:
        clock = asyncio.get_running_loop().time
        started = clock()
        assert (await self._ask(simulator, "delay=0.2")).status == 200
        assert clock() - started >= 0.2

    @pytest.mark.parametrize(
        "text",
        ["status=200", "status=x", "cut=-1", "delay=soon", "delay=nan", "pace=-1", "sttus=429", "headers=x"],
    )
    async def test_a_header_it_cannot_read_is_refused(self, simulator: Running, text: str) -> None:
        answer = await self._ask(simulator, text)
        assert answer.status == 400
        assert "x-simulate" in orjson.loads(answer.body)["error"]["message"]

    def test_nothing_asked_is_no_fault(self) -> None:
        assert Faults.parse(" ; ") == Faults()

    async def test_a_stream_ends_when_its_reader_leaves(self, start: Start) -> None:
        """Nothing of an abandoned stream is left running in the simulator."""
        paced = await start(pace_seconds=0.5)
        before = len(asyncio.all_tasks())
        client = await RawClient.connect("127.0.0.1", paced.port, "sk")
        body = orjson.dumps({"model": "m", "messages": QUESTION, "stream": True})
        json = "Content-Type: application/json\r\n"
        await client.send(client.request_bytes("POST", "/v1/chat/completions", body, headers=json))
        await client.read_head()
        assert len(asyncio.all_tasks()) > before
        client.reset()

        async def gone() -> bool:
            return len(asyncio.all_tasks()) == before

        async with asyncio.timeout(3):  # the stream would go on for ten seconds
            await until(gone)
