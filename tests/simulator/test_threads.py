"""Assistants, threads and runs, as the official SDK reads them."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import orjson
import pytest
from openai import (
    AsyncOpenAI,
    BadRequestError,
    NotFoundError,
)

from tests.kit.waiting import found
from tests.simulator.conftest import Start, sse


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

        assert (await found(used)).total_tokens > 0

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
