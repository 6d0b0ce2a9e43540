"""Tool calls and structured outputs, as the official SDK's own helpers use them, with strict validation."""

from __future__ import annotations

from typing import Any, Literal

import orjson
import pytest
from openai import AsyncOpenAI, BadRequestError, pydantic_function_tool
from pydantic import BaseModel

from tests.simulator.conftest import QUESTION

MODEL = "gpt-4o-mini"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "kelvin"]}},
    "required": ["city", "unit"],
    "additionalProperties": False,
}
ARGUMENTS = {"city": "simulated city", "unit": "celsius"}


class Step(BaseModel):
    explanation: str
    output: float
    before: Step | None


class Solution(BaseModel):
    steps: list[Step]
    answer: Literal["yes", "no"]


class GetWeather(BaseModel):
    city: str
    days: int


def asked(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def function(name: str) -> Any:
    """A tool as chat has it."""
    return {"type": "function", "function": {"name": name, "parameters": SCHEMA, "strict": True}}


def flat(name: str) -> Any:
    """A tool as responses have it."""
    return {"type": "function", "name": name, "parameters": SCHEMA, "strict": True}


WEATHER, ORDERS = "get_weather", "lookup_orders"
CUSTOM: Any = {"type": "custom", "custom": {"name": "shell"}}
FORMAT: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": SCHEMA, "strict": True}}


class TestChat:
    async def test_the_only_tool_is_called_with_arguments_that_satisfy_its_schema(
        self, sdk: AsyncOpenAI
    ) -> None:
        chat = await sdk.chat.completions.create(
            model=MODEL, messages=asked("Weather in Paris?"), tools=[function(WEATHER)]
        )
        [choice] = chat.choices
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        [call] = choice.message.tool_calls or []
        assert call.type == "function"
        assert call.id.startswith("call_")
        assert call.function.name == WEATHER
        assert orjson.loads(call.function.arguments) == ARGUMENTS

    async def test_upon_the_result_of_a_call_the_answer_is_text_about_it(self, sdk: AsyncOpenAI) -> None:
        tools = [function(WEATHER)]
        messages = asked("Weather in Paris?")
        first = await sdk.chat.completions.create(model=MODEL, messages=messages, tools=tools)
        [call] = first.choices[0].message.tool_calls or []
        result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
        messages += [first.choices[0].message.model_dump(exclude_none=True), result]

        second = await sdk.chat.completions.create(model=MODEL, messages=messages, tools=tools)

        assert second.choices[0].finish_reason == "stop"
        assert (second.choices[0].message.content or "").startswith("Simulated answer to: 21 degrees")

    @pytest.mark.parametrize(
        ("choice", "question", "called"),
        [
            ("auto", "Hello", []),
            (None, "Hello", []),
            ("auto", "Where are my orders?", [ORDERS]),
            ("auto", "Where is my order?", [ORDERS]),
            ("auto", "Call get_weather", [WEATHER]),
            ("auto", "Orders when the weather is fine?", [WEATHER, ORDERS]),
            ("none", "Where are my orders?", []),
            ("required", "Hello", [WEATHER]),
            ("required", "Where are my orders?", [ORDERS]),
            ({"type": "function", "function": {"name": ORDERS}}, "Hello", [ORDERS]),
            ({"type": "custom", "custom": {"name": "shell"}}, "Hello", ["shell"]),
            (
                {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": [function(ORDERS)]},
                },
                "Hello",
                [ORDERS],
            ),
            (
                {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "auto", "tools": [function(ORDERS), CUSTOM]},
                },
                "Weather?",
                [],
            ),
        ],
    )
    async def test_who_is_called_is_chosen_as_the_caller_says(
        self, sdk: AsyncOpenAI, choice: Any, question: str, called: list[str]
    ) -> None:
        tools = [function(WEATHER), function(ORDERS), CUSTOM]
        wanted = {} if choice is None else {"tool_choice": choice}
        chat = await sdk.chat.completions.create(model=MODEL, messages=asked(question), tools=tools, **wanted)
        calls = chat.choices[0].message.tool_calls or []
        assert [
            call.function.name if call.type == "function" else call.custom.name for call in calls
        ] == called

    async def test_calls_in_parallel_can_be_switched_off(self, sdk: AsyncOpenAI) -> None:
        tools = [function(WEATHER), function(ORDERS)]
        chat = await sdk.chat.completions.create(
            model=MODEL, messages=asked("Orders? Weather?"), tools=tools, parallel_tool_calls=False
        )
        assert len(chat.choices[0].message.tool_calls or []) == 1

    async def test_a_choice_that_is_not_offered_is_refused(self, sdk: AsyncOpenAI) -> None:
        choice: Any = {"type": "function", "function": {"name": "nobody"}}
        with pytest.raises(BadRequestError, match="'nobody' not found"):
            await sdk.chat.completions.create(
                model=MODEL, messages=QUESTION, tools=[function(WEATHER)], tool_choice=choice
            )

    async def test_the_stream_helper_puts_calls_together_as_the_whole_answer_has_them(
        self, sdk: AsyncOpenAI
    ) -> None:
        question = asked("Orders? Weather?")
        tools = [function(WEATHER), function(ORDERS)]
        async with sdk.chat.completions.stream(
            model=MODEL, messages=question, tools=tools, n=2, stream_options={"include_usage": True}
        ) as stream:
            kinds = {event.type async for event in stream}
            told = await stream.get_final_completion()
        whole = await sdk.chat.completions.create(model=MODEL, messages=question, tools=tools, n=2)

        assert "tool_calls.function.arguments.delta" in kinds
        assert told.usage == whole.usage
        for streamed, choice in zip(told.choices, whole.choices, strict=True):
            assert streamed.finish_reason == choice.finish_reason == "tool_calls"
            calls = [call.to_dict() for call in choice.message.tool_calls or []]
            assert len(calls) == 2
            for one, other in zip(streamed.message.tool_calls or [], calls, strict=True):
                ours = one.to_dict()
                for given in (ours, other):
                    given.pop("id")
                    given.pop("index", None)
                getattr(ours.get("function"), "pop", lambda *_: None)("parsed_arguments", None)
                assert ours == other

    async def test_parse_reads_what_it_asked_for(self, sdk: AsyncOpenAI) -> None:
        chat = await sdk.chat.completions.parse(model=MODEL, messages=QUESTION, response_format=Solution)
        solution = chat.choices[0].message.parsed
        assert solution is not None
        assert solution.answer == "yes"
        assert solution.steps[0].explanation == "simulated explanation"

    async def test_parse_reads_arguments_of_calls(self, sdk: AsyncOpenAI) -> None:
        chat = await sdk.chat.completions.parse(
            model=MODEL, messages=QUESTION, tools=[pydantic_function_tool(GetWeather)]
        )
        [call] = chat.choices[0].message.tool_calls or []
        assert call.function.parsed_arguments == GetWeather(city="simulated city", days=1)

    async def test_a_stream_is_parsed_too(self, sdk: AsyncOpenAI) -> None:
        async with sdk.chat.completions.stream(
            model=MODEL, messages=QUESTION, response_format=Solution
        ) as stream:
            deltas = [event async for event in stream if event.type == "content.delta"]
            told = await stream.get_final_completion()
        assert len(deltas) > 3
        assert told.choices[0].message.parsed is not None

    async def test_a_json_object_is_an_object_that_says_that_it_is_simulated(self, sdk: AsyncOpenAI) -> None:
        chat = await sdk.chat.completions.create(
            model=MODEL, messages=QUESTION, response_format={"type": "json_object"}
        )
        said = orjson.loads(chat.choices[0].message.content or "")
        assert said["answer"].startswith("Simulated answer to: how are you?")

    async def test_a_limit_cuts_a_call_and_says_so(self, sdk: AsyncOpenAI) -> None:
        chat = await sdk.chat.completions.create(
            model=MODEL, messages=QUESTION, tools=[function(WEATHER)], max_completion_tokens=2
        )
        [choice] = chat.choices
        assert choice.finish_reason == "length"
        assert chat.usage is not None
        assert chat.usage.completion_tokens == 2

    async def test_a_schema_that_nothing_satisfies_is_refused(self, sdk: AsyncOpenAI) -> None:
        endless: Any = {"$ref": "#"}
        wanted = FORMAT | {"json_schema": {"name": "endless", "schema": endless}}
        with pytest.raises(BadRequestError, match="never ends"):
            await sdk.chat.completions.create(
                model=MODEL, messages=QUESTION, response_format=wanted, stream=True
            )


