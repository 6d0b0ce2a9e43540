"""What comes closest to a path that is no operation, at a cost that is bounded."""

from __future__ import annotations

import pytest

from gateway.operations.nearest import Nearest
from tests.kit.asking import TABLE


def closest(method: str, path: str) -> str | None:
    found = TABLE.nearest(method, path)
    return None if found is None else f"{found.method} {found.path}"


@pytest.mark.parametrize(
    ("method", "path", "meant"),
    [
        ("POST", "/v1/Chat/Completion", "POST /v1/chat/completions"),
        ("POST", "/v1/v1/v1/responses", "POST /v1/responses"),
        ("GET", "/v1/chat/completion", "GET /v1/chat/completions"),
        ("POST", "/v1/openai/deployments/gpt-4o/chat/completions", "POST /v1/chat/completions"),
        ("POST", "/v1/complete", "POST /v1/completions"),
        ("POST", "/v1/audio/transcription", "POST /v1/audio/transcriptions"),
        ("DELETE", "/v1/file/file-abc123", "DELETE /v1/files/{file_id}"),
        ("POST", "/v1/vector-stores", "POST /v1/vector_stores"),
        ("POST", "/v1/message", "POST /v1/messages"),
        ("GET", "/v1/model", "GET /v1/models"),
    ],
)
def test_what_was_meant_is_found(method: str, path: str, meant: str) -> None:
    assert closest(method, path) == meant


@pytest.mark.parametrize(
    "path", ["/v1/nope", "/v1/x", "/v1/", "/v1/1234/5678", "/v1/" + "q" * 2000, "/v1/" + "a/" * 900]
)
def test_what_is_like_nothing_has_nothing_closest(path: str) -> None:
    assert closest("GET", path) is None


def test_administration_is_nobodys_guess() -> None:
    assert not (closest("GET", "/v1/organisation/users") or "").startswith("GET /v1/organization")


def test_only_the_beginning_of_a_long_path_is_looked_at() -> None:
    path = "/v1/chat/completions-" + "x" * 139
    assert closest("POST", path) == closest("POST", path + "/v1/embeddings" * 100)


def test_a_table_without_operations_knows_nothing_that_is_close() -> None:
    assert Nearest(()).to("GET", "/v1/models") is None
