"""What an upstream has made is recorded whatever its answers look like, as long as a client could find the id there.

Where nobody can, what was made is nobody's: the intent stays, for `gateway objects orphans`, and the log says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import orjson
import pytest

from tests.kit.client import JSON, RawAnswer
from tests.kit.redis import RedisServer
from tests.kit.upstream import SSE_HEAD, Script, Turn
from tests.kit.waiting import comes_to, stays
from tests.promises.sharing import Shared, sharing

MADE = b'{"id":"resp_1","object":"response","output":[{"type":"message","id":"msg_1"}]}'
BEGUN = b'event: response.created\ndata: {"type":"response.created","response":{"id":"resp_1","x":%b}}\n\n'
ENDED = (
    b"event: response.completed\n"
    b'data: {"type":"response.completed","response":{"id":"resp_1","output":[{"id":"msg_1"}],"x":%b}}\n\n'
)


@pytest.fixture
async def shared(redis: RedisServer) -> AsyncIterator[Shared]:
    async with sharing(redis) as shared:
        yield shared


def answers(body: bytes, status: bytes = b"200 OK") -> Script:
    """The script of an upstream that answers this as JSON."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % (status, len(body)) + body)

    return script


def streams(*events: bytes) -> Script:
    """The script of an upstream that answers a stream of these."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        for event in events:
            await turn.chunk(event)
        await turn.send(b"0\r\n\r\n")

    return script


async def asked(shared: Shared, script: Script, *, stream: bool = False) -> RawAnswer:
    """What a client of tenant a gets of an upstream that answers by a script."""
    shared.upstream.plays(script)
    client = await shared.connect()
    body = orjson.dumps({"model": "gpt-4o", "input": "x", "stream": stream})
    return await client.request("POST", "/v1/responses", body, headers=JSON)


async def owned(shared: Shared) -> list[str]:
    """Which of what was made is tenant a's."""
    return [
        name
        for name, kind in (("resp_1", "response"), ("msg_1", "item"))
        if await shared.owns("a", kind, name)
    ]


def kinds_intended(shared: Shared) -> Callable[[], Awaitable[list[str]]]:
    """What the intents are about that are left."""

    async def look() -> list[str]:
        return [intent.kind for intent in await shared.intents()]

    return look


ODD = {
    "a byte order mark": b"\xef\xbb\xbf" + MADE,
    "half a character": MADE[:-1] + rb',"text":"\ud83d"}',
    "no number": MADE[:-1] + b',"logprob":-Infinity,"x":NaN}',
    "another encoding": MADE[:-1] + b',"text":"\xe9"}',
    "a line break in a text": MADE[:-1] + b',"text":"a\nb"}',
    "a comma too many": MADE[:-1] + b",}",
    "blanks around": b"\r\n  " + MADE + b"\r\n\n",
    "large, and half a character": MADE[:-1] + rb',"text":"%b\ud83d"}' % (b"x" * 100_000),
}


@pytest.mark.parametrize("name", ODD)
async def test_an_answer_that_lenient_clients_can_read_is_recorded(shared: Shared, name: str) -> None:
    answer = await asked(shared, answers(ODD[name], b"201 Created"))
    assert (answer.status, answer.body) == (201, ODD[name])
    assert await owned(shared) == ["resp_1", "msg_1"]
    assert await shared.intents() == []


@pytest.mark.parametrize("value", [rb'"\ud83d"', b"NaN", b'"\xff"', b'"a\tb"'])
async def test_so_are_the_events_of_a_stream(shared: Shared, value: bytes) -> None:
    events = BEGUN % value, ENDED % value
    answer = await asked(shared, streams(*events), stream=True)
    assert answer.body == b"".join(events)
    assert await owned(shared) == ["resp_1", "msg_1"]
    assert await shared.intents() == []


UNNAMED = {
    "a number": MADE.replace(b'"resp_1"', b"17"),
    "in a list": b"[" + MADE + b"]",
    "inside of something": b'{"data":' + MADE + b"}",
    "nothing": b"",
    "null": b"null",
    "a page": b"<html>welcome</html>",
}


@pytest.mark.parametrize("name", UNNAMED)
async def test_what_was_made_without_a_name_leaves_its_intent_and_is_said(
    shared: Shared, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        answer = await asked(shared, answers(UNNAMED[name]))
        assert (answer.status, answer.body) == (200, UNNAMED[name])
    await stays(["response", "response"], kinds_intended(shared), for_seconds=0.1)
    assert not await shared.owns("a", "response", "17")
    assert caplog.text.count("by no id that could be read") == 1


async def test_a_stream_that_ends_without_naming_what_it_made_leaves_its_intent(shared: Shared) -> None:
    await asked(shared, streams(b'data: {"delta":"x"}\n\n', b"data: [DONE]\n\n"), stream=True)
    await stays(["response"], kinds_intended(shared), for_seconds=0.1)


REFUSING: dict[str, Script] = {
    "as a success": answers(b'{"error":{"message":"no","type":"x"}}'),
    "in an event": streams(b'data: {"error":{"message":"no"}}\n\n'),
    "in an event of the API": streams(b'event: error\ndata: {"type":"error","code":"x","message":"no"}\n\n'),
    "by its status": answers(b'{"error":{"message":"no","type":"x"}}', b"503 Service Unavailable"),
}


@pytest.mark.parametrize("name", REFUSING)
async def test_what_the_upstream_says_that_it_has_not_made_leaves_no_intent(
    shared: Shared, name: str
) -> None:
    await asked(shared, REFUSING[name], stream=name.startswith("in"))
    await comes_to(list[str](), kinds_intended(shared))


@pytest.mark.parametrize("status", [b"502 Bad Gateway", b"504 Gateway Timeout"])
async def test_what_stands_before_an_upstream_cannot_say_that_nothing_was_made(
    shared: Shared, status: bytes
) -> None:
    answer = await asked(shared, answers(b"<html>nobody answers</html>", status))
    assert answer.status == int(status[:3])
    await stays(["response"], kinds_intended(shared), for_seconds=0.1)