class TestResponses:
    async def test_a_tool_is_called_and_its_result_answered_in_text(self, sdk: AsyncOpenAI) -> None:
        tools = [flat(WEATHER)]
        first = await sdk.responses.create(model=MODEL, input="Weather?", tools=tools)
        [call] = first.output
        assert call.type == "function_call"
        assert orjson.loads(call.arguments) == ARGUMENTS
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "21 degrees"}

        second = await sdk.responses.create(
            model=MODEL, input=[result], tools=tools, previous_response_id=first.id
        )

        assert second.output_text.startswith("Simulated answer to: 21 degrees")

    @pytest.mark.parametrize(
        ("choice", "question", "called"),
        [
            ("auto", "Hello", []),
            ("auto", "Where are my orders?", [ORDERS]),
            ("none", "Where are my orders?", []),
            ("required", "Hello", [WEATHER]),
            ({"type": "function", "name": ORDERS}, "Hello", [ORDERS]),
            ({"type": "custom", "name": "shell"}, "Hello", ["shell"]),
            (
                {
                    "type": "allowed_tools",
                    "mode": "required",
                    "tools": [{"type": "function", "name": ORDERS}],
                },
                "Hello",
                [ORDERS],
            ),
            ({"type": "file_search"}, "Hello", []),
        ],
    )
    async def test_who_is_called_is_chosen_as_the_caller_says(
        self, sdk: AsyncOpenAI, choice: Any, question: str, called: list[str]
    ) -> None:
        tools = [flat(WEATHER), flat(ORDERS), {"type": "custom", "name": "shell"}, {"type": "web_search"}]
        told = await sdk.responses.create(model=MODEL, input=question, tools=tools, tool_choice=choice)
        calls = [item for item in told.output if item.type in ("function_call", "custom_tool_call")]
        assert [getattr(call, "name", None) for call in calls] == called

    async def test_the_stream_helper_puts_calls_together_as_the_whole_answer_has_them(
        self, sdk: AsyncOpenAI
    ) -> None:
        tools = [flat(WEATHER), flat(ORDERS), {"type": "custom", "name": "shell"}]
        asking: Any = {"model": MODEL, "input": "Weather? Orders? Shell?", "tools": tools}
        async with sdk.responses.stream(**asking) as stream:
            events = [event async for event in stream]
            told = await stream.get_final_response()
        whole = await sdk.responses.create(**asking)

        kinds = [event.type for event in events]
        assert kinds[0] == "response.created"
        assert kinds[-1] == "response.completed"
        assert {"response.function_call_arguments.delta", "response.custom_tool_call_input.done"} <= set(
            kinds
        )
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert told.usage == whole.usage
        for streamed, item in zip(told.output, whole.output, strict=True):
            ours, other = streamed.to_dict(), item.to_dict()
            for given in (ours, other):
                for own in ("id", "call_id", "parsed_arguments"):
                    given.pop(own, None)
            assert ours == other

    async def test_parse_reads_what_it_asked_for(self, sdk: AsyncOpenAI) -> None:
        told = await sdk.responses.parse(model=MODEL, input="Hello", text_format=Solution)
        assert told.output_parsed is not None
        assert told.output_parsed.answer == "yes"

    async def test_a_stream_is_parsed_too(self, sdk: AsyncOpenAI) -> None:
        async with sdk.responses.stream(model=MODEL, input="Hello", text_format=Solution) as stream:
            async for _ in stream:
                pass
            told = await stream.get_final_response()
        assert told.output_parsed is not None

    async def test_a_json_object_is_an_object_that_says_that_it_is_simulated(self, sdk: AsyncOpenAI) -> None:
        told = await sdk.responses.create(
            model=MODEL, input="Hello", text={"format": {"type": "json_object"}}
        )
        assert orjson.loads(told.output_text)["answer"].startswith("Simulated answer to: Hello")

    async def test_a_limit_cuts_a_call_and_says_so(self, sdk: AsyncOpenAI) -> None:
        told = await sdk.responses.create(
            model=MODEL, input="Hello", tools=[flat(WEATHER)], max_output_tokens=2
        )
        assert told.status == "incomplete"
        assert told.output[0].type == "function_call"
        assert told.usage is not None
        assert told.usage.output_tokens == 2

    async def test_a_schema_that_nothing_satisfies_is_refused_before_a_stream_begins(
        self, sdk: AsyncOpenAI
    ) -> None:
        endless: Any = {"format": {"type": "json_schema", "name": "endless", "schema": {"$ref": "#"}}}
        with pytest.raises(BadRequestError, match="never ends"):
            await sdk.responses.create(model=MODEL, input="Hello", text=endless, stream=True)
