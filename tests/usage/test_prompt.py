"""What counts as text in a prompt, and what images, audio and files are taken for."""

from __future__ import annotations

import base64
import time
from typing import Any

import orjson
import pytest

from gateway.usage.image_tool import offers_images
from gateway.usage.prompt import Prompt, prompt_estimate

LONG = "data:" + "x" * 3995
"""A thousand LLM tokens."""

LOW = {"type": "input_image", "image_url": LONG, "detail": "low"}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, 0),
        ({"input": ""}, 0),
        ({"input": "abcd"}, 1),
        ({"input": "abcde"}, 2),
        ({"input": "日本語"}, 3),  # nine bytes
        ({"input": ["abcd", {"text": "abcd"}], "n": 5, "d": None, "e": True}, 2),
        ({"input": [1, 2, 3]}, 3),
        ({"input": [[1, 2], ["abcd"], []]}, 3),
        ({"input": [1, 2.5, "abcd"]}, 1),
        ({"input": "\ud83d"}, 1),
        ({"messages": [{"role": "user", "content": "x" * 400}]}, 101),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x" * 400}]}]}, 102),
    ],
)
def test_prompt_is_four_bytes_of_text_or_one_number_each(document: dict[str, Any], expected: int) -> None:
    assert prompt_estimate(document) == Prompt(expected)


@pytest.mark.parametrize(
    "document",
    [
        {"prompt": LONG},
        {"input": LONG},
        {"input": [LONG]},
        {"instructions": LONG},
        {"messages": [{"role": "user", "content": LONG}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": LONG}]}]},
        {"messages": [{"role": "user", "content": [{"type": "input_text", "file_data": LONG}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "url": LONG}]}]},
        {"messages": [{"role": "user", "data": LONG, "b64_json": ""}]},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": LONG}}]}]},
        {"input": [{"type": "reasoning", "encrypted_content": LONG}]},
        {"input": [{"type": "message", "content": [{"type": ["input_image"], "image_url": LONG}]}]},
        {"prompt": {"id": "p", "variables": {"a": LONG}}},
        {"tools": [{"type": "function", "function": {"description": LONG}}]},
        {"tools": [{"type": "function", "parameters": {"enum": [LOW]}}]},
        {"tools": [{"type": "function", "parameters": {"properties": {LONG: {}}}}]},
        {"tools": [{"type": "function", "parameters": {"anyOf": [{LONG: ""}]}}]},
        {"tools": [{"type": "function", "parameters": {"enum": [1, LONG]}}]},
        {"tools": [{"type": "function", "parameters": {"content": [LOW], "messages": [{"content": [LOW]}]}}]},
        {"response_format": {"json_schema": {"schema": {"const": LONG}}}},
        {"text": {"format": {"schema": LOW}}},
        {"metadata": {"data": LONG}},
        {"metadata": {"input": [LOW]}},
    ],
    ids=lambda document: orjson.dumps(document).decode().replace(LONG, "…"),
)
def test_no_text_hides_behind_what_it_begins_with_or_what_it_is_called(document: dict[str, Any]) -> None:
    total, attached = prompt_estimate(document)
    assert total - attached >= 1000


def encoded(size: int, beginning: bytes = b"") -> str:
    return base64.b64encode(beginning + b"x" * (size - len(beginning))).decode()


def in_chat(part: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": [part]}]}


def in_response(part: dict[str, Any]) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [part]}]}


IMAGE = "data:image/png;base64," + encoded(60_000)


