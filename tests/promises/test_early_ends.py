"""Nothing is free: an answer that ends early is charged for what it said it used, or for what it must have used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from gateway.errors import ScopeMissing
from gateway.proxy.lifecycle import Lifecycle
from tests.conftest import StartGateway
from tests.kit.client import CHAT, JSON, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.upstream import SSE_HEAD, Script, ScriptedUpstream, Turn, in_two, says, silent
from tests.kit.usage_answers import counted, sse, typed
from tests.kit.waiting import comes_to, found, until

METERED = {"acme": {**EVERY_SCOPE, "limits": {"max_tokens_per_1_day": 1_000_000}}}
METERED_ONLY = {"acme": {**EVERY_SCOPE, "metering": True}}
LONG = 10.0
"""Seconds that nobody here waits."""


def word(text: str, **choice: Any) -> bytes:
    return sse(
        (None, {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None, **choice}]})
    )


def finish(index: int = 0) -> bytes:
    return sse((None, {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}))


USAGE = {"prompt_tokens": 1000, "completion_tokens": 9000, "total_tokens": 10_000}
REPORT = sse((None, {"choices": [], "usage": USAGE}), (None, "[DONE]"))
RESPONSE = typed(
    "response.completed",
    response={"usage": {"input_tokens": 1000, "output_tokens": 9000, "total_tokens": 10_000}},
)
RUN = sse(("thread.run.completed", {"object": "thread.run", "usage": USAGE}), ("done", "[DONE]"))
JSON_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"

ENDINGS: dict[str, tuple[str, bytes, bytes, bytes]] = {
    "chat": (CHAT, SSE_HEAD, word("Hi") + finish(), REPORT),
    "chat with blanks": (CHAT, SSE_HEAD, (word("Hi") + finish()).replace(b'":', b'" : '), REPORT),
    "completions": (
        "/v1/completions",
        SSE_HEAD,
        sse((None, {"choices": [{"text": "Hi", "finish_reason": "length"}]})),
        REPORT,
    ),
    "text": ("/v1/responses", SSE_HEAD, typed("response.output_text.done", text="Hi"), RESPONSE),
    "audio": ("/v1/responses", SSE_HEAD, typed("response.audio.done"), RESPONSE),
    "tool": ("/v1/responses", SSE_HEAD, typed("response.function_call_arguments.done"), RESPONSE),
    "run": (
        "/v1/threads/t/runs",
        SSE_HEAD,
        sse(("thread.message.completed", {"object": "thread.message"})),
        RUN,
    ),
    "no stream": (
        CHAT,
        JSON_HEAD,
        b'{"choices":[{"message":{"content":"Hi"}}]',
        b',"usage":%b}' % orjson.dumps(USAGE),
    ),
}


async def asks(gateway: Gateway, target: str, version: str = "HTTP/1.1", **members: Any) -> RawClient:
    """A client that has asked for a stream."""
    client = await gateway.connect()
    asked = {"model": "m", "stream": True, "messages": [], **members}
    await client.send(
        client.request_bytes("POST", target, orjson.dumps(asked), headers=JSON, version=version)
    )
    return client


async def reads(client: RawClient, what: bytes) -> None:
    """It has read that much of its answer."""
    got = b""
    while what not in got:
        piece = await asyncio.wait_for(client.reader.read(65536), LONG)
        assert piece, got
        got += piece


async def amid(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    script: Script,
    seen: bytes = b"",
    target: str = CHAT,
    version: str = "HTTP/1.1",
    *,
    asked: dict[str, Any] | None = None,
    **settings: Any,
) -> tuple[Gateway, RawClient]:
    """A gateway, and a client that has read so much of an answer; of none: the upstream has been asked for it."""
    upstream.plays(script)
    gateway = await start_gateway(**{"tenants": METERED, **settings})
    client = await asks(gateway, target, version, **(asked or {}))
    await (reads(client, seen) if seen else upstream.passed("asked"))
    return gateway, client


async def charged(gateway: Gateway) -> tuple[int, bool]:
    """LLM tokens that have been counted in the end, and whether they were estimated."""
    ((_, counts),) = (await found(lambda: counted(gateway))).items()
    return counts.get("input", 0) + counts.get("output", 0), bool(counts.get("estimated"))


async def made(gateway: Gateway) -> tuple[int, bool]:
    """As `charged`, without the prompt."""
    ((_, counts),) = (await found(lambda: counted(gateway))).items()
    return counts.get("output", 0), bool(counts.get("estimated"))


async def resets(client: RawClient) -> None:
    client.reset()


async def hangs_up(client: RawClient) -> None:
    await client.close()


async def half_closes(client: RawClient) -> None:
    client.writer.write_eof()


WAYS = [resets, hangs_up, half_closes]


@pytest.mark.parametrize("leaves", WAYS)
@pytest.mark.parametrize("kind", ENDINGS)
async def test_what_an_answer_used_is_heard_although_its_client_has_left(
    start_gateway: StartGateway, upstream: ScriptedUpstream, kind: str, leaves: Callable[[RawClient], Any]
) -> None:
    target, head, said, report = ENDINGS[kind]
    gateway, client = await amid(
        start_gateway,
        upstream,
        in_two(said, report, head),
        said[-12:],
        target,
        asked={"stream": kind != "no stream"},
    )
    await leaves(client)
    await until(lambda: not gateway.app.open_connections or gateway.app.services.lifecycle.in_flight)
    await asyncio.sleep(0.05)
    assert gateway.app.services.lifecycle.in_flight == 1, "its slot is held as long as the upstream works"
    upstream.gate("go on").set()
    assert await charged(gateway) == (10_000, False)
    line, *others = await gateway.lines.wait()
    assert not others
    assert line["ending"] == "client_left"
    assert line["usage"]["total"] == 10_000


async def test_a_connection_on_which_the_rest_was_heard_serves_the_next(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(word("Hi") + finish())
        await turn.wait_for("client has left")
        data = REPORT
        await turn.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))

    gateway, client = await amid(start_gateway, upstream, script, b"Hi")
    client.reset()
    await until(lambda: gateway.app.open_connections <= 1)
    upstream.gate("client has left").set()
    await charged(gateway)
    other = await gateway.connect()
    await other.request("POST", CHAT, b'{"model":"m","messages":[]}', headers=JSON)
    assert upstream.connections == 1


async def test_nobody_waits_longer_than_two_seconds_to_hear_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    script = says(word("Hi") + finish())
    gateway, client = await amid(start_gateway, upstream, script, b'"stop"', unseen_tokens_per_second=0)
    client.reset()
    began = asyncio.get_running_loop().time()
    assert await upstream.all_closed(4)
    assert 1.5 < asyncio.get_running_loop().time() - began < 3
    assert await made(gateway) == (1, True)


@pytest.mark.parametrize(
    ("target", "members", "said", "more"),
    [
        (CHAT, {"n": 2}, finish(0), word("and", index=1)),
        ("/v1/responses", {}, typed("response.output_text.done"), typed("response.output_item.added")),
    ],
    ids=["another answer", "another part"],
)
async def test_what_goes_on_being_generated_is_ended_at_once(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    target: str,
    members: dict[str, Any],
    said: bytes,
    more: bytes,
) -> None:
    _, client = await amid(start_gateway, upstream, says(said, more), more[-20:], target, asked=members)
    client.reset()
    assert await upstream.all_closed(1)


@pytest.mark.parametrize("leaves", WAYS)
@pytest.mark.parametrize("head", [True, False], ids=["with a head", "before the head"])
async def test_time_that_nobody_saw_the_work_of_is_charged(
    start_gateway: StartGateway, upstream: ScriptedUpstream, head: bool, leaves: Callable[[RawClient], Any]
) -> None:
    script, seen = (says(word("")), b'"content"') if head else (silent, b"")
    gateway, client = await amid(
        start_gateway,
        upstream,
        script,
        seen,
        asked={"max_tokens": 100_000},
        unseen_tokens_per_second=10_000,
    )
    await asyncio.sleep(0.3)
    await leaves(client)
    llm_tokens, estimated = await charged(gateway)
    assert estimated
    assert 2500 <= llm_tokens < 20_000


async def test_no_more_than_was_reserved_is_charged_for_time(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    for tenants in (METERED, METERED_ONLY):
        gateway, client = await amid(
            start_gateway,
            upstream,
            silent,
            asked={"max_tokens": 321},
            tenants=tenants,
            unseen_tokens_per_second=100_000,
        )
        await asyncio.sleep(0.1)
        client.reset()
        assert await made(gateway) == (321, True)
        upstream.gate("asked").clear()


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", b"", SSE_HEAD],
    ids=["an error", "nothing", "a head"],
)
async def test_an_upstream_that_fails_without_output_costs_none(
    start_gateway: StartGateway, upstream: ScriptedUpstream, said: bytes
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await asyncio.sleep(0.1)
        await turn.send(said)
        turn.close()

    upstream.plays(script)
    gateway = await start_gateway(tenants=METERED, unseen_tokens_per_second=10_000)
    client = await asks(gateway, CHAT, max_tokens=100_000)
    await client.closed() if said == SSE_HEAD else await client.read_answer()
    llm_tokens, _ = await made(gateway)
    assert llm_tokens == 0


LAST = b": that was all\n\n"
TEXT = "word " * 40
SOUND = "A" * 32_000
WRITTEN: dict[str, tuple[str, list[bytes], int]] = {
    "text": (CHAT, [word(TEXT)], 50),
    "refusal": (CHAT, [word("", delta={"refusal": TEXT})], 50),
    "tool": (
        CHAT,
        [word("", delta={"tool_calls": [{"index": 0, "function": {"arguments": TEXT}}]})],
        50,
    ),
    **{
        name: (CHAT, [word("", delta={"content": "", name: TEXT})], 50)
        for name in ("reasoning", "reasoning_content", "thinking", "reasoning_text", "thoughts_of_a_new_kind")
    },
    "parts": (CHAT, [word("", delta={"content": [{"type": "text", "text": TEXT}, TEXT]})], 100),
    "sound": (CHAT, [word("", delta={"audio": {"id": "a", "data": SOUND, "transcript": TEXT}})], 60),
    "sound of a response": ("/v1/responses", [typed("response.output_audio.delta", delta=SOUND)], 10),
    "transcript": ("/v1/responses", [typed("response.audio_transcript.delta", delta=TEXT)], 50),
    "summary": ("/v1/responses", [typed("response.reasoning_summary_text.delta", delta=TEXT)], 50),
    "custom tool": ("/v1/responses", [typed("response.custom_tool_call_input.delta", delta=TEXT)], 50),
    "thread": (
        CHAT,
        [sse((None, {"object": "thread.message.delta", "delta": {"content": [{"text": {"value": TEXT}}]}}))],
        50,
    ),
    "padding": ("/v1/responses", [typed("response.output_text.delta", delta="", obfuscation=TEXT)], 0),
    "padding of chat": (CHAT, [word("", obfuscation=TEXT)], 0),
    "blanks": (
        CHAT,
        [b'data:  { "choices" :\t[ { "delta" : { "content" : "%b" } } ] }\n\n' % TEXT.encode()],
        50,
    ),
    "escapes": (CHAT, [b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % (b"\\u0061" * 200)], 50),
    "escaped names": (
        CHAT,
        [b'data: {"choices":[{"delta":{"cont\\u0065nt":"%b"}}]}\n\n' % TEXT.encode()],
        50,
    ),
    "escaped delta": (
        CHAT,
        [b'data: {"choices":[{"d\\u0065lta":{"content":"%b"}}]}\n\n' % TEXT.encode()],
        50,
    ),
    "several lines": (
        CHAT,
        [b'data: {"choices":[{"delta":\ndata: {"content":"%b"}}]}\n\n' % TEXT.encode()],
        50,
    ),
    "another order": (
        CHAT,
        [b'data: {"choices":[{"delta":{"content":"%b","role":"a"},"index":0}]}\n\n' % TEXT.encode()],
        50,
    ),
    "words that end nothing": (CHAT, [word("response.done") for _ in range(40)], 130),
    "one each": (CHAT, [word("a") for _ in range(70)], 70),
    "all in one": (CHAT, [b"".join(word("a") for _ in range(70))], 70),
    "long ago": (CHAT, [*[word("", delta={"reasoning": "a"}, x=n) for n in range(2000)]], 2000),
    "long ago, of a new kind": (CHAT, [*[word("", delta={"musings": "a"}, x=n) for n in range(2000)]], 2000),
}


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.parametrize("metered_by", ["limit", "metering"])
async def test_whatever_went_by_is_charged(
    start_gateway: StartGateway, upstream: ScriptedUpstream, kind: str, metered_by: str
) -> None:
    target, pieces, llm_tokens = WRITTEN[kind]
    gateway, client = await amid(
        start_gateway,
        upstream,
        says(*pieces, LAST),
        LAST,
        target,
        tenants=METERED if metered_by == "limit" else METERED_ONLY,
        unseen_tokens_per_second=0,
    )
    client.reset()
    assert await made(gateway) == (llm_tokens, True)


async def test_a_client_that_does_not_read_is_charged_for_what_was_made_meanwhile(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    event = word("x" * 4000)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        while not turn.writer.is_closing():
            await turn.chunk(event)

    upstream.plays(script)
    gateway = await start_gateway(tenants=METERED, edge={"write_idle_timeout_seconds": 0.5})
    await asks(gateway, CHAT)
    llm_tokens, estimated = await charged(gateway)
    (line,) = await gateway.lines.wait()
    assert estimated
    assert llm_tokens >= line["bytes_out"] // len(event) * 1000


async def test_a_tenant_that_is_not_metered_has_nothing_estimated_but_what_cannot_be_read(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        body = await turn.read_body()
        coding = b"Content-Encoding: br\r\n" if b"unreadable" in body else b""
        await turn.send(SSE_HEAD.replace(b"\r\n\r\n", b"\r\n" + coding + b"\r\n"))
        await turn.chunk(b"\x1b" * 400)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    gateway = await start_gateway()
    for user, known in (("readable", "unreported"), ("unreadable", "estimated")):
        client = await asks(gateway, CHAT, user=user)
        await client.read_answer()
        counts = await counted(gateway)
        assert counts["tester", "m", "createChatCompletion"].get(known) == 1
    assert (await counted(gateway))["tester", "m", "createChatCompletion"]["output"] == 100


async def test_what_was_reported_of_the_beginning_is_not_all(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    usage = {"prompt_tokens": 8, "completion_tokens": 0, "total_tokens": 8}
    said = [sse((None, {"choices": [], "usage": usage})), *[word("a") for _ in range(60)]]
    asked = {"stream_options": {"include_usage": True}}
    gateway, client = await amid(start_gateway, upstream, says(*said, LAST), LAST, asked=asked)
    client.reset()
    assert await charged(gateway) == (68, True)


async def test_images_that_nobody_stayed_for_count_as_they_were_asked_for(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    target = "/v1/images/generations"
    asked = {"n": 3, "prompt": "A cat"}
    gateway, client = await amid(start_gateway, upstream, silent, target=target, asked=asked)
    client.reset()
    ((_, counts),) = (await found(lambda: counted(gateway))).items()
    assert (counts["images"], counts["estimated"]) == (3, 1)


async def test_a_run_goes_on_without_its_client_and_keeps_its_reservation(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    created = sse(("thread.run.created", {"object": "thread.run", "id": "run_1", "usage": None}))
    asked = {"max_completion_tokens": 4321}
    gateway, client = await amid(
        start_gateway, upstream, says(created), b"run_1", "/v1/threads/t/runs", asked=asked
    )
    client.reset()
    assert await made(gateway) == (4321, True)


async def test_a_document_that_has_not_begun_is_not_waited_for(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    script = says(b"  \n", head=JSON_HEAD)
    _, client = await amid(start_gateway, upstream, script, b"  \n", asked={"stream": False})
    client.reset()
    assert await upstream.all_closed(1)


async def test_what_is_read_on_is_bounded(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(finish())
        await turn.wait_for("client has left")
        while not turn.writer.is_closing():
            await turn.chunk(b": " + b"x" * 60_000 + b"\n\n")

    _, client = await amid(start_gateway, upstream, script, b"stop")
    client.reset()
    upstream.gate("client has left").set()
    assert await upstream.all_closed(1.9)


def drains(lifecycle: Lifecycle) -> None:
    lifecycle.cut()


def withdraws(lifecycle: Lifecycle) -> None:
    assert lifecycle.withdraw(next(iter(lifecycle.running)), ScopeMissing("It has been taken away."))


@pytest.mark.parametrize(
    ("ends", "ending"), [(drains, "drained"), (withdraws, "withdrawn")], ids=["drained", "withdrawn"]
)
@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
async def test_what_the_gateway_ends_is_heard_too_though_its_client_is_cut_at_once(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    ends: Callable[[Lifecycle], None],
    ending: str,
    version: str,
) -> None:
    script = in_two(word("Hi") + finish(), REPORT)
    gateway, client = await amid(start_gateway, upstream, script, b"stop", version=version)
    ends(gateway.app.services.lifecycle)
    assert await client.closed()
    upstream.gate("go on").set()
    assert await charged(gateway) == (10_000, False)
    await comes_to(0, _in_flight(gateway))
    (line,) = await gateway.lines.wait()
    assert line["ending"] == ending


def _in_flight(gateway: Gateway) -> Callable[[], Any]:
    async def look() -> int:
        return gateway.app.services.lifecycle.in_flight

    return look
