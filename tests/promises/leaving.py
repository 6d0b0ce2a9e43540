"""How a client leaves: what it has sent by then, and how the upstream behaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from tests.kit.client import JSON, STREAMED_QUESTION, RawClient
from tests.kit.upstream import SSE_HEAD, Turn


async def all_of(things: Iterable[Awaitable[None]], width: int = 24) -> None:
    """Await all, some at a time; the first failure is the test's."""
    turnstile = asyncio.Semaphore(width)

    async def one(thing: Awaitable[None]) -> None:
        async with turnstile:
            await thing

    await asyncio.gather(*(one(thing) for thing in things))


async def stream_for_ever(turn: Turn) -> None:
    """Read the body; answer with events until nobody listens."""
    await turn.read_body()
    if turn.seen.target.endswith("first-byte"):
        await turn.gone()
        return
    await turn.send(SSE_HEAD)
    while not turn.writer.is_closing():
        await turn.chunk(b'data: {"n":1}\n\n')
        await asyncio.sleep(0.01)


async def before_the_head_is_complete(client: RawClient) -> None:
    await client.send(
        client.request_bytes("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON)[:70]
    )


async def during_a_json_body(client: RawClient) -> None:
    await client.send(
        client.request_bytes("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON)[:-9]
    )


async def during_an_upload(client: RawClient) -> None:
    head = client.request_bytes(
        "POST", "/v1/files", headers="Content-Type: text/plain\r\nContent-Length: 100000\r\n"
    )
    await client.send(head + bytes(50_000))
    await asyncio.sleep(0.01)


async def before_the_first_byte(client: RawClient) -> None:
    await client.send(
        client.request_bytes("POST", "/v1/chat/completions?first-byte", STREAMED_QUESTION, headers=JSON)
    )
    await asyncio.sleep(0.01)


async def amid_the_stream(client: RawClient) -> None:
    await client.send(client.request_bytes("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON))
    await client.read_head()
    await client.read_chunk()


WAYS: list[Callable[[RawClient], Awaitable[None]]] = [
    before_the_head_is_complete,
    during_a_json_body,
    during_an_upload,
    before_the_first_byte,
    amid_the_stream,
]


async def leave(client: RawClient, by: str) -> None:
    """Go away by FIN or by RST."""
    if by == "rst":
        client.reset()
    else:
        await client.close()


async def settled() -> tuple[int, int]:
    """How many tasks and descriptors there are, once they do not change any more."""
    last = (0, 0)
    for _ in range(100):
        now = (len(asyncio.all_tasks()), len(list(Path("/proc/self/fd").iterdir())))
        if now == last:
            return now
        last = now
        await asyncio.sleep(0.1)
    return last