@pytest.mark.parametrize(
    ("document", "worth"),
    [
        (in_chat({"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}), 85),
        (in_chat({"type": "image_url", "image_url": {"url": IMAGE, "detail": "high"}}), 1500),
        (in_chat({"type": "image_url", "image_url": {"url": IMAGE}}), 1500),
        (in_chat({"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}), 1500),
        (in_chat({"type": "image_url", "image_url": {"url": IMAGE, "detail": ["low"]}}), 1500),
        (in_response({"type": "input_image", "image_url": IMAGE, "detail": "original"}), 10_000),
        (in_response({"type": "input_image", "file_id": "file-1", "detail": "low"}), 85),
        ({"input": [{"type": "image_url", "image_url": {"url": IMAGE}}]}, 1500),
        (
            {
                "input": [
                    {
                        "type": "computer_call_output",
                        "output": {"type": "computer_screenshot", "image_url": IMAGE},
                    }
                ]
            },
            1500,
        ),
        (
            {
                "input": [
                    {
                        "type": "function_call_output",
                        "output": [{"type": "input_image", "image_url": IMAGE, "detail": "low"}],
                    }
                ]
            },
            85,
        ),
        ({"input": [{"type": "code_interpreter_call", "outputs": [{"type": "image", "url": IMAGE}]}]}, 1500),
        ({"input": [{"type": "image_generation_call", "result": encoded(60_000)}]}, 1500),
        ({"prompt": {"id": "p", "variables": {"a": {"type": "input_image", "image_url": IMAGE}}}}, 1500),
        ({"thread": {"messages": [{"content": [{"type": "image_file", "image_file": {}}]}]}}, 1500),
        (
            in_chat(
                {"type": "input_audio", "input_audio": {"data": encoded(160_000, b"RIFF"), "format": "wav"}}
            ),
            100,
        ),
        (in_chat({"type": "input_audio", "input_audio": {"data": encoded(20_000), "format": "wav"}}), 100),
        (in_chat({"type": "audio_url", "audio_url": {"url": "https://example.com/a"}}), 5000),
        (in_chat({"type": "file", "file": {"file_data": encoded(40_000), "filename": "a.pdf"}}), 10_000),
        (in_response({"type": "input_file", "file_data": encoded(4_000_000)}), 200_000),
        (in_response({"type": "input_file", "file_id": "file-1"}), 5000),
        (in_response({"type": "input_file", "file_url": "https://example.com/a.pdf"}), 5000),
    ],
    ids=lambda value: orjson.dumps(value).decode()[:80] if isinstance(value, dict) else str(value),
)
def test_what_is_attached_is_guessed_by_its_kind(document: dict[str, Any], worth: int) -> None:
    total, attached = prompt_estimate(document)
    assert abs(attached - worth) <= 1
    assert 0 <= total - attached < 30  # types and roles


def test_images_cost_some_models_more() -> None:
    image = {"type": "image_url", "image_url": {"url": IMAGE, "detail": "low"}}
    file = {"type": "file", "file": {"file_id": "file-1"}}
    body = in_chat(image) | {"model": "gpt-4o-mini-2024-07-18"}
    assert prompt_estimate(body).attached == 34 * 85
    assert prompt_estimate(in_chat(file) | {"model": "gpt-4o-mini"}).attached == 5000


def test_estimating_is_linear_in_the_body() -> None:
    def deep(size: int) -> Any:
        value: Any = "x" * size
        for _ in range(500):
            value = {"a": [value, {}]}
        return {"tools": [value] * 2}

    shapes = (
        lambda size: {"messages": [{"role": "user", "content": "x" * 10}] * size, "input": [[1] * 10] * size},
        lambda size: {"input": [{"content": [{"type": "input_image", "image_url": "x"}] * 3}] * size},
        lambda size: {"tools": [{"a": {"b": [1, "x", {}]}}] * size},
        deep,
    )
    for shape in shapes:

        def seconds(size: int, shape: Any = shape) -> float:
            document = shape(size)
            began = time.process_time()
            prompt_estimate(document)
            return time.process_time() - began

        small = min(seconds(10_000) for _ in range(3))
        assert min(seconds(80_000) for _ in range(3)) < 8 * 4 * small


@pytest.mark.parametrize(
    ("tools", "offered"),
    [
        ([], False),
        (None, False),
        ({"type": "image_generation"}, False),
        ([{"type": "function", "name": "image_generation"}], False),
        ([{"type": ["image_generation"]}, "image_generation", None], False),
        ([{"type": "web_search"}, {"type": "image_generation"}], True),
        ([{"type": "image_generation_2026_01_01"}], True),
        ([{"type": "namespace", "tools": [{"type": "image_generation"}]}], True),
    ],
)
def test_the_tool_that_makes_images_is_found_among_tools(tools: object, *, offered: bool) -> None:
    assert offers_images(tools) is offered
