"""The examples of docs/clients.md and docs/identity.md: code blocks that say which file they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DOCUMENT = Path(__file__).parents[2] / "docs" / "clients.md"
IDENTITY = DOCUMENT.with_name("identity.md")
_BLOCK = re.compile(r"^```(?P<language>\w+) (?P<file>[\w.-]+)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Example:
    """One code block: "```python langchain.py" begins one that can be run, "```python" one that cannot."""

    language: str
    file: str
    code: str


def examples(document: Path = DOCUMENT) -> Iterator[Example]:
    """Those that can be run, in the order of the document."""
    text = document.read_text("utf-8") if document.exists() else ""
    for found in _BLOCK.finditer(text):
        yield Example(found["language"], found["file"], found["code"])
