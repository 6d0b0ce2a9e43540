"""What the lines of a batch name is read as if each had been sent by itself, or the line is refused by its number."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from gateway.policy.batch_lines import LinesRead, read_lines
from gateway.policy.reading import Question
from gateway.wire.body_facts import Reference

ENDPOINT = "/v1/responses"
OWNED = Question(None, stored=True, owned=True)


def line(body: object, **more: object) -> bytes:
    return orjson.dumps({"custom_id": "1", "method": "POST", "url": ENDPOINT, "body": body} | more) + b"\n"


def naming(file_id: str) -> bytes:
    return line({"tools": [{"container": {"file_ids": [file_id]}}]})


def read(lines: bytes, before: int = 0) -> LinesRead:
    return read_lines(lines, OWNED, ENDPOINT, before)


def test_what_lines_name_is_known_by_the_first_line_that_names_it() -> None:
    found = read(naming("file-1") + b"\n" + naming("file-2") + naming("file-1"), before=10)

    assert found == LinesRead(
        ((11, Reference("file", "file-1", "file_ids")), (13, Reference("file", "file-2", "file_ids"))),
        None,
        4,
    )


def test_a_last_line_without_an_end_is_read_and_not_counted() -> None:
    found = read(line({}) + naming("file-1").rstrip())

    assert found == LinesRead(((2, Reference("file", "file-1", "file_ids")),), None, 1)


def test_a_mark_of_the_encoding_may_begin_a_file_and_no_later_portion() -> None:
    marked = b"\xef\xbb\xbf" + naming("file-1")

    assert read(marked).named == ((1, Reference("file", "file-1", "file_ids")),)
    refused = read(marked, before=1).refused
    assert refused is not None
    assert refused.line == 2


def test_what_stands_before_a_line_that_is_refused_is_told_beside_it() -> None:
    found = read(naming("file-1") + b"nothing\n" + naming("file-2"))

    assert found.named == ((1, Reference("file", "file-1", "file_ids")),)
    assert found.refused is not None
    assert (found.refused.line, found.refused.closed) == (2, None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"[]\n", "is no JSON object"),
        (b'{"body": {}, \n', "is no JSON object"),
        (b'{"url": "/v1/responses", "body": {}, "body": {"file_id": "file-1"}}\n', "names a member twice"),
        (b'{"url": "/v1/responses",\r"body": {}}\n', "has a carriage return inside"),
        (line({}, Body={"file_id": "file-1"}), "has 'Body', which could be read as another member"),
        (line({}, **{" url": "/v1/x"}), "has ' url', which could be read as another member"),
        (line({}, method="GET"), "asks by another 'method' than POST"),
        (line({}, method=None), "asks by another 'method' than POST"),
        (
            line({}, url="/v1/responses/resp_1"),
            "asks for another 'url' than the batch's endpoint /v1/responses",
        ),
        (line({}, url=None), "asks for another 'url'"),
        (line([{"file_id": "file-1"}]), "has no 'body' that is an object"),
        (line("file-1"), "has no 'body' that is an object"),
        (line({"File_ID": "file-1"}), "has a body that cannot be read: 'File_ID' could be read as 'file_id'"),
        (line({"file_ids": ["file-1", {}]}), "has a body that cannot be read"),
        (line({"input": [{"id": ["msg_1"]}]}), "has a body that cannot be read"),
    ],
)
def test_a_line_that_is_no_plain_request_of_the_endpoint_is_refused(text: bytes, why: str) -> None:
    refused = read(naming("file-1") + text).refused

    assert refused is not None
    assert refused.why.startswith(why)
    assert (refused.line, refused.closed) == (2, None)


@pytest.mark.parametrize(
    ("body", "member"),
    [
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"something_of_tomorrow_id": "x"}, "something_of_tomorrow_id"),
    ],
)
def test_a_line_that_names_what_no_registry_knows_is_refused_as_that(
    body: dict[str, Any], member: str
) -> None:
    refused = read(line(body)).refused

    assert refused is not None
    assert refused.closed == member
    assert refused.why.startswith("names a stored object by")


def test_a_carriage_return_in_front_of_the_end_of_a_line_is_part_of_the_end() -> None:
    assert read(naming("file-1").replace(b"\n", b"\r\n")).refused is None
