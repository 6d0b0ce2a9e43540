"""Nothing is free: whatever is tried to get 10,000 LLM tokens, or what is worth as much, costs 5,000 at the least.

Each way is an adversary who knows how this is built; the upstream counts what it has written. What the limits hold
afterwards, and what the ledger says, is at least half of that.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pytest

from gateway.errors import ScopeMissing
from gateway.limits.terms import Dimension
from tests.conftest import StartGateway
from tests.kit.asking import ask, form
from tests.kit.client import CHAT, FORM, JSON, RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.realtime import talk
from tests.kit.redis import RedisServer
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn
from tests.kit.usage_answers import counted, sse, typed
from tests.kit.waiting import comes_to, until
from tests.middleware.limited import remaining

WORTH = 10_000
"""LLM tokens that each of them is after."""

LIMIT = 1_000_000
IMAGES, MEGABYTES = 90, 90
LIMITS = {
    "max_tokens_per_1_day": LIMIT,
    "max_images_per_1_minute": IMAGES,
    "max_audio_megabytes_per_1_minute": MEGABYTES,
}
TENANTS = {"acme": {**EVERY_SCOPE, "limits": LIMITS}}

SEEN = b": that was all\n\n"
"""By which a client knows that it has got everything."""

OWN_USAGE = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
REPORTED = {"prompt_tokens": 10, "completion_tokens": WORTH, "total_tokens": WORTH + 10}
REPORT = sse((None, {"choices": [], "usage": REPORTED}), (None, "[DONE]"))
SAID = {"input_tokens": 10, "output_tokens": WORTH, "total_tokens": WORTH + 10}
RESPONSES = "/v1/responses"

_CHUNK_SIZE = re.compile(rb"\r\n[0-9a-f]+\r\n")

Event = Callable[[int], bytes]


def word(at: int = 0, **choice: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": " a"}, "finish_reason": None, **choice}
    return sse((None, {"choices": [choice]}))


def finish(index: int = 0) -> bytes:
    return sse((None, {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}))


def delta(_: int) -> bytes:
    return typed("response.output_text.delta", item_id="i", delta=" a")


def words(event: Event = word, count: int = WORTH) -> list[bytes]:
    """So many words, a hundred at a time."""
    return [b"".join(map(event, range(at, at + 100))) for at in range(0, count, 100)]


@dataclass
class Scene:
    """A gateway, another that shares its Redis, and their upstream, which plays what an attack sets."""

    gateway: Gateway
    other: Gateway
    upstream: ScriptedUpstream
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """The client has got what it wanted, and is gone."""

    def writes(
        self, *said: Sequence[bytes] | bytes, later: bytes | None = None, head: bytes = SSE_HEAD
    ) -> None:
        """Answers go like this; `later` is said once the client has left, None: the upstream waits for ever."""
        pieces = [piece for part in said for piece in ([part] if isinstance(part, bytes) else part)]

        async def script(turn: Turn) -> None:
            await turn.read_body()
            await turn.send(head)
            for piece in [*pieces, SEEN]:
                await turn.chunk(piece)
            if later is None:
                await turn.gone()
                return
            await self.left.wait()
            await turn.chunk(later)
            await turn.send(b"0\r\n\r\n")

        self.upstream.plays(script)

    async def asks(
        self,
        target: str = CHAT,
        *,
        gateway: Gateway | None = None,
        headers: str = "",
        version: str = "HTTP/1.1",
        times: int = 1,
        **members: Any,
    ) -> RawClient:
        """A client that has asked for a stream; `times`: so often, without waiting for an answer."""
        client = await (gateway or self.gateway).connect()
        asked = orjson.dumps({"model": "m", "stream": True, "messages": [], **members})
        request = client.request_bytes("POST", target, asked, headers=JSON + headers, version=version)
        await client.send(request * times)
        return client

    async def takes(
        self, target: str = CHAT, *, leaves: Callable[[RawClient], None] | None = None, **how: Any
    ) -> None:
        """Ask, read everything that is said, and leave."""
        client = await self.asks(target, **how)
        await reads(client, SEEN)
        (leaves or RawClient.reset)(client)
        self.left.set()


async def reads(client: RawClient, what: bytes, *, pause_seconds: float = 0.0) -> None:
    """Read until that has come."""
    last = b""
    while what not in _CHUNK_SIZE.sub(b"", last):  # it may come in two chunks
        piece = await asyncio.wait_for(client.reader.read(65536), 10)
        assert piece, last
        last = last[-64:] + piece
        await asyncio.sleep(pause_seconds)


Attack = Callable[[Scene], Awaitable[None]]
ATTACKS: dict[str, Attack] = {}


def attack(name: str) -> Callable[[Attack], Attack]:
    def named(way: Attack) -> Attack:
        ATTACKS[name] = way
        return way

    return named


# Leaving


@attack("hanging up behind the last word")
async def _(scene: Scene) -> None:
    scene.writes(words())
    await scene.takes()


@attack("closing one's side behind the last word")
async def _(scene: Scene) -> None:
    scene.writes(words())
    await scene.takes(leaves=lambda client: client.writer.write_eof())


@attack("hanging up when the generation is over")
async def _(scene: Scene) -> None:
    scene.writes(words(count=100), finish(), later=REPORT)
    await scene.takes()


@attack("hanging up when it is over, at a server that never says more")
async def _(scene: Scene) -> None:
    scene.writes(words(), finish())
    await scene.takes()


@attack("hanging up behind the report")
async def _(scene: Scene) -> None:
    scene.writes(words(count=100), finish(), REPORT)
    await scene.takes(stream_options={"include_usage": True})


@attack("reading slowly, and then no more")
async def _(scene: Scene) -> None:
    scene.writes(words())
    client = await scene.asks()
    await reads(client, SEEN, pause_seconds=0.02)
    client.reset()


@attack("asking in HTTP/1.0")
async def _(scene: Scene) -> None:
    scene.writes(words())
    await scene.takes(version="HTTP/1.0")


@attack("asking twice at once")
async def _(scene: Scene) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        for piece in [*words(count=WORTH // 2), SEEN]:
            await turn.chunk(piece)
        await turn.send(b"0\r\n\r\n")

    scene.upstream.plays(script)
    client = await scene.asks(times=2)
    for _ in range(2):
        await reads(client, SEEN)
    client.reset()


@attack("leaving one of ten answers unfinished")
async def _(scene: Scene) -> None:
    scene.writes(words(lambda at: word(index=at % 10)), b"".join(map(finish, range(9))))
    await scene.takes(n=10)


@attack("reading from two gateways in turn")
async def _(scene: Scene) -> None:
    scene.writes(words(count=2500))
    for gateway in (scene.gateway, scene.other) * 2:
        await scene.takes(gateway=gateway)


@attack("storing nothing")
async def _(scene: Scene) -> None:
    scene.writes(words(delta))
    await scene.takes(RESPONSES, input="Hi", store=False)


# Not being counted


@attack("asking not to be told what is used")
async def _(scene: Scene) -> None:
    scene.writes(words(count=100), finish(), later=REPORT)
    await scene.takes(stream_options={"include_usage": False})


@attack("asking for reports all along")
async def _(scene: Scene) -> None:
    early = sse((None, {"choices": [], **OWN_USAGE}))
    scene.writes(early, words(), early)
    await scene.takes(stream_options={"include_usage": True, "continuous_usage_stats": True})


@attack("sending usage of one's own, which is said again")
async def _(scene: Scene) -> None:
    echo = {"metadata": OWN_USAGE, "tools": [{"type": "function", "parameters": OWN_USAGE}], "usage": None}
    item = {"type": "function_call", "arguments": orjson.dumps(OWN_USAGE).decode(), **OWN_USAGE}
    scene.writes(
        typed("response.created", response=echo),
        words(delta),
        typed("response.output_item.done", item=item),
        typed("response.in_progress", response=echo),
    )
    await scene.takes(RESPONSES, input="Hi", metadata=OWN_USAGE)


@attack("having usage written down by the model")
async def _(scene: Scene) -> None:
    text = orjson.dumps(OWN_USAGE).decode() + '"usage":{"total_tokens":1},"finish_reason":"stop" data: [DONE]'
    size = len(text) // 4
    scene.writes(words(lambda _: word(delta={"content": text}), count=-(-WORTH // size) // 100 * 100 + 100))
    await scene.takes()


@attack("spelling every letter out")
async def _(scene: Scene) -> None:
    scene.writes(words(lambda _: word().replace(b'" a"', b'"\\u0020\\u0061"')))
    await scene.takes()


@attack("a server that has names of its own")
async def _(scene: Scene) -> None:
    scene.writes(words(lambda _: word(delta={"musing": " a"})))
    await scene.takes()


@attack("a server that spells its names out")
async def _(scene: Scene) -> None:
    scene.writes(words(lambda _: word().replace(b'"content"', b'"c\\u006fntent"')))
    await scene.takes()


@attack("having everything thought")
async def _(scene: Scene) -> None:
    scene.writes(words(lambda _: word(delta={"content": "", "reasoning": " a"})))
    await scene.takes()


@attack("having everything handed to a tool")
async def _(scene: Scene) -> None:
    scene.writes(words(lambda _: word(delta={"tool_calls": [{"index": 0, "function": {"arguments": " a"}}]})))
    await scene.takes()


@attack("an encoding that nobody reads")
async def _(scene: Scene) -> None:
    """The server takes it if it is told that the client does; what it packs to is as long here."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        packs = b"compress" in (turn.seen.get("accept-encoding") or "").encode()
        head = SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: compress\r\n\r\n") if packs else SSE_HEAD
        await turn.send(head)
        for piece in [*words(), SEEN]:
            await turn.chunk(piece)
        await turn.gone()

    scene.upstream.plays(script)
    await scene.takes(headers="Accept-Encoding: compress\r\n")


