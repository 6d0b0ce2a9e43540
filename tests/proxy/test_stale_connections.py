"""Connections that the upstream closes while nobody uses them: whoever asks next hardly ever hears of it."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections import Counter
from collections.abc import Callable
from time import monotonic

import pytest

from tests.conftest import StartGateway
from tests.kit.asking import assert_upstream_error
from tests.kit.client import JSON, QUESTION, RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.waiting import until
from tests.kit.websocket import TEXT, accepted, frame, read_message, shake_hands

PARTS = {
    "half a status line": b"HTTP/1.1 20",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "a head": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n",
}


async def asked(client: RawClient, method: str, number: int = 0) -> int:
    """The status of an answer to a request that bears a number."""
    body, more = (QUESTION, JSON) if method == "POST" else (None, "")
    target = "/v1/chat/completions" if method == "POST" else "/v1/models"
    if method == "DELETE":
        target = "/v1/files/file-1"
    await client.send(client.request_bytes(method, target, body, headers=f"{more}X-Number: {number}\r\n"))
    return (await client.read_answer(method)).status


def ending(turn: Turn, by: str) -> Callable[[], None]:
    return turn.close if by == "fin" else turn.reset


@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.both_loops
async def test_what_changes_nothing_is_asked_again_once_where_a_close_was_the_answer(
    method: str, by: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def hang_up_on_the_second(turn: Turn) -> None:
        if len(upstream.requests) == 2:
            ending(turn, by)()
            await turn.gone()
        else:
            await turn.send(OK)

    upstream.plays(hang_up_on_the_second)
    client = await gateway.connect()

    assert [await asked(client, "GET"), await asked(client, method, 7)] == [200, 200]

    assert [seen.get("x-number") for seen in upstream.requests] == ["0", "7", "7"]
    assert upstream.requests[1].raw_head == upstream.requests[2].raw_head
    assert gateway.upstream_connections("busy") == 0
    lines = await gateway.lines.wait(2)
    assert [line["ending"] for line in lines] == ["complete", "complete"]


@pytest.mark.parametrize("by", ["fin", "rst"])
async def test_it_is_asked_no_third_time(by: str, gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def hang_up(turn: Turn) -> None:
        ending(turn, by)()
        await turn.gone()

    upstream.plays(hang_up)
    client = await gateway.connect()
    answer = await client.request("GET", "/v1/models")

    assert_upstream_error(answer, 502, "upstream_broken")
    assert len(upstream.requests) == 2
    assert gateway.upstream_connections("busy") == 0


@pytest.mark.parametrize("part", PARTS)
async def test_nothing_is_asked_again_once_a_byte_of_the_answer_has_come(
    part: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def begin_and_hang_up(turn: Turn) -> None:
        await turn.send(PARTS[part])
        turn.close()

    upstream.plays(begin_and_hang_up)
    client = await gateway.connect()
    answer = await client.request("GET", "/v1/models")

    assert answer.status == 502 if part != "a head" else not answer.clean_end
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("by", ["fin", "rst"])
@pytest.mark.parametrize(
    "method", ["POST", "DELETE", "PUT", "PATCH", "OPTIONS", "GET with a body", "streamed"]
)
async def test_nothing_else_is_ever_asked_again(
    method: str, by: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def hang_up(turn: Turn) -> None:
        await turn.read_body()
        ending(turn, by)()
        await turn.gone()

    upstream.plays(hang_up)
    client = await gateway.connect()
    name = method.partition(" ")[0]
    match method:
        case "POST" | "PUT" | "PATCH":
            await client.send(client.request_bytes(name, "/v1/chat/completions", QUESTION, headers=JSON))
        case "GET with a body":
            await client.send(client.request_bytes(name, "/v1/models", b"{}", headers=JSON))
        case "streamed":
            more = "Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n"
            await client.send(
                client.request_bytes("GET", "/v1/models", headers=more) + b"2\r\n{}\r\n0\r\n\r\n"
            )
        case _:
            await client.send(client.request_bytes(name, "/v1/files/file-1"))
    answer = await client.read_answer()

    assert_upstream_error(answer, 502, "upstream_broken")
    assert len(upstream.requests) == 1


async def test_a_deadline_is_no_close(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    gateway = await start_gateway(
        upstream={
            "base_url": upstream.base_url,
            "api_key": "sk-up",
            "first_byte_timeout_seconds": 0.2,
        }
    )

    async def say_nothing(turn: Turn) -> None:
        await turn.gone()

    upstream.plays(say_nothing)
    client = await gateway.connect()
    answer = await client.request("GET", "/v1/models")

    assert_upstream_error(answer, 504, "upstream_timeout")
    assert len(upstream.requests) == 1


async def test_it_is_asked_again_in_what_is_left_of_the_time(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "first_byte_timeout_seconds": 0.8}
    )

    async def hang_up_late_then_answer_late(turn: Turn) -> None:
        await asyncio.sleep(0.6)
        if len(upstream.requests) == 1:
            turn.close()
        else:
            await turn.send(OK)

    upstream.plays(hang_up_late_then_answer_late)
    client = await gateway.connect()
    answer = await client.request("GET", "/v1/models")

    assert_upstream_error(answer, 504, "upstream_timeout")
    await until(lambda: gateway.upstream_connections("busy") == 0)


async def test_a_client_that_leaves_meanwhile_leaves_nothing_behind(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def hang_up_then_wait(turn: Turn) -> None:
        if len(upstream.requests) == 1:
            turn.close()
            return
        turn.open("asked again")
        await turn.gone()

    upstream.plays(hang_up_then_wait)
    client = await gateway.connect()
    await client.send(client.request_bytes("GET", "/v1/models"))
    await upstream.passed("asked again")
    client.reset()

    assert await upstream.all_closed()
    await until(lambda: gateway.upstream_connections("busy") == 0)
    assert len(upstream.requests) == 2


async def test_a_handshake_is_made_again_once(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def hang_up_on_the_first(turn: Turn) -> None:
        if len(upstream.requests) == 1:
            turn.close()
            return
        await turn.send(accepted(turn) + frame(TEXT, b"hello", masked=False))
        await turn.gone()

    upstream.plays(hang_up_on_the_first)
    client = await gateway.connect()
    answer = await shake_hands(client)

    assert answer.status == 101
    assert await read_message(client.reader) == (TEXT, b"hello")
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("is_heard", [True, False])
@pytest.mark.both_loops
async def test_one_that_is_found_closed_is_replaced_for_post_too(
    is_heard: bool, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Whether the loop has heard of that or not: what was closed before a byte was written is not used."""
    loop = asyncio.get_running_loop()
    turns: list[Turn] = []

    async def answer(turn: Turn) -> None:
        turns.append(turn)
        await turn.read_body()
        await turn.send(OK)

    def hang_up() -> None:
        with socket.socket(fileno=os.dup(turns[-1].writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)

    upstream.plays(answer)
    client = await gateway.connect()
    ours = client.writer.get_extra_info("socket").fileno()
    request = client.request_bytes("POST", "/v1/chat/completions", QUESTION, headers=JSON)
    assert await asked(client, "POST") == 200
    for number in range(2, 10):
        await until(lambda: gateway.upstream_connections("idle") == 1)
        os.write(ours, request)
        if is_heard:
            hang_up()
        else:
            loop.call_soon(
                hang_up
            )  # in the turn in which the request is heard of, and before it is looked at

        assert (await client.read_answer()).status == 200
        assert len(upstream.requests) == upstream.connections == number


async def test_an_upstream_that_closes_idle_connections_at_any_moment(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Right behind an answer, when the next request may be on its way, and later: by FIN and by RST."""
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "keepalive_seconds": 10}
    )

    latest: dict[int, Turn] = {}

    def hang_up(turn: Turn, by: str) -> None:
        if latest[turn.seen.connection] is turn:
            ending(turn, by)()

    async def hang_up_when_idle(turn: Turn) -> None:
        latest[turn.seen.connection] = turn
        await turn.read_body()
        await turn.send(OK)
        by = "fin" if random.random() < 0.7 else "rst"
        asyncio.get_running_loop().call_later(random.uniform(0, 0.012), hang_up, turn, by)

    upstream.plays(hang_up_when_idle)
    statuses: dict[str, Counter[int]] = {"GET": Counter(), "POST": Counter()}

    async def ask(which: int) -> None:
        client = await gateway.connect()
        for number in range(40):
            method = random.choice(["GET", "POST"])
            statuses[method][await asked(client, method, which * 1000 + number)] += 1
            await asyncio.sleep(random.uniform(0, 0.014))

    await asyncio.gather(*(ask(which) for which in range(15)))

    posts = Counter(seen.get("x-number") for seen in upstream.requests if seen.method == "POST")
    gets = Counter(seen.get("x-number") for seen in upstream.requests if seen.method == "GET")
    assert set(posts.values()) == {1}
    assert max(gets.values()) <= 2
    assert set(statuses["GET"]) == {200}
    assert set(statuses["POST"]) <= {200, 502}


async def test_idle_connections_are_kept_a_shorter_time_than_python_servers_keep_theirs(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()
    assert await asked(client, "GET") == 200
    assert gateway.upstream_connections("idle") == 1
    began = monotonic()

    await until(lambda: gateway.upstream_connections("idle") == 0)

    assert monotonic() - began > 3.5  # and 15 at the public API are more than `until` has patience for
