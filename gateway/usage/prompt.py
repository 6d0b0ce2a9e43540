"""How long a prompt is, before anybody has counted. Pure.

Four bytes of text are taken for an LLM token, over every text of the body (attachments count nothing), and each
number of an array of numbers, which is what embeddings and old completions take for LLM tokens.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from gateway.usage.reported import BYTES_PER_LLM_TOKEN

_ATTACHED = frozenset({"data", "file_data", "b64_json", "encrypted_content"})
"""Members whose text is no text."""


def prompt_estimate(document: object) -> int:
    """About how many LLM tokens the texts of a parsed body have; linear in its size."""
    text_bytes, numbers = 0, 0
    pending: list[Any] = [document]
    values: Collection[Any]
    while pending:
        value = pending.pop()
        if type(value) is dict:
            if not _ATTACHED.isdisjoint(value):
                value = {name: inner for name, inner in value.items() if name not in _ATTACHED}
            values = value.values()
        elif type(value) is not list:
            values = (value,)
        elif not value:
            continue
        elif type(value[0]) in (int, float):  # not one by one: there may be millions
            numbers += len(value)
            continue
        elif (text := _plain_texts(value)) is not None:
            text_bytes += len(text) if text.isascii() else _utf8_bytes(text)
            continue
        else:
            values = value
        for inner in values:
            kind = type(inner)
            if kind is str:
                if inner[:5] != "data:":
                    text_bytes += len(inner) if inner.isascii() else _utf8_bytes(inner)
            elif kind is dict or kind is list:
                pending.append(inner)
    return -(-text_bytes // BYTES_PER_LLM_TOKEN) + numbers


def _plain_texts(values: list[Any]) -> str | None:
    """All texts of a list that are texts, or objects that have nothing but texts; None where there is more to it.

    The messages of a conversation mostly are such, and are many: this does not look at their texts one by one.
    """
    try:
        if type(values[0]) is not dict:
            text = "".join(values)
        else:
            texts: list[str] = []
            for value in values:
                if not _ATTACHED.isdisjoint(value):
                    return None
                texts += value.values()
            text = "".join(texts)
    except (TypeError, AttributeError):
        return None
    return text if text.find("data:") < 0 else None


def _utf8_bytes(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def prompt_count(prompt: object) -> int:
    """How many prompts old completions are asked to complete: a list of texts, or of lists of numbers."""
    if isinstance(prompt, list) and prompt and type(prompt[0]) is not int:
        return len(prompt)
    return 1
