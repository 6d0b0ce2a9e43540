"""What was used is what the upstream reported, for every kind of answer; else it is estimated and says so."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import random
import zlib
from collections.abc import Callable
from dataclasses import replace

import brotli
import orjson
import pytest
import zstandard

from tests.conftest import StartGateway
from tests.kit.asking import running_simulator
from tests.kit.client import JSON, RawAnswer, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.upstream import ScriptedUpstream, Turn, says, silent
from tests.kit.usage_answers import CHAT_COUNTS, EVENTS, KINDS, RESPONSE_USAGE, Kind, counted, sse
from tests.kit.waiting import found

CHUNKED = b"Transfer-Encoding: chunked"

ENCODED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
    "gzip, br": lambda answer: brotli.compress(gzip.compress(answer)),
}


@pytest.fixture
async def metered(start_gateway: StartGateway) -> Gateway:
    """A gateway whose tenant has no limits and is metered."""
    return await start_gateway(tenants={"acme": {**EVERY_SCOPE, "metering": True}})


async def ask(gateway: Gateway, kind: Kind, subject: str, headers: str = "") -> RawAnswer:
    async with await RawClient.connect(
        gateway.host, gateway.port, gateway.credential(subject=subject)
    ) as client:
        return await client.request("POST", kind.target, kind.request, headers=kind.headers + headers)


def plays(upstream: ScriptedUpstream, kind: Kind, pieces: list[bytes], encoding: bytes = b"") -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        fields = [b"Content-Type: " + kind.content_type, CHUNKED]
        if encoding:
            fields.append(b"Content-Encoding: " + encoding)
        await turn.send(b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(fields) + b"\r\n\r\n")
        for piece in pieces:
            await turn.chunk(piece)
            await asyncio.sleep(0)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)


def cut(answer: bytes, pieces: int) -> list[bytes]:
    """An answer in at most so many pieces, cut where nobody would."""
    places = random.Random(pieces).sample(range(1, len(answer)), min(pieces, len(answer)) - 1)
    return [answer[a:b] for a, b in itertools.pairwise([0, *sorted(places), len(answer)])]


@pytest.mark.parametrize("encoding", ENCODED)
@pytest.mark.parametrize("pieces", [1, 7, 300])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
async def test_counters_equal_what_the_upstream_reported(
    metered: Gateway, upstream: ScriptedUpstream, kind: Kind, pieces: int, encoding: str
) -> None:
    answer = ENCODED[encoding](kind.answer)
    plays(upstream, kind, cut(answer, pieces), encoding.encode())
    got = await ask(metered, kind, "alice", f"Accept-Encoding: {encoding}\r\n" if encoding else "")
    assert got.status == 200
    assert got.clean_end
    if encoding and not kind.added:
        assert got.body == answer  # what is not changed passes as it came
    else:
        assert got.body == kind.answer.replace(kind.added, b"")
    counts = (await counted(metered))["alice", kind.model, kind.operation]
    assert counts.pop("requests") == 1
    assert counts.pop("bytes_out") == len(got.body)
    assert counts.pop("bytes_in") >= len(kind.request)
    assert counts.pop("reported", 0) + counts.get("estimated", 0) == 1
    assert counts == kind.counts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.added], ids=lambda kind: kind.name)
async def test_stream_is_asked_for_usage_that_the_client_does_not_see(
    metered: Gateway, upstream: ScriptedUpstream, kind: Kind
) -> None:
    plays(upstream, kind, [kind.answer])
    answer = await ask(metered, kind, "alice", "Accept-Encoding: gzip, br\r\n")
    (seen,) = upstream.requests
    assert orjson.loads(seen.body) == {
        **orjson.loads(kind.request),
        "stream_options": {"include_usage": True},
    }
    assert seen.all("accept-encoding") == ["identity"]
    assert answer.body == kind.answer.replace(kind.added, b"")
    assert kind.added not in answer.body


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.added], ids=lambda kind: kind.name)
async def test_every_other_request_and_answer_passes_untouched(
    metered: Gateway, upstream: ScriptedUpstream, kind: Kind
) -> None:
    plays(upstream, kind, [kind.answer])
    answer = await ask(metered, kind, "alice", "Accept-Encoding: gzip, deflate\r\n")
    (seen,) = upstream.requests
    assert seen.body == kind.request
    assert seen.all("accept-encoding") == ["gzip, deflate"]
    assert answer.body == kind.answer


async def test_tenant_without_limits_and_metering_has_no_stream_changed(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    kind = next(kind for kind in KINDS if kind.added)
    plays(upstream, kind, cut(kind.answer, 20))
    answer = await ask(gateway, kind, "alice", "Accept-Encoding: br\r\n")
    assert answer.body == kind.answer
    assert upstream.requests[0].body == kind.request
    assert upstream.requests[0].all("accept-encoding") == ["br"]


@pytest.mark.parametrize(
    "limits",
    [
        {"max_tokens_per_1_minute": 10**6},
        {"models": {"gpt-*": {"max_tokens_per_1_day": 10**6}}},
        {"subjects": {"*": {"max_tokens_per_1_day": 10**6}}},
    ],
    ids=["tenant", "model", "subject"],
)
async def test_limit_on_usage_meters_its_tenant(
    start_gateway: StartGateway, upstream: ScriptedUpstream, limits: dict[str, object]
) -> None:
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "limits": limits}})
    kind = next(kind for kind in KINDS if kind.added)
    plays(upstream, kind, [kind.answer])
    await ask(gateway, kind, "alice")
    assert b"include_usage" in upstream.requests[0].body


async def test_limit_of_a_credential_on_usage_meters_it(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    kind = next(kind for kind in KINDS if kind.added)
    plays(upstream, kind, [kind.answer])
    credential = gateway.credential(limits={"max_tokens_per_1_day": 10**6})
    async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
        await client.request("POST", kind.target, kind.request, headers=JSON)
    assert b"include_usage" in upstream.requests[0].body


async def test_encoding_that_nobody_here_reads_is_not_asked_for_where_usage_counts(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    kind = KINDS[0]
    plays(upstream, kind, [kind.answer])
    await ask(metered, kind, "alice", "Accept-Encoding: gzip, compress;q=0.9\r\n")
    assert upstream.requests[0].all("accept-encoding") == ["identity"]


async def test_encodings_that_are_read_here_are_asked_for_as_the_client_does(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    kind, asked = KINDS[0], "gzip, deflate, br, zstd;q=0.9"
    plays(upstream, kind, [kind.answer])
    await ask(metered, kind, "alice", f"Accept-Encoding: {asked}\r\n")
    assert upstream.requests[0].all("accept-encoding") == [asked]


async def test_answer_that_is_no_stream_after_all_passes_as_it_is(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    kind = next(kind for kind in KINDS if kind.added)
    refusal = b'{"error":{"message":"no stream_options here","type":"invalid_request_error"}}'

    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % len(refusal) + refusal)

    upstream.plays(script)
    answer = await ask(metered, kind, "alice")
    assert (answer.status, answer.body, answer.get("content-length")) == (400, refusal, str(len(refusal)))
    counts = (await counted(metered))["alice", "", kind.operation]
    assert counts == {"requests": 1, "bytes_in": len(upstream.requests[0].body), "bytes_out": len(refusal)}


async def test_filtered_stream_with_a_length_reaches_its_end(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    kind = next(kind for kind in KINDS if kind.added)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % len(kind.answer) + kind.answer)

    upstream.plays(script)
    answer = await ask(metered, kind, "alice")
    assert answer.clean_end
    assert answer.body == kind.answer.replace(kind.added, b"")


async def test_filtered_stream_without_a_last_blank_line_keeps_its_end(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    kind = next(kind for kind in KINDS if kind.added)
    plays(upstream, kind, [kind.answer.removesuffix(b"\n\n")])
    answer = await ask(metered, kind, "alice")
    assert answer.body == kind.answer.replace(kind.added, b"").removesuffix(b"\n\n")
    assert answer.clean_end


@pytest.mark.parametrize("status", [b"302 Found", b"400 Bad Request", b"500 Internal Server Error"])
async def test_no_stream_but_that_of_a_success_is_filtered(
    metered: Gateway, upstream: ScriptedUpstream, status: bytes
) -> None:
    kind = next(kind for kind in KINDS if kind.added)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = b"HTTP/1.1 %b\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % (status, len(kind.answer)) + kind.answer)

    upstream.plays(script)
    assert (await ask(metered, kind, "alice")).body == kind.answer


async def test_stream_that_comes_in_an_encoding_nobody_reads_is_not_held_back(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    kind = next(kind for kind in KINDS if kind.added)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        fields = b"Content-Type: text/event-stream\r\nContent-Encoding: compress\r\n" + CHUNKED
        await turn.send(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n")
        await turn.chunk(b"\x1b\x07")
        await turn.wait_for("first piece seen")
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await metered.connect()
    await client.send(client.request_bytes("POST", kind.target, kind.request, headers=JSON))
    answer = await client.read_head()
    assert await client.read_chunk() == b"\x1b\x07"
    upstream.gate("first piece seen").set()
    await client.read_body(answer)
    assert answer.clean_end


async def test_filtered_stream_that_breaks_off_is_cut(metered: Gateway, upstream: ScriptedUpstream) -> None:
    kind = next(kind for kind in KINDS if kind.added)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + CHUNKED + b"\r\n\r\n")
        await turn.chunk(kind.answer[:-40])
        turn.reset()

    upstream.plays(script)
    answer = await ask(metered, kind, "alice")
    assert not answer.clean_end


async def test_filtered_stream_is_relayed_event_by_event_as_it_comes(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    kind = next(kind for kind in KINDS if kind.added)
    first = sse((None, {"choices": [{"delta": {"content": "Hel"}}]}))

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + CHUNKED + b"\r\n\r\n")
        await turn.chunk(first[:10])
        await asyncio.sleep(0.05)  # else both chunks may come at once, and pass as they came
        await turn.chunk(first[10:])
        await turn.wait_for("first event seen")
        await turn.chunk(kind.answer)
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await metered.connect()
    await client.send(client.request_bytes("POST", kind.target, kind.request, headers=JSON))
    answer = await client.read_head()
    seen = b""
    while len(seen) < len(first):  # an event that comes in two chunks at once goes on in two
        seen += await client.read_chunk()
    assert seen == first
    upstream.gate("first event seen").set()
    await client.read_body(answer)
    assert answer.body == kind.answer.replace(kind.added, b"")


def word(text: bytes) -> bytes:
    """An event of which nothing but the text changes, and what else OpenAI changes."""
    return (
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%b"}}],"usage":null,"obfuscation":"%b"}\n\n'
        % (text, b"x" * (len(text) % 3))
    )


def chunk(data: bytes, size: bytes = b"%x") -> bytes:
    return size % len(data) + b"\r\n%b\r\n" % data


WORDS = [*(b"a", b" b", b"", b"c.", b"d.done", b"\\n", b'\\"', b"e\\\\", b"\xc3\xa9", b"f"), *[b"word"] * 5]
AMID = word(b"g")
ODD = {
    "two chunks at once": ([chunk(AMID) * 2], AMID * 2),
    "chunks of which one is another": (
        [chunk(AMID) * 2 + chunk(b": g\n\n") + chunk(AMID)],
        AMID * 2 + b": g\n\n" + AMID,
    ),
    "chunks and a part of one": ([chunk(AMID) * 2 + chunk(AMID)[:9], chunk(AMID)[9:]], AMID * 3),
    "two events in a chunk": ([chunk(AMID * 2)], AMID * 2),
    "a chunk in four pieces": ([chunk(AMID)[:1], chunk(AMID)[1:9], chunk(AMID)[9:-1], b"\n"], AMID),
    "an event in two chunks": ([chunk(AMID[:8]), chunk(AMID[8:])], AMID),
    "the end of a chunk with another": ([chunk(AMID)[:-2], b"\r\n" + chunk(AMID)], AMID * 2),
    "a size in capitals": ([chunk(AMID, b"%X")], AMID),
    "a size with zeros": ([chunk(AMID, b"00%x")], AMID),
    "an extension": ([chunk(AMID, b"%x;a=b")], AMID),
    "a comment": ([chunk(b": g\n\n")], b": g\n\n"),
    "half an event, which others follow": ([chunk(b"data: {")], b"data: {"),
    "a chunk within a chunk": ([b"%x\r\n" % len(chunk(AMID)), chunk(AMID), b"\r\n"], chunk(AMID)),
    "the end of an event that nobody began": ([chunk(b"}\n\n")], b"}\n\n"),
}


@pytest.mark.parametrize("asks", [False, True], ids=["not asked for usage", "asked for usage"])
async def test_events_that_are_alike_pass_and_count_whatever_comes_between_them(
    metered: Gateway, upstream: ScriptedUpstream, asks: bool
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + CHUNKED + b"\r\n\r\n")
        for pieces, _ in ODD.values():
            for piece in [*(chunk(word(text)) for text in WORDS), *pieces]:
                await turn.send(piece)
                await asyncio.sleep(0.005)  # each is to come by itself
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    options = b',"stream_options":{"include_usage":true}' if asks else b""
    client = await metered.connect()
    body = b'{"model":"m","stream":true,"messages":[]%b}' % options
    answer = await client.request("POST", "/v1/chat/completions", body, headers=JSON)

    sent = b"".join([b"".join(map(word, WORDS)) + odd for _, odd in ODD.values()])
    assert answer.body == sent
    assert answer.clean_end
    counts = (await counted(metered))["tester", "m", "createChatCompletion"]
    assert counts["bytes_out"] == len(sent)
    # Nothing is said by an empty text.
    assert counts["output"] == len(ODD) * (len(WORDS) - 1) + sent.count(b'"g"')


async def test_abandoned_stream_is_estimated_within_a_second(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    words = [sse((None, {"choices": [{"delta": {"content": word}}]})) for word in ("one", " two", " three")]
    prompt = "x" * 400
    upstream.plays(says(*words))
    body = orjson.dumps({"model": "m", "stream": True, "messages": [{"role": "u", "content": prompt}]})
    client = await metered.connect()
    await client.send(client.request_bytes("POST", "/v1/chat/completions", body, headers=JSON))
    await client.read_head()
    got = b""
    while got != b"".join(words):
        got += await client.read_chunk()
    client.reset()
    counts = (await found(lambda: counted(metered), within_seconds=1))["tester", "m", "createChatCompletion"]
    assert counts["output"] == 3
    assert 100 <= counts["input"] <= 102
    assert counts["estimated"] == 1
    labels = 'known="estimated",tenant="acme"'
    assert metered.metric(f"gateway_usage_exchanges_total{{{labels}}}") == 1


async def test_usage_that_came_before_the_break_is_no_estimate(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    kind = next(kind for kind in KINDS if kind.added)

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n" + CHUNKED + b"\r\n\r\n")
        await turn.chunk(kind.answer.removesuffix(sse((None, "[DONE]"))))
        turn.reset()

    upstream.plays(script)
    await ask(metered, kind, "alice")
    counts = (await counted(metered))["alice", kind.model, kind.operation]
    assert {name: counts[name] for name in CHAT_COUNTS} == CHAT_COUNTS
    assert "estimated" not in counts


async def test_client_that_leaves_before_the_head_is_charged_the_prompt(
    metered: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(silent)
    body = orjson.dumps({"model": "m", "input": "x" * 400})
    client = await metered.connect()
    await client.send(client.request_bytes("POST", "/v1/responses", body, headers=JSON))
    await upstream.passed("asked")
    client.reset()
    counts = (await found(lambda: counted(metered), within_seconds=1))["tester", "m", "createResponse"]
    assert counts["estimated"] == 1
    assert 100 <= counts["input"] <= 102


async def test_answer_that_cannot_be_read_costs_what_was_guessed(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        tenants={"acme": {**EVERY_SCOPE, "limits": {"max_tokens_per_1_day": 10_000}}}
    )
    kind = KINDS[0]
    plays(upstream, kind, [b"\x1f\x9d\x90"], b"compress")  # whatever was asked for
    body = orjson.dumps({"model": "m", "messages": [], "max_tokens": 321})
    client = await gateway.connect()
    await client.request("POST", kind.target, body, headers=JSON)
    counts = (await counted(gateway))["tester", "m", "createChatCompletion"]
    assert (counts["output"], counts["estimated"]) == (321, 1)


@pytest.mark.parametrize(
    ("target", "members"),
    [
        ("/v1/responses", {"background": True, "max_output_tokens": 321}),
        ("/v1/threads/runs", {"max_completion_tokens": 321}),
    ],
    ids=["background", "run"],
)
async def test_work_that_goes_on_after_its_answer_costs_what_was_guessed(
    start_gateway: StartGateway, upstream: ScriptedUpstream, target: str, members: dict[str, object]
) -> None:
    gateway = await start_gateway(
        tenants={"acme": {**EVERY_SCOPE, "limits": {"max_tokens_per_1_day": 10_000}}}
    )
    plays(upstream, KINDS[0], [b'{"id":"x","status":"queued","usage":null}'])
    client = await gateway.connect()
    await client.request("POST", target, orjson.dumps({"model": "m", **members}), headers=JSON)
    ((_, counts),) = (await counted(gateway)).items()
    assert (counts["output"], counts["estimated"]) == (321, 1)


@pytest.mark.parametrize(
    "target",
    ["/v1/responses/resp_1", "/v1/threads/t/runs/r", "/v1/threads/t/runs", "/v1/chat/completions/c"],
)
async def test_reading_what_was_counted_before_counts_nothing_again(
    metered: Gateway, upstream: ScriptedUpstream, target: str
) -> None:
    answer = orjson.dumps(
        {"object": "response", "usage": RESPONSE_USAGE, "data": [{"usage": RESPONSE_USAGE}]}
    )
    plays(upstream, KINDS[0], [answer])
    client = await metered.connect()
    assert (await client.request("GET", target)).body == answer
    ((_, counts),) = (await counted(metered)).items()
    assert counts == {"requests": 1, "bytes_out": len(answer)}


async def test_model_that_the_upstream_does_not_know_is_no_name_in_the_counters(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")

    upstream.plays(script)
    client = await gateway.connect()
    for number in range(3):
        body = orjson.dumps({"model": f"made-up-{number}", "messages": []})
        await client.request("POST", "/v1/chat/completions", body, headers=JSON)
    assert {entry: counts["requests"] for entry, counts in (await counted(gateway)).items()} == {
        ("tester", "", "createChatCompletion"): 3
    }


async def test_realtime_session_adds_up_its_responses() -> None:
    async with (
        running_simulator() as simulator,
        running_gateway(
            upstream={"base_url": simulator.base_url, "api_key": "sk-x"}, tenants={"acme": EVERY_SCOPE}
        ) as gateway,
    ):
        import websockets

        url = gateway.base_url.replace("http", "ws", 1) + "/realtime?model=gpt-realtime"
        header = {"Authorization": f"Bearer {gateway.credential(subject='alice')}"}
        reported = {"input": 0, "output": 0, "output_audio": 0}
        async with websockets.connect(url, additional_headers=header) as socket:
            for number in range(2):
                item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
                await socket.send(orjson.dumps({"type": "conversation.item.create", "item": item}).decode())
                await socket.send('{"type":"response.create"}')
                while (event := orjson.loads(await socket.recv()))["type"] != "response.done":
                    pass
                usage = event["response"]["usage"]
                reported["input"] += usage["input_tokens"]
                reported["output"] += usage["output_tokens"]
                reported["output_audio"] += usage["output_token_details"]["audio_tokens"]
                counts = (await counted(gateway))["alice", "gpt-realtime", "connectRealtime"]
                assert counts == reported, f"while the session goes on, after {number + 1} responses"
        await gateway.lines.wait(1)
        counts = (await counted(gateway))["alice", "gpt-realtime", "connectRealtime"]
        assert (counts.pop("requests"), counts.pop("reported")) == (1, 1)
        assert counts.pop("bytes_in") > 0
        assert counts.pop("bytes_out") > 0
        assert counts == reported


async def test_simulated_api_used_through_the_gateway_is_counted_as_it_reports() -> None:
    """The same question, streamed or not, filtered or not: one truth."""
    async with (
        running_simulator() as simulator,
        running_gateway(
            upstream={"base_url": simulator.base_url, "api_key": "sk-x"},
            tenants={"acme": {**EVERY_SCOPE, "metering": True}},
        ) as gateway,
    ):
        client = await gateway.connect()
        body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "How are you?"}], "n": 2}
        whole = await client.request("POST", "/v1/chat/completions", orjson.dumps(body), headers=JSON)
        usage = orjson.loads(whole.body)["usage"]
        stream = await client.request(
            "POST", "/v1/chat/completions", orjson.dumps({**body, "stream": True}), headers=JSON
        )
        assert b'"choices":[]' not in stream.body
        assert stream.body.endswith(b"data: [DONE]\n\n")
        counts = (await counted(gateway))["tester", "gpt-4o", "createChatCompletion"]
        assert counts["input"] == 2 * usage["prompt_tokens"]
        assert counts["output"] == 2 * usage["completion_tokens"]
        assert "estimated" not in counts
        assert orjson.loads(whole.body)["usage"]["completion_tokens"] > 0
        assert (stream.get("content-type") or "").encode().startswith(EVENTS.partition(b";")[0])


HELLO = {"choices": [{"message": {"content": "Hello, how are you to-day?"}}]}
SAID, PROMPT = 6, 3
"""What is estimated of that, and of the request."""

LEFT_OPEN = {
    "nothing": ({}, {"input": PROMPT, "output": SAID, "estimated": 1}),
    "null": (None, {"input": PROMPT, "output": SAID, "estimated": 1}),
    "nulls": (
        {"prompt_tokens": None, "total_tokens": None},
        {"input": PROMPT, "output": SAID, "estimated": 1},
    ),
    "words": (
        {"prompt_tokens": "many", "total_tokens": True},
        {"input": PROMPT, "output": SAID, "estimated": 1},
    ),
    "zeros": (
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"input": PROMPT, "output": SAID, "estimated": 1},
    ),
    "only the prompt": ({"prompt_tokens": 40}, {"input": 40, "output": SAID, "estimated": 1}),
    "a prompt and its sum": (
        {"prompt_tokens": 40, "total_tokens": 40},
        {"input": 40, "output": SAID, "estimated": 1},
    ),
    "only the answer": ({"completion_tokens": 40}, {"input": PROMPT, "output": 40, "estimated": 1}),
    "only the sum": ({"total_tokens": 50}, {"input": PROMPT, "output": 50 - PROMPT, "reported": 1}),
    "the sum and the prompt": (
        {"prompt_tokens": 20, "total_tokens": "50"},
        {"input": 20, "output": 30, "reported": 1},
    ),
}


@pytest.mark.parametrize("shape", ["document", "large document", "stream"])
@pytest.mark.parametrize(("usage", "counts"), LEFT_OPEN.values(), ids=LEFT_OPEN.keys())
async def test_what_a_report_leaves_open_is_estimated(
    metered: Gateway, upstream: ScriptedUpstream, usage: object, counts: dict[str, int], shape: str
) -> None:
    kind = KINDS[0]
    own = {"metadata": {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}}
    if shape == "stream":
        kind = replace(kind, content_type=EVENTS)
        answer = sse(
            (None, {**HELLO, **own}), (None, {"choices": [], **own, "usage": usage}), (None, "[DONE]")
        )
    else:
        padding = {"padding": [0] * (40_000 if shape == "large document" else 0)}
        answer = orjson.dumps({**own, **HELLO, **padding, "usage": usage})
    plays(upstream, kind, [answer])
    await ask(metered, kind, "alice")
    found = (await counted(metered))["alice", kind.model, kind.operation]
    assert {name: found[name] for name in found.keys() - {"requests", "bytes_in", "bytes_out"}} == counts
