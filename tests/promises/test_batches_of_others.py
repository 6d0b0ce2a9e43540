"""A batch runs its lines as the account's own: what they name has to be the tenant's, as if it had sent each itself."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from gateway.objects.store import Made
from tests.kit.asking import error_of
from tests.kit.client import JSON, RawAnswer
from tests.kit.gateway import EVERY_SCOPE
from tests.kit.redis import RedisServer
from tests.kit.upstream import Turn
from tests.promises.sharing import Shared, sharing

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"


def line(body: object, *, url: str = RESPONSES, **more: object) -> bytes:
    return orjson.dumps({"custom_id": "1", "method": "POST", "url": url, "body": body, **more}) + b"\n"


PLAIN = line({"model": "gpt-4o", "input": "x"})


@pytest.fixture
async def shared(redis: RedisServer) -> AsyncIterator[Shared]:
    async with sharing(redis) as shared:
        await shared.store.record(
            shared.scope("a"),
            [Made("file", "file-in", time.time()), Made("file", "file-own", time.time())],
        )
        await shared.store.record(shared.scope("b"), [Made("file", "file-of-b", time.time())])
        yield shared


async def batch_over(shared: Shared, content: bytes, *, tenant: str = "a", **more: Any) -> RawAnswer:
    """What a tenant is told who wants a batch over this file."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        body = b'{"id":"batch_1"}'
        if turn.seen.target == "/v1/files/file-in/content":
            body = content
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    shared.upstream.plays(script)
    client = await shared.connect(tenant)
    asked = {"input_file_id": "file-in", "endpoint": RESPONSES, "completion_window": "24h", **more}
    return await client.request("POST", "/v1/batches", orjson.dumps(asked), headers=JSON)


def made(shared: Shared) -> bool:
    """Whether the upstream was told to make the batch."""
    return any(seen.method == "POST" for seen in shared.upstream.requests)


OWN = line({"model": "gpt-4o", "input": [{"type": "input_file", "file_id": "file-own"}]})
FOREIGN = line({"model": "gpt-4o", "input": [{"type": "input_file", "file_id": "file-of-b"}]})


@pytest.mark.parametrize(
    "content",
    [
        *(PLAIN, PLAIN * 3, PLAIN + b"\n" + PLAIN.rstrip(), OWN, b"\xef\xbb\xbf" + PLAIN, PLAIN * 30_000),
        PLAIN.replace(b"\n", b"\r\n") * 3,
    ],
    ids=["one", "several", "no line end", "own", "byte order mark", "many", "line ends of two characters"],
)
async def test_a_batch_is_made_whose_lines_name_what_is_the_tenants(shared: Shared, content: bytes) -> None:
    answer = await batch_over(shared, content)
    assert (answer.status, answer.body) == (200, b'{"id":"batch_1"}')
    assert await shared.owns("a", "batch", "batch_1")


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (PLAIN + FOREIGN, 404, "Line 2 of the input file, 'file_id': No such File object: file-of-b"),
        (PLAIN * 30_000 + FOREIGN + PLAIN, 404, "Line 30001 of the input file"),
        (line({"previous_response_id": "resp_of_b"}), 400, "'previous_response_id'"),
        (
            line({"prompt": {"id": "pmpt_1"}}),
            403,
            "names a stored object by 'prompt', which is closed to the tenant a: prompts belong to everybody",
        ),
        (line({"model": "gpt-4o"}, url=CHAT), 400, "Line 1 of the input file asks for another 'url'"),
        (PLAIN + b"{\n", 400, "Line 2 of the input file is no JSON object"),
        (
            b'{"url":"/v1/responses","body":{"a":1,"a":2}}',
            400,
            "Line 1 of the input file names a member twice",
        ),
        (line("x"), 400, "Line 1 of the input file has no 'body'"),
        (
            PLAIN + b'{"url":"/v1/responses","body":{"metadata":\r' + FOREIGN.rstrip() + b"\r}}\n",
            400,
            "Line 2 of the input file has a carriage return inside",
        ),
        (line({"model": "gpt-4o"}, method="GET"), 400, "Line 1 of the input file asks by another 'method'"),
        (line({"model": "gpt-4o"}, URL="/v1/files"), 400, "Line 1 of the input file has 'URL'"),
        (line({"model": "gpt-4o"}, Body={"file_id": "file-of-b"}), 400, "has 'Body'"),
    ],
    ids=[
        *("another's", "far behind", "response", "prompt", "other url", "broken", "twice", "no object"),
        *("line in a line", "other method", "other spelling of url", "other spelling of body"),
    ],
)
async def test_a_batch_is_refused_with_the_line_that_names_what_is_not_the_tenants(
    shared: Shared, content: bytes, status: int, says: str
) -> None:
    answer = await batch_over(shared, content)
    assert answer.status == status, answer.body
    assert says in error_of(answer)["message"]
    assert error_of(answer)["param"] == "input_file_id"
    assert not made(shared)


