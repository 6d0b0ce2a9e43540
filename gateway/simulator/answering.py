"""What the simulator answers where a caller offers tools or wants JSON: the same for every API that asks. Pure.

A function that is offered is called, with arguments that satisfy its schema, if the caller demands it
(`tool_choice`), if it is the only one, or if the question has a word of its name; upon the result of a call the
answer is text again, unless a call is demanded. So an agent's loop comes to its end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from gateway.simulator.errors import ApiError
from gateway.simulator.schemas import satisfying
from gateway.simulator.wording import pieces, simulated_answer

_JSON_PIECE: Final = re.compile(r"[^,:]+[,:]*|[,:]+")
_NAME_WORD: Final = re.compile(r"[A-Z]?[a-z]{4,}|[A-Z]{4,}")
_WORD: Final = re.compile(r"[a-z_]+")


@dataclass(frozen=True, slots=True)
class Tool:
    """A function of the caller's, or a tool that takes free text."""

    name: str
    parameters: Any = None
    takes_text: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether a tool is to be called, and which may be: the names, or all."""

    mode: str = "auto"
    """none, auto or required."""

    names: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked, as far as it decides upon the answer."""

    text: str
    tools: Sequence[Tool] = ()
    choice: Choice = Choice()
    answers_call: bool = False
    """Whether it is the result of a call."""

    parallel: bool = True
    schema: Any = None
    """What the answer has to satisfy, where it is to be JSON; an empty one is satisfied by any object."""

    most_pieces: int | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the answer asks for; the pieces are its arguments, as JSON, or its text."""

    tool: Tool
    pieces: list[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """Text, or calls in its place, in pieces."""

    said: list[str]
    calls: list[ToolCall]
    was_cut: bool

    @property
    def text(self) -> str:
        return "".join(self.said)

    @property
    def size(self) -> int:
        """What the answer counts as usage: one for each piece."""
        return len(self.said) + sum(len(call.pieces) for call in self.calls)


def answer_to(question: Question) -> Answer:
    """The answer, within what it may have of pieces. Raises ApiError if nothing can be answered."""
    called = _called(question)
    try:
        if called:
            calls = [ToolCall(tool, _arguments(tool, question.text)) for tool in called]
            return _within(question.most_pieces, Answer([], calls, was_cut=False))
        return _within(question.most_pieces, Answer(_said(question), [], was_cut=False))
    except ValueError as problem:
        message = f"The simulator knows no answer that satisfies this schema: {problem}"
        raise ApiError(400, message, code="invalid_json_schema") from problem


def _called(question: Question) -> list[Tool]:
    choice = question.choice
    offered = {tool.name: tool for tool in question.tools}
    if choice.names is not None:
        for name in choice.names:
            if name not in offered:
                message = f"Tool choice '{name}' not found in 'tools' parameter."
                raise ApiError(400, message, param="tool_choice")
        offered = {name: offered[name] for name in choice.names}
    if not offered or choice.mode == "none":
        return []
    spoken_of = [tool for tool in offered.values() if _is_spoken_of(tool, question.text)]
    if choice.mode == "required":
        found = spoken_of or list(offered.values())[:1]
    elif question.answers_call:
        return []
    else:
        found = spoken_of or (list(offered.values()) if len(offered) == 1 else [])
    return found if question.parallel else found[:1]


def _is_spoken_of(tool: Tool, text: str) -> bool:
    """Whether the text has the tool's name, or a word of it that is long enough to mean something."""
    words = {tool.name.lower(), *(word.lower() for word in _NAME_WORD.findall(tool.name))}
    said = set(_WORD.findall(text.lower()))
    return not {word.rstrip("s") for word in words}.isdisjoint(word.rstrip("s") for word in said)


def _arguments(tool: Tool, text: str) -> list[str]:
    if tool.takes_text:
        return pieces(simulated_answer(text))
    return _json_pieces(satisfying(tool.parameters or {"type": "object"}))


def _said(question: Question) -> list[str]:
    if question.schema is None:
        return pieces(simulated_answer(question.text))
    if not question.schema:
        return _json_pieces({"answer": simulated_answer(question.text)})
    return _json_pieces(satisfying(question.schema))


def _json_pieces(value: Any) -> list[str]:
    return _JSON_PIECE.findall(orjson.dumps(value).decode())


def _within(most: int | None, answer: Answer) -> Answer:
    if most is None or answer.size <= most:
        return answer
    left = max(0, most - len(answer.said))
    calls = []
    for call in answer.calls:
        calls.append(ToolCall(call.tool, call.pieces[:left]))
        left -= len(calls[-1].pieces)
    return Answer(answer.said[:most], [call for call in calls if call.pieces], was_cut=True)
