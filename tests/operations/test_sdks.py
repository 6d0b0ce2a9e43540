"""Everything that the official SDKs can ask for is an operation of the table."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from gateway.operations.table import OperationTable
from tests.operations_from_sdks import (
    Asked,
    installed_python_package,
    lacking,
    of_node_package,
    of_python_package,
)

TABLE = OperationTable.load()
ASKED = of_python_package(installed_python_package())


def test_the_table_lacks_nothing_that_the_python_sdk_asks_for() -> None:
    missing = [f"{one.method} /v1{one.path} ({one.where})" for one in lacking(ASKED, TABLE)]
    assert not missing, "rows for operations.toml: see python -m tests.operations_from_sdks"


def test_whatever_the_python_sdk_calls_is_read() -> None:
    """A call that is written in a way that nobody here knows would be missing, and missed by nobody."""
    root = installed_python_package()
    calls = re.compile(
        r"self\._(?:get|post|put|patch|delete|get_api_list)\(\s*(?:path_template\(\s*)?\"(/[^\"]*)\""
    )
    written = {
        path
        for module in root.joinpath("resources").rglob("*.py")
        for path in calls.findall(module.read_text())
    }
    read = {f"{one.path}?{one.query}" if one.query else one.path for one in ASKED}
    names = {re.sub(r"{\w*}", "{}", path) for path in written}
    assert names <= {re.sub(r"{\w*}", "{}", path) for path in read}
    assert len(read) > 200


@pytest.mark.parametrize(
    ("asked", "operation"),
    [
        (("GET", "/responses", "", True), "connectResponses"),
        (("GET", "/realtime", "", True), "connectRealtime"),
        (("GET", "/realtime/translations", "", True), "connectRealtimeTranslation"),
        (("GET", "/live/sessions/{session_id}/attach", "", True), "attachLiveSession"),
        (("POST", "/responses", "beta=true", False), "createResponse"),
        (("POST", "/agents/sessions", "", False), "createAgentSession"),
        (("POST", "/vector_stores/{vector_store_id}/search", "", False), "searchVectorStore"),
    ],
)
def test_what_the_sdk_asks_for_is_read_as_it_is_sent(
    asked: tuple[str, str, str, bool], operation: str
) -> None:
    [one] = [one for one in ASKED if one[:4] == asked]
    assert TABLE.match(one.method, one.target, socket=one.socket).operation.id == operation


def test_a_beta_header_is_told() -> None:
    assert {one.beta for one in ASKED if one.path.startswith(("/agents", "/vaults"))} == {"agents=v1"}


NEW_MODULE = """
class Moods:
    def list(self): return self._get_api_list("/moods", page=Page)
    def search(self): return self._get_api_list("/moods/search", page=Page, method="post")
    def get(self, mood_id):
        extra_headers = {"OpenAI-Beta": "moods=v1", **(extra_headers or {})}
        return self._get(path_template("/moods/{mood_id}?beta=true", mood_id=mood_id))
    async def make(self): return await self._post("/moods", body={})
    def _prepare_url(self): return path.rstrip(b"/") + b"/moods/live" + b"?"
    def speech(self): return self._post("/audio/speech")
"""


def test_what_the_table_lacks_is_found(tmp_path: Path) -> None:
    tmp_path.joinpath("resources").mkdir()
    ast.parse(NEW_MODULE)
    tmp_path.joinpath("resources", "moods.py").write_text(NEW_MODULE)

    found = lacking(of_python_package(tmp_path), TABLE)

    assert {(one.method, one.path, one.query, one.socket, one.beta) for one in found} == {
        ("GET", "/moods", "", False, ""),
        ("POST", "/moods/search", "", False, ""),
        ("GET", "/moods/{mood_id}", "beta=true", False, "moods=v1"),
        ("POST", "/moods", "", False, ""),
        ("GET", "/moods/live", "", True, ""),
    }


NODE_MODULE = """
    list(query) {
        return this._client.getAPIList('/moods', (CursorPage), { query, ...options });
    }
    search(body) {
        return this._client.getAPIList('/moods/search', (Page), { body, method: 'post', ...options });
    }
    get(moodID) {
        return this._client.get(path `/moods/${moodID}`, {
            headers: buildHeaders([{ 'OpenAI-Beta': 'moods=v1' }, options?.headers]),
        });
    }
    speech(body) { return this._client.post('/audio/speech', { body }); }
}
    const endpoint = path `/moods/${path0}/attach`;
"""


def test_the_npm_package_is_read_likewise(tmp_path: Path) -> None:
    tmp_path.joinpath("moods.mjs").write_text(NODE_MODULE)

    found = of_node_package(tmp_path)

    assert Asked("POST", "/audio/speech", where="moods") in found
    assert {(one.method, one.path, one.socket, one.beta) for one in lacking(found, TABLE)} == {
        ("GET", "/moods", False, ""),
        ("POST", "/moods/search", False, ""),
        ("GET", "/moods/{moodID}", False, "moods=v1"),
        ("GET", "/moods/{path0}/attach", True, ""),
    }