@pytest.mark.parametrize("missing", ["endpoint", "input_file_id"])
async def test_a_batch_that_does_not_say_what_it_runs_is_refused_by_what_it_lacks(
    shared: Shared, missing: str
) -> None:
    lacking: dict[str, Any] = {missing: None}
    answer = await batch_over(shared, PLAIN, **lacking)
    assert (answer.status, error_of(answer)["param"]) == (400, missing)
    assert shared.upstream.requests == []


async def test_a_line_that_is_too_long_to_be_read_is_refused(shared: Shared) -> None:
    answer = await batch_over(shared, PLAIN + line({"input": "x" * 17 * 2**20}))
    assert (answer.status, error_of(answer)["param"]) == (400, "input_file_id")
    assert "longer than 16 MiB" in error_of(answer)["message"]
    assert not made(shared)


async def test_what_lines_name_behind_a_thousand_others_is_looked_up_as_well(shared: Shared) -> None:
    own = [f"file-{number}" for number in range(1_200)]
    await shared.store.record(shared.scope("a"), [Made("file", one, time.time()) for one in own])
    naming_own = line({"file_ids": own})
    answer = await batch_over(shared, naming_own)
    assert answer.status == 200, answer.body
    answer = await batch_over(shared, naming_own + FOREIGN)
    assert answer.status == 404
    assert "Line 2 of the input file" in error_of(answer)["message"]


async def test_lines_that_name_more_than_is_looked_up_for_one_batch_are_refused(shared: Shared) -> None:
    lines = [line({"file_ids": [f"file-{at}-{n}" for n in range(2_000)]}) for at in range(26)]
    answer = await batch_over(shared, b"".join(lines))
    assert (answer.status, error_of(answer)["param"]) == (400, "input_file_id")
    assert "more than 50000 stored objects" in error_of(answer)["message"]
    assert not made(shared)


async def test_anothers_input_file_is_unknown_and_is_not_even_asked_for(shared: Shared) -> None:
    for file_id in ("file-of-b", "file-nobodys"):
        answer = await batch_over(shared, PLAIN, input_file_id=file_id)
        assert answer.status == 404
    assert shared.upstream.requests == []


@pytest.mark.parametrize(
    "endpoint",
    [
        "/v1/responses/resp_of_b/cancel",
        "/v1/files/file-of-b",
        "/v1/evals",
        "/v1/fine_tuning/jobs",
        "/v1/unheard_of",
        "/v1/responses?previous_response_id=resp_of_b",
        "/v1/responses?x=y",
    ],
)
async def test_no_batch_runs_what_works_on_what_its_path_names(shared: Shared, endpoint: str) -> None:
    answer = await batch_over(shared, line({"model": "gpt-4o"}, url=endpoint), endpoint=endpoint)
    assert answer.status == 403, answer.body
    assert shared.upstream.requests == []


async def test_a_limit_on_batches_asks_nothing_about_anothers_file(redis: RedisServer) -> None:
    limited = {**EVERY_SCOPE, "limits": {"batch_1_day_max_input_tokens": 1000}}
    async with sharing(redis, tenants={"a": limited, "b": EVERY_SCOPE}) as shared:
        answer = await batch_over(shared, PLAIN, input_file_id="file-of-b")
        assert answer.status == 404
        assert shared.upstream.requests == []
