"""How long a prompt is, before anybody has counted. Pure.

Four bytes are taken for an LLM token, over every text of the body wherever it stands and whatever it begins with, and
over the names in its objects, which are the caller's own in schemas; and each number of an array of numbers, which is
what embeddings and old completions take for LLM tokens. What is attached (`attached`) is no text, and is guessed.
What the upstream has stored and puts before the prompt is not seen here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from gateway.usage.attached import attachments
from gateway.usage.reported import BYTES_PER_LLM_TOKEN

_OWN_NAMES = frozenset(
    ("arguments", "call_id", "content", "data", "detail", "encrypted_content", "file", "file_data", "file_id")
) | {
    *("filename", "format", "function", "id", "image_url", "input_audio", "name", "output", "role", "status"),
    *("summary", "text", "tool_call_id", "tool_calls", "tool_outputs", "type", "url"),
}
"""Names of messages and of their parts: objects that have no others say nothing by them."""

_NUMBERS = (int, float)


class Prompt(NamedTuple):
    """About how many LLM tokens a body sends up."""

    total: int = 0
    attached: int = 0
    """The part of them that is a guess at what images, audio and files are worth."""


NO_PROMPT = Prompt()


def prompt_estimate(document: Mapping[str, Any]) -> Prompt:
    """What is sent up in a parsed body; linear in its size."""
    text_bytes, numbers = 0, 0
    # Messages that have nothing but texts have no attachments, and elsewhere only these have.
    may_attach = type(document.get("input")) is list or type(document.get("prompt")) is dict
    pending: list[Collection[Any]] = [document.values()]
    while pending:
        for value in pending.pop():
            kind = type(value)
            if kind is str:
                text_bytes += len(value) if value.isascii() else _utf8_bytes(value)
            elif kind is dict:
                if not _OWN_NAMES.issuperset(value):
                    text_bytes += _utf8_bytes("".join(value))
                pending.append(value.values())
            elif kind is not list or not value:
                continue
            elif type(value[0]) in _NUMBERS and _are_numbers(value):
                numbers += len(value)
            elif (text := _plain_texts(value)) is not None:
                text_bytes += len(text) if text.isascii() else _utf8_bytes(text)
            else:
                pending.append(value)
                may_attach = True
    no_text_bytes, attached = attachments(document) if may_attach else (0, 0)
    texts = -(-(text_bytes - no_text_bytes) // BYTES_PER_LLM_TOKEN)
    return Prompt(texts + numbers + attached, attached)


def _are_numbers(values: list[Any]) -> bool:
    """Whether there is nothing else among them, not asked one by one: there may be millions."""
    try:
        sum(values)
    except TypeError:
        return False
    return True


def _plain_texts(values: list[Any]) -> str | None:
    """All texts of a list that are texts, or objects that have nothing but texts; None where there is more to it.

    The messages of a conversation mostly are such, and are many: this does not look at their texts one by one.
    """
    try:
        if type(values[0]) is not dict:
            return "".join(values)
        texts: list[str] = []
        for value in values:
            if not _OWN_NAMES.issuperset(value):
                texts += value
            texts += value.values()
        return "".join(texts)
    except (TypeError, AttributeError):
        return None


def _utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def prompt_count(prompt: object) -> int:
    """How many prompts are answered: in a list of texts, of lists of numbers, or of conversations."""
    if isinstance(prompt, list) and prompt and type(prompt[0]) is not int:
        return len(prompt)
    return 1
