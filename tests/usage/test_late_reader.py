"""Objects are found in an answer however large it is, and however it is cut."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.usage.late_reader import ObjectDocument, ObjectEvents

LARGE = "x" * 100_000


def response(status: str, **members: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": status, **members}


def event(kind: str, status: str, **members: Any) -> bytes:
    data = orjson.dumps({"type": kind, "response": response(status, **members)})
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), data)


def pieces(answer: bytes, size: int) -> list[bytes]:
    return [answer[at : at + size] for at in range(0, len(answer), size)]


@pytest.mark.parametrize("size", [999, 10**6])
@pytest.mark.parametrize("text", ["", LARGE], ids=["small", "large"])
def test_document_shows_itself_and_those_of_its_list(text: str, size: int) -> None:
    reader = ObjectDocument()
    for piece in pieces(orjson.dumps({"data": [response("queued", text=text), response("completed")]}), size):
        reader.feed(piece)
    assert [one.get("status") for one in reader.objects()] == [None, "queued", "completed"]


@pytest.mark.parametrize("size", [999, 10**6])
@pytest.mark.parametrize("first", ["", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("last", ["", LARGE], ids=["small", "large"])
def test_last_event_about_an_object_says_most(first: str, last: str, size: int) -> None:
    reader = ObjectEvents("response", None)
    stream = event("response.created", "queued", text=first) + event(
        "response.completed", "completed", text=last
    )
    for piece in pieces(stream + b'data: {"type":"response.other"}\n\n', size):
        reader.feed(piece)
    assert [one["status"] for one in reader.objects()] == ["completed"]


def test_what_is_no_json_shows_nothing() -> None:
    reader = ObjectDocument()
    reader.feed(b"<html>")
    assert reader.objects() == []
