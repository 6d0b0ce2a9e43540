"""The Responses API over a WebSocket, as the official SDK reads it."""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI
from openai.resources.responses.responses import AsyncResponsesConnection

from tests.simulator.conftest import Start


async def to_its_end(connection: AsyncResponsesConnection) -> list[Any]:
    """The events of a response, or the error in its place."""
    events: list[Any] = []
    async for event in connection:
        events.append(event)
        if event.type in ("response.completed", "response.incomplete", "response.failed", "error"):
            break
    return events


async def test_a_response_is_the_stream_that_would_be_posted_for(sdk: AsyncOpenAI) -> None:
    async with sdk.responses.connect() as connection:
        await connection.response.create(model="gpt-4o", input="hello", store=False)
        events = await to_its_end(connection)
    posted = [
        event.type async for event in await sdk.responses.create(model="gpt-4o", input="hello", stream=True)
    ]
    assert [event.type for event in events] == posted
    assert events[-1].response.usage.output_tokens > 0


async def test_a_response_is_continued_that_this_connection_made_and_no_other(
    sdk: AsyncOpenAI,
) -> None:
    async with sdk.responses.connect() as connection:
        await connection.response.create(model="gpt-4o", input="hello", store=False)
        first = (await to_its_end(connection))[-1].response.id
        await connection.response.create(
            model="gpt-4o", input="and then?", previous_response_id=first, store=False
        )
        assert (await to_its_end(connection))[-1].type == "response.completed"
    async with sdk.responses.connect() as another:
        await another.response.create(model="gpt-4o", input="and then?", previous_response_id=first)
        refused = (await to_its_end(another))[-1]
    assert (refused.type, refused.status) == ("error", 400)
    assert refused.error.code == "previous_response_not_found"


async def test_lanes_are_told_apart_and_a_warm_up_says_nothing(start: Start) -> None:
    running = await start(pace_seconds=0.01)
    async with running.sdk().responses.connect() as connection:
        for lane in ("one", "two"):
            await connection.response.create(model="gpt-4o", input="hello", stream_id=lane)
        lanes = [str((await connection.recv()).stream_id) for _ in range(12)]
        assert set(lanes) == {"one", "two"}
        assert lanes != sorted(lanes), "side by side"
    async with running.sdk().responses.connect() as connection:
        await connection.response.create(model="gpt-4o", input="hello", generate=False)
        assert [event.type for event in await to_its_end(connection)] == [
            "response.created",
            "response.completed",
        ]