@attack("a server that packs although nobody asked")
async def _(scene: Scene) -> None:
    scene.writes(words(), head=SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: compress\r\n\r\n"))
    await scene.takes()


@attack("asking for a range of the answer")
async def _(scene: Scene) -> None:
    document = b'{"choices":[{"message":{"content":"' + b" a b" * WORTH

    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = b"HTTP/1.1 206 Partial Content\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % len(document) + document)

    scene.upstream.plays(script)
    client = await scene.asks(stream=False, headers=f"Range: bytes=0-{len(document) - 1}\r\n")
    assert (await client.read_answer()).body == document


@attack("stating a maximum of one, and having it thought about for long")
async def _(scene: Scene) -> None:
    scene.writes(finish(), later=REPORT)
    await scene.takes(max_completion_tokens=1)


@attack("stating a maximum of one to a server that does not care")
async def _(scene: Scene) -> None:
    scene.writes(words())
    await scene.takes(max_tokens=1)


@attack("a prompt that looks like a picture")
async def _(scene: Scene) -> None:
    scene.writes(word())
    text = "data:image/png;base64," + "abcd" * WORTH
    await scene.takes(messages=[{"role": "user", "content": text}])


@attack("a prompt under names of one's own")
async def _(scene: Scene) -> None:
    scene.writes(word())
    text = "abcd" * WORTH
    await scene.takes(tools=[{"type": "function", "function": {"parameters": {text: {"type": "string"}}}}])


@attack("short answers until little is expected, and then many long ones")
async def _(scene: Scene) -> None:
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}

    async def short(turn: Turn) -> None:
        await turn.read_body()
        body = orjson.dumps({"choices": [], "usage": usage})
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % len(body) + body)

    scene.upstream.plays(short)
    client = await scene.gateway.connect()
    for _ in range(40):
        await client.request("POST", CHAT, b'{"model":"m","messages":[]}', headers=JSON)
    scene.writes(words(count=1000))
    await asyncio.gather(*[scene.takes() for _ in range(10)])


