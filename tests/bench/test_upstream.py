"""The raw upstream speaks what clients that nobody here wrote understand."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import orjson
import pytest
import websockets

from gateway.bench import canned
from gateway.bench.certificate import make_certificate, served_with
from gateway.bench.upstream import RawUpstream


@pytest.fixture
async def base() -> AsyncIterator[str]:
    upstream = RawUpstream()
    server = await upstream.listen(0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    upstream.schedule.close()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def test_json_is_answered_over_one_connection(base: str, session: aiohttp.ClientSession) -> None:
    for _ in range(3):
        async with session.post(base + canned.CHAT, data=canned.chat()) as answer:
            assert (await answer.json())["object"] == "chat.completion"
    async with session.post(base + canned.EMBEDDINGS, data=canned.embeddings()) as answer:
        body = await answer.read()
        assert 29_000 < len(body) < 32_000
        assert len(orjson.loads(body)["data"][0]["embedding"]) == 1536


async def test_a_stream_has_as_many_stamped_events_as_were_wished_for(
    base: str, session: aiohttp.ClientSession
) -> None:
    async with session.post(base + canned.CHAT, data=canned.chat(canned.events(5, 0.001))) as answer:
        assert answer.content_type == "text/event-stream"
        text = await answer.read()
    *events, done, end = text.split(b"\n\n")
    assert (done, end) == (b"data: [DONE]", b"")
    assert [len(canned.STAMP.findall(event)) for event in events] == [1] * 5
    stamps = [int(stamp) for stamp in canned.STAMP.findall(text)]
    assert stamps == sorted(stamps)
    assert all(orjson.loads(event[6:])["object"] == "chat.completion.chunk" for event in events)


async def test_usage_is_reported_where_it_was_asked_for(base: str, session: aiohttp.ClientSession) -> None:
    asking = canned.chat(canned.events(2, 0.001))[:-1] + ',"stream_options": {"include_usage": true}}'
    async with session.post(base + canned.CHAT, data=asking) as answer:
        events = [orjson.loads(event[6:]) for event in (await answer.read()).split(b"\n\n")[:-2]]
    assert [event["usage"] for event in events[:2]] == [None, None]
    assert events[2]["choices"] == []
    assert events[2]["usage"]["total_tokens"] == 29


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("size", [1, 16384, 1_000_000, 5_000_001])
async def test_audio_has_the_size_that_was_wished_for(
    chunked: bool, size: int, base: str, session: aiohttp.ClientSession
) -> None:
    async with session.post(base + canned.SPEECH, data=canned.speech(size, chunked=chunked)) as answer:
        assert (answer.headers.get("Transfer-Encoding") == "chunked") is chunked
        assert len(await answer.read()) == size


async def test_an_upload_is_counted_however_it_is_framed(base: str, session: aiohttp.ClientSession) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"x" * 12345

    async with session.post(base + canned.TRANSCRIPTIONS, data=pieces()) as answer:
        assert (await answer.json())["text"] == "bytes=123450"
    async with session.post(base + canned.TRANSCRIPTIONS, data=b"x" * 54321, expect100=True) as answer:
        assert (await answer.json())["text"] == "bytes=54321"


async def test_a_socket_gets_its_messages_back(base: str) -> None:
    url = base.replace("http", "ws") + canned.REALTIME
    async with websockets.connect(url, compression=None) as socket:
        for text in ("", "short", "x" * 200, "y" * 60_000):
            await socket.send(text)
            assert await socket.recv() == text


async def test_a_silent_stream_has_one_event_and_no_end(base: str, session: aiohttp.ClientSession) -> None:
    async with session.post(base + canned.CHAT, data=canned.chat(canned.silence())) as answer:
        event = await answer.content.readuntil(b"\n\n")
        assert canned.STAMP.search(event)
        assert not answer.content.at_eof()


async def test_it_speaks_tls_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    trusted = make_certificate(tmp_path)
    server = await RawUpstream().listen(0, served_with(tmp_path))
    port = server.sockets[0].getsockname()[1]
    context = ssl.create_default_context(cafile=str(trusted))
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"https://localhost:{port}{canned.CHAT}", data=canned.chat(), ssl=context) as answer,
    ):
        assert answer.status == 200
    server.close()
    await asyncio.sleep(0)


async def test_large_answers_arrive_whole_by_tls(tmp_path: Path) -> None:
    upstream = RawUpstream()
    trusted = make_certificate(tmp_path)
    server = await upstream.listen(0, served_with(tmp_path))
    base = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    context = ssl.create_default_context(cafile=str(trusted))
    async with (
        asyncio.timeout(10),
        aiohttp.ClientSession() as session,
        session.post(base + canned.SPEECH, data=canned.speech(5_000_000), ssl=context) as answer,
    ):
        assert len(await answer.read()) == 5_000_000
    server.close()
    await asyncio.sleep(0)
