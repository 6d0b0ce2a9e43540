"""A limit on anything that answers report is a row of `gateway/limits/terms.py` and a key of the settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import gateway

ROW = '    WEB_SEARCHES_PER_DAY = "max_web_searches_per_1_day", 86_400, "web-searches", 1, "web_searches", True\n'
KEY = "    max_web_searches_per_1_day: Permits | None = None\n"

USED = """
import asyncio
import orjson
from tests.kit.asking import error_of
from tests.kit.gateway import running_gateway
from tests.kit.upstream import ScriptedUpstream
from tests.middleware.limited import answers, left, post, reporting, tenant

SEARCH = {"type": "web_search_call", "status": "completed", "action": {"type": "search"}}
BODY = orjson.dumps({"model": "gpt-5", "input": "Hi"})


async def main():
    async with ScriptedUpstream() as upstream:
        settings = {"upstream": {"base_url": upstream.base_url, "api_key": "sk"}}
        async with running_gateway(**settings, **tenant(max_web_searches_per_1_day=5)) as gateway:
            answers(upstream, reporting(7, object="response", output=[SEARCH] * 3))
            for expected in (4, 1):
                answer = await post(gateway, "/v1/responses", BODY)
                assert answer.status == 200, answer
                assert left(answer, "web-searches") == expected, "one at least is taken"
                await asyncio.sleep(0.05)
            refused = await post(gateway, "/v1/responses", BODY)
            assert (refused.status, error_of(refused)["type"]) == (429, "web-searches"), refused
            assert "max_web_searches_per_1_day = 5" in error_of(refused)["message"]
            files = await post(gateway, "/v1/files", b"{}")
            assert files.status == 200, "what uses none is not held back"


asyncio.run(main())
print("it refuses")
"""


def test_new_limit_costs_a_row_and_its_key(tmp_path: Path) -> None:
    """Proved in a copy of the package that has both."""
    source = Path(gateway.__file__).parent
    shutil.copytree(source, tmp_path / "gateway", ignore=shutil.ignore_patterns("__pycache__"))
    _insert(tmp_path / "gateway/limits/terms.py", ROW, before="    CONCURRENT_REQUESTS = ")
    _insert(tmp_path / "gateway/settings/limits.py", KEY, before="    max_concurrent_requests: ")
    path = os.pathsep.join((str(tmp_path), str(source.parent)))
    ran = subprocess.run(
        [sys.executable, "-c", USED],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.stdout == "it refuses\n", ran.stderr


def _insert(file: Path, line: str, *, before: str) -> None:
    text = file.read_text("utf-8")
    assert text.count(before) == 1
    file.write_text(text.replace(before, line + before), "utf-8")
