"""The examples of docs/clients.md that CI has the packages of, run as they stand there against `gateway demo`.

The others are run by `python -m tests.clients.run`, where their runtimes are.
"""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.clients.clients import CLIENTS, RUNTIMES
from tests.clients.examples import DOCUMENT, Example, examples
from tests.kit.command import RunningCommand, exported, running_demo

EXAMPLES = list(examples())


def can_run(example: Example) -> bool:
    """Whether what it imports, or runs, comes with the tests."""
    if example.language == "sh":
        return True
    if example.language != "python":
        return False
    imports = [
        node for node in ast.walk(ast.parse(example.code)) if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    names = [
        name
        for node in imports
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
        )
    ]
    return all(find_spec(name.partition(".")[0]) for name in names)


RUN_HERE = [example for example in EXAMPLES if can_run(example)]


@pytest.fixture
async def demo() -> AsyncIterator[RunningCommand]:
    async with running_demo() as demo:
        yield demo


@pytest.mark.parametrize("example", RUN_HERE, ids=lambda example: example.file)
async def test_an_example_prints_an_answer_as_it_stands(
    demo: RunningCommand, example: Example, tmp_path: Path
) -> None:
    file = tmp_path / example.file
    file.write_text(example.code, "utf-8")
    words = [sys.executable] if example.language == "python" else ["bash", "-euo", "pipefail"]

    done = await asyncio.to_thread(
        subprocess.run,
        [*words, str(file)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
        | exported("\n".join(demo.stdout)),
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "Simulated answer" in done.stdout
    assert "request None" not in done.stdout


def test_the_official_python_sdk_and_curl_are_among_what_ci_runs() -> None:
    assert {"openai_chat.py", "openai_responses.py", "curl.sh"} <= {example.file for example in RUN_HERE}


def test_every_example_has_a_runtime_that_can_run_it_and_a_name_of_its_own() -> None:
    runnable = {runtime.language for runtime in RUNTIMES if runtime.example}
    assert {example.language for example in EXAMPLES} <= runnable
    assert len({example.file for example in EXAMPLES}) == len(EXAMPLES) >= 13


def test_every_client_of_the_script_is_of_a_folder_that_there_is() -> None:
    folder = DOCUMENT.parents[1] / "tests" / "clients"
    for client in CLIENTS:
        assert client.runtime in {runtime.folder for runtime in RUNTIMES}
        assert (folder / client.runtime).is_dir()


def test_every_client_at_a_glance_has_its_section() -> None:
    text = DOCUMENT.read_text("utf-8")
    glance = text.split("## At a glance")[1].split("\n## ")[0]
    named = re.findall(r"^\| \[[^\]]+\]\(#([\w-]+)\)", glance, re.MULTILINE)
    titles = [
        title.lower().replace(" ", "-").replace(".", "")
        for title in re.findall(r"^## (.+)$", text, re.MULTILINE)
    ]
    assert sorted(named) == sorted(titles[2:])