# What the gateway does


@attack("being at it when the gateway stops")
async def _(scene: Scene) -> None:
    scene.writes(words())
    await reads(await scene.asks(), SEEN)
    scene.gateway.app.services.lifecycle.cut()


@attack("being at it when the process ends")
async def _(scene: Scene) -> None:
    scene.writes(words())
    await reads(await scene.asks(gateway=scene.other), SEEN)
    stopping = asyncio.create_task(scene.other.runner.cleanup())
    scene.other.app.services.lifecycle.cut()
    await stopping


@attack("having one's rights taken away at the end")
async def _(scene: Scene) -> None:
    scene.writes(words())
    await reads(await scene.asks(), SEEN)
    lifecycle = scene.gateway.app.services.lifecycle
    assert lifecycle.withdraw(next(iter(lifecycle.running)), ScopeMissing("It has been taken away."))


# Work that is asked for later


def response(status: str, usage: object = None) -> dict[str, Any]:
    output = [{"type": "message", "content": [{"type": "output_text", "text": " a" * WORTH}]}]
    made: dict[str, Any] = {"id": "resp_1", "object": "response", "status": status, "model": "m"}
    return {**made, "background": True, "output": output if usage else [], "usage": usage}


def stores(scene: Scene, **says: dict[str, Any]) -> None:
    """The upstream answers each method with a document."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        body = orjson.dumps(says[turn.seen.method])
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        await turn.send(head % len(body) + (b"" if turn.seen.method == "HEAD" else body))

    scene.upstream.plays(script)


IN_BACKGROUND = {"model": "m", "input": "Hi", "background": True}


@attack("having another subject ask for it")
async def _(scene: Scene) -> None:
    stores(scene, POST=response("queued"), HEAD=response("completed", SAID), GET=response("completed", SAID))
    await ask(scene.gateway, "POST", RESPONSES, IN_BACKGROUND, subject="alice")
    await ask(scene.gateway, "HEAD", f"{RESPONSES}/resp_1", subject="bob")
    await ask(
        scene.other, "GET", f"{RESPONSES}/resp_1", subject="bob", headers="Accept-Encoding: compress\r\n"
    )


@attack("cancelling it at the end")
async def _(scene: Scene) -> None:
    stores(scene, POST=response("queued"))
    await ask(scene.gateway, "POST", RESPONSES, IN_BACKGROUND)
    stores(scene, POST=response("cancelled", SAID))
    await ask(scene.gateway, "POST", f"{RESPONSES}/resp_1/cancel", {}, subject="bob")


@attack("deleting it before anybody has asked")
async def _(scene: Scene) -> None:
    stores(scene, POST=response("queued"), DELETE={"id": "resp_1", "object": "response", "deleted": True})
    await ask(scene.gateway, "POST", RESPONSES, {**IN_BACKGROUND, "max_output_tokens": WORTH})
    await ask(scene.gateway, "DELETE", f"{RESPONSES}/resp_1")


@attack("reading it while it is made in the background, and deleting it")
async def _(scene: Scene) -> None:
    scene.writes(typed("response.created", response=response("in_progress")), words(delta))
    await scene.takes(RESPONSES, input="Hi", background=True)
    stores(scene, DELETE={"id": "resp_1", "object": "response", "deleted": True})
    await ask(scene.gateway, "DELETE", f"{RESPONSES}/resp_1")


@attack("reading it when it is fetched as a stream, all but its end, and deleting it")
async def _(scene: Scene) -> None:
    stores(scene, POST=response("queued"))
    await ask(scene.gateway, "POST", RESPONSES, IN_BACKGROUND)
    scene.writes(typed("response.created", response=response("in_progress")), words(delta))
    client = await scene.gateway.connect()
    await client.send(client.request_bytes("GET", f"{RESPONSES}/resp_1?stream=true"))
    await reads(client, SEEN)
    client.reset()
    stores(scene, DELETE={"id": "resp_1", "object": "response", "deleted": True})
    await ask(scene.gateway, "DELETE", f"{RESPONSES}/resp_1")


# Pictures, sound and sessions


@attack("a transcript, but for its end")
async def _(scene: Scene) -> None:
    scene.writes(words(lambda _: typed("transcript.text.delta", delta=" a")))
    client = await scene.gateway.connect()
    body = form(("model", b"m"), ("stream", b"true"), ("file", b"RIFF" * 50))
    await client.send(client.request_bytes("POST", "/v1/audio/transcriptions", body, headers=FORM))
    await reads(client, SEEN)
    client.reset()


@attack("hanging up amid a response of a session")
async def _(scene: Scene) -> None:
    session = await talk(scene.gateway, scene.upstream)
    await session.asked()
    for _ in range(100):
        await session.upstream_tells("response.output_text.delta", response_id="resp_1", delta="word" * 100)
    await session.hang_up()


@attack("cancelling each response of a session at its end")
async def _(scene: Scene) -> None:
    session = await talk(scene.gateway, scene.upstream)
    for at in range(10):
        name = f"resp_{at}"
        await session.asked(name)
        for _ in range(10):
            await session.upstream_tells("response.output_text.delta", response_id=name, delta="word" * 100)
        await session.client_tells("response.cancel")
        await session.done(name, status="cancelled")
    await session.hang_up()


@attack("a voice instead of words")
async def _(scene: Scene) -> None:
    session = await talk(scene.gateway, scene.upstream)
    await session.asked()
    audio = {"output": {"format": {"type": "audio/pcmu"}}}
    await session.upstream_tells("session.updated", session={"type": "realtime", "audio": audio})
    sound = "A" * (8000 * 4 // 3 * (WORTH // 20) // 10)
    for _ in range(10):
        await session.upstream_tells("response.output_audio.delta", response_id="resp_1", delta=sound)
    await session.hang_up()


@pytest.fixture
async def scene(start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer) -> Scene:
    # What is not seen costs nothing here: all that is charged has been seen, or said.
    settings: dict[str, Any] = {"tenants": TENANTS, "redis_url": redis.url, "unseen_tokens_per_second": 0}
    gateway, other = [await start_gateway(**settings) for _ in range(2)]
    return Scene(gateway, other, upstream)


async def ended(scene: Scene) -> None:
    """Everything has ended, and has been told."""
    for gateway in (scene.gateway, scene.other):
        services = gateway.app.services
        await until(lambda services=services: not services.lifecycle.in_flight)  # type: ignore[misc]
        if services.late is not None:
            await until(lambda late=services.late: not late.waiting)  # type: ignore[misc]
        await services.ledger.flush()
    await asyncio.sleep(0.1)


async def is_paid_for(scene: Scene) -> tuple[bool, bool]:
    """Whether it has been charged, and counted: soon, where a store is slow to answer."""
    charged = LIMIT - await remaining(scene.gateway, Dimension.TOKENS_PER_DAY)
    used = (await counted(scene.gateway)).values()
    ledger = sum(counts.get("input", 0) + counts.get("output", 0) for counts in used)
    return charged >= WORTH // 2, ledger >= WORTH // 2


@pytest.mark.parametrize("way", ATTACKS)
async def test_no_way_is_worth_it(scene: Scene, way: str) -> None:
    await ATTACKS[way](scene)
    await ended(scene)
    await comes_to((True, True), partial(is_paid_for, scene))


# Pictures and sound

FIFTY_IMAGES = {"model": "m", "prompt": "A cat", "n": 50}
IMAGE_FORM = form(("file", b"\x89PNG" * 50), ("model", b"m"), ("prompt", b"A hat"), ("n", b"50"))
TOOL = {"model": "m", "input": "50 cats", "tools": [{"type": "image_generation"}]}
PICTURE = {"type": "image_generation_call", "status": "completed", "result": "iVBO"}
PICTURES: dict[str, tuple[str, bytes, str, list[bytes] | None]] = {
    "hanging up before they come": ("/v1/images/generations", orjson.dumps(FIFTY_IMAGES), JSON, None),
    "saying behind the picture how many": ("/v1/images/edits", IMAGE_FORM, FORM, None),
    "hanging up behind partial ones": (
        "/v1/images/generations",
        orjson.dumps({**FIFTY_IMAGES, "stream": True, "partial_images": 3}),
        JSON,
        [typed("image_generation.partial_image", b64_json="iVBO" * 200) for _ in range(50)],
    ),
    "hanging up behind the last": (
        "/v1/images/generations",
        orjson.dumps({**FIFTY_IMAGES, "stream": True}),
        JSON,
        [typed("image_generation.completed", b64_json="iVBO" * 200) for _ in range(50)],
    ),
    "having a tool make them": (
        RESPONSES,
        orjson.dumps({**TOOL, "stream": True}),
        JSON,
        [typed("response.output_item.done", item=PICTURE) for _ in range(50)],
    ),
    "having a tool make them that nobody names": (
        RESPONSES,
        orjson.dumps({"model": "m", "prompt": {"id": "pmpt_1"}, "stream": True}),
        JSON,
        [typed("response.output_item.done", item=PICTURE) for _ in range(50)],
    ),
}


@pytest.mark.parametrize("way", PICTURES)
async def test_no_pictures_are_free(scene: Scene, way: str) -> None:
    target, body, headers, said = PICTURES[way]
    asked = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.read_body()
        asked.set()
        if said is not None:
            await turn.send(SSE_HEAD)
            for piece in [*said, SEEN]:
                await turn.chunk(piece)
        await turn.gone()

    scene.upstream.plays(script)
    client = await scene.gateway.connect()
    await client.send(client.request_bytes("POST", target, body, headers=headers))
    await asyncio.wait_for(asked.wait(), 10)
    if said is not None:
        await reads(client, SEEN)
    client.reset()
    await ended(scene)
    ((_, counts),) = (await counted(scene.gateway)).items()
    assert counts.get("images", 0) >= 25
    quota = Dimension.IMAGES_PER_MINUTE
    assert IMAGES - await remaining(scene.gateway, quota) >= 25, "as much has not come back yet"


@pytest.mark.parametrize("stated", [True, False], ids=["of a stated length", "of any length"])
async def test_no_sound_is_free(scene: Scene, *, stated: bool) -> None:
    asked = asyncio.Event()

    async def script(turn: Turn) -> None:
        await turn.read_body()
        asked.set()
        await turn.gone()

    scene.upstream.plays(script)
    client = await scene.gateway.connect()
    body = form(("file", bytes(20_000_000)), ("model", b"m"))
    target = "/v1/audio/transcriptions"
    if stated:
        await client.send(client.request_bytes("POST", target, body, headers=FORM))
    else:
        head = client.request_bytes("POST", target, headers=FORM + "Transfer-Encoding: chunked\r\n")
        await client.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    await asyncio.wait_for(asked.wait(), 10)
    client.reset()
    await ended(scene)
    megabytes = MEGABYTES - await remaining(scene.gateway, Dimension.AUDIO_MEGABYTES_PER_MINUTE)
    assert megabytes >= 10, "as much has not come back yet"
