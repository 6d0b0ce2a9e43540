"""Chat completions and responses, as the official SDK reads them with strict validation."""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson
import pytest
from openai import (
    AsyncOpenAI,
    NotFoundError,
)

from tests.kit.waiting import found
from tests.simulator.conftest import QUESTION, sse


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

        await found(completed)

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
