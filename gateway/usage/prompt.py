"""How long a prompt is, before anybody has counted. Pure.

Four bytes of text are taken for an LLM token, over every text of the body (attachments count nothing), and each
number of an array of numbers, which is what embeddings and old completions take for LLM tokens.
"""

from __future__ import annotations

from typing import Any

from gateway.usage.reported import BYTES_PER_LLM_TOKEN

_ATTACHED = frozenset({"data", "file_data", "b64_json", "encrypted_content"})
"""Members whose text is no text."""


def prompt_estimate(document: object) -> int:
    """About how many LLM tokens the texts of a parsed body have; linear in its size."""
    text_bytes, numbers = 0, 0
    pending: list[Any] = [document]
    while pending:
        value = pending.pop()
        kind = type(value)
        if kind is str:
            if value[:5] != "data:":
                text_bytes += len(value) if value.isascii() else len(value.encode("utf-8", "replace"))
        elif kind is dict:
            pending += [member for name, member in value.items() if name not in _ATTACHED]
        elif kind is list:
            if value and type(value[0]) in (int, float):  # not one by one: there may be millions
                numbers += len(value)
            else:
                pending += value
    return -(-text_bytes // BYTES_PER_LLM_TOKEN) + numbers


def prompt_count(prompt: object) -> int:
    """How many prompts old completions are asked to complete: a list of texts, or of lists of numbers."""
    if isinstance(prompt, list) and prompt and type(prompt[0]) is not int:
        return len(prompt)
    return 1
