"""nginx and HAProxy, configured as deploy/ shows, take nothing of what the gateway promises."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.credentials.key_ring import KeyRing
from tests.conftest import StartGateway
from tests.deploy.balancers import (
    CHECKS,
    NOTICE_SECONDS,
    Configure,
    Front,
    Machine,
    credential_by,
    haproxy,
    in_front,
    nginx,
)
from tests.kit.client import CHAT, FORM, JSON, QUESTION, STREAMED_QUESTION, RawClient
from tests.kit.gateway import Gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import OK, SSE_HEAD, ScriptedUpstream, Turn, two_events
from tests.kit.waiting import until as happens
from tests.kit.websocket import TEXT, accepted, frame, read_message, shake_hands
from tests.kit.workers import is_alive, running_workers

EACH = pytest.mark.parametrize("configure", [nginx, haproxy], ids=["nginx", "haproxy"])
MIB = 2**20
EVENTS = 6
BACK_SECONDS = 2.1
"""When a gateway is up, until nginx is sure to send it requests again: its seconds are whole ones, and it waits one."""

TARGET = "/v1/files?after=a%2Fb%20c&&limit=+1"


@dataclass
class Behind:
    """A balancer with two gateways behind it."""

    front: Front
    gateways: list[Gateway]

    async def connect(self) -> RawClient:
        return await self.front.connect(self.gateways[0].credential())


@pytest.fixture(params=[nginx, haproxy], ids=["nginx", "haproxy"])
async def behind(
    request: pytest.FixtureRequest, tmp_path: Path, start_gateway: StartGateway
) -> AsyncIterator[Behind]:
    ring = KeyRing.ephemeral()
    gateways = [await start_gateway(ring=ring) for _ in range(2)]
    async with in_front(request.param, tmp_path, [gateway.port for gateway in gateways]) as front:
        yield Behind(front, gateways)


@EACH
def test_an_example_passes_the_check_of_its_own_program(configure: Configure, tmp_path: Path) -> None:
    command = configure(tmp_path, 8443, (8081, 8082))

    done = subprocess.run([*command, CHECKS[configure]], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in (done.stdout + done.stderr).lower()


async def test_every_event_of_a_stream_passes_when_it_comes(
    behind: Behind, upstream: ScriptedUpstream
) -> None:
    upstream.plays(two_events)
    async with await behind.connect() as client:
        await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        assert (await client.read_head()).status == 200

        assert await client.read_chunk() == b"data: 1\n\n"
        upstream.gate("go on").set()  # the second is sent only now
        assert await client.read_chunk() == b"data: 2\n\n"
        assert await client.read_chunk() == b""


async def test_ten_megabytes_of_audio_pass_unchanged(behind: Behind, upstream: ScriptedUpstream) -> None:
    audio = os.urandom(10 * MIB)

    async def speech(turn: Turn) -> None:
        await turn.read_body()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\nContent-Length: {len(audio)}\r\n\r\n"
        await turn.send(head.encode() + audio)

    upstream.plays(speech)
    async with await behind.connect() as client:
        body = b'{"model":"tts-1","input":"long","voice":"alloy"}'
        answer = await client.request("POST", "/v1/audio/speech", body, headers=JSON)

    assert answer.status == 200
    assert answer.body == audio


async def test_an_upload_goes_up_while_it_comes_in(behind: Behind, upstream: ScriptedUpstream) -> None:
    file = os.urandom(20 * MIB)
    before = (
        b'--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nuser_data\r\n'
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
    )
    form = before + file + b"\r\n--edge--\r\n"
    async with await behind.connect() as client:
        whole = client.request_bytes("POST", "/v1/files", form, headers=FORM)
        await client.send(whole[: -15 * MIB])
        # A balancer that collects it first would not ask before it has the rest.
        await happens(lambda: upstream.requests)
        await client.send(whole[-15 * MIB :])
        answer = await client.read_answer("POST")

    assert answer.status == 200
    assert upstream.requests[0].body == form


async def test_large_json_passes_both_ways(behind: Behind, upstream: ScriptedUpstream) -> None:
    question = b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"%b"}]}' % (b"x" * 3 * MIB)

    async def echo(turn: Turn) -> None:
        body = await turn.read_body()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await turn.send(head.encode() + body)

    upstream.plays(echo)
    async with await behind.connect() as client:
        answer = await client.request("POST", CHAT, question, headers=JSON)

    assert answer.status == 200
    assert answer.body == question


async def test_messages_of_a_websocket_pass_both_ways_when_they_come(
    behind: Behind, upstream: ScriptedUpstream
) -> None:
    async def echo(turn: Turn) -> None:
        await turn.send(accepted(turn))
        while True:
            _, said = await read_message(turn.reader)
            await turn.send(frame(TEXT, said, masked=False))

    upstream.plays(echo)
    async with await behind.connect() as client:
        assert (await shake_hands(client)).status == 101
        for said in (b'{"type":"one"}', b'{"type":"two"}'):
            await client.send(frame(TEXT, said))
            assert await read_message(client.reader) == (TEXT, said)


async def test_who_expects_100_continue_is_told_to_send(behind: Behind, upstream: ScriptedUpstream) -> None:
    async with await behind.connect() as client:
        head, body = client.request_bytes(
            "POST", CHAT, QUESTION, headers=JSON + "Expect: 100-continue\r\n"
        ).split(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert (await client.read_head()).status == 100
        await client.send(body)
        assert (await client.read_answer("POST")).status == 200

    assert upstream.requests[0].body == QUESTION


async def test_a_refusal_reaches_who_is_still_sending_a_file(
    behind: Behind, upstream: ScriptedUpstream
) -> None:
    async with await behind.front.connect("nonsense") as client:
        head = client.request_bytes("POST", "/v1/files", headers=FORM + f"Content-Length: {20 * MIB}\r\n")
        await client.send(head + bytes(MIB))
        answer = await client.read_answer("POST")

    assert answer.status == 401
    assert not upstream.requests


async def test_who_hangs_up_ends_its_request_upstream_at_once(
    behind: Behind, upstream: ScriptedUpstream
) -> None:
    async def silence(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(b"data: 1\n\n")
        await turn.gone()
        upstream.gate("left").set()

    upstream.plays(silence)
    async with await behind.connect() as client:
        await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        await client.read_head()
        await client.read_chunk()
        client.writer.transport.abort()
        await upstream.passed("left")

    left = 'gateway_exchanges_total{ending="client_left",operation="createChatCompletion",status="2xx",tenant="acme"}'
    await happens(lambda: sum(gateway.metric(left) for gateway in behind.gateways) == 1)


async def test_a_target_and_long_fields_pass_as_they_are(behind: Behind, upstream: ScriptedUpstream) -> None:
    async with await behind.connect() as client:
        answer = await client.request("GET", TARGET, headers=f"X-Long: {'x' * 8200}\r\n")
        assert answer.status == 200

    assert upstream.requests[0].target == TARGET
    assert upstream.requests[0].get("x-long") == "x" * 8200


@EACH
async def test_a_post_whose_connection_breaks_is_never_sent_again(
    configure: Configure, tmp_path: Path
) -> None:
    seen: list[bytes] = []

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        else:
            seen.append(head)
        writer.close()

    servers = [await asyncio.start_server(break_off, "127.0.0.1") for _ in range(2)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    try:
        async with in_front(configure, tmp_path, ports) as front, await front.connect("any") as client:
            answer = await client.request("POST", CHAT, QUESTION, headers=JSON)
    finally:
        for server in servers:
            server.close()

    assert answer.status == 502
    assert len(seen) == 1


async def stream_or_not(turn: Turn) -> None:
    """The script of an upstream whose streams last longer than a gateway's notice of its end."""
    if b'"stream":true' not in await turn.read_body():
        await turn.send(OK)
        return
    await turn.send(SSE_HEAD)
    for number in range(EVENTS):
        await turn.chunk(b"data: %d\n\n" % number)
        await asyncio.sleep(1.5 * NOTICE_SECONDS / EVENTS)
    await turn.send(b"0\r\n\r\n")


@asynccontextmanager
async def asked_on_and_on(
    folder: Path, ports: Sequence[int], credential: str
) -> AsyncIterator[dict[str, Counter[str]]]:
    """Both balancers in front of these, asked until the end for answers and streams; what came of it, by balancer."""
    whole = b"".join(b"data: %d\n\n" % number for number in range(EVENTS))
    outcomes: dict[str, Counter[str]] = {}
    over = asyncio.Event()

    async def ask(
        front: Front, seen: Counter[str], body: bytes, expected: bytes, pause_seconds: float
    ) -> None:
        while not over.is_set():
            async with await front.connect(credential) as client:
                for _ in range(10):
                    answer = await client.request("POST", CHAT, body, headers=JSON)
                    good = answer.status == 200 and answer.clean_end and answer.body == expected
                    seen["good" if good else f"{answer.status} {answer.body!r}"] += 1
                    if answer.get("connection") == "close" or over.is_set():
                        break
                    await asyncio.sleep(pause_seconds)

    async with AsyncExitStack() as stack:
        fronts = []
        for configure in (nginx, haproxy):
            own = folder / configure.__name__
            own.mkdir()
            fronts.append(await stack.enter_async_context(in_front(configure, own, ports)))
            outcomes[configure.__name__] = Counter()
        group = await stack.enter_async_context(asyncio.TaskGroup())
        for front, seen in zip(fronts, outcomes.values(), strict=True):
            for number in range(6):
                group.create_task(ask(front, seen, QUESTION, b"{}", 0.01 * number))
                group.create_task(ask(front, seen, STREAMED_QUESTION, whole, 0.1 * number))
        yield outcomes
        over.set()


def assert_good(outcomes: Mapping[str, Counter[str]]) -> None:
    assert all(seen["good"] > 100 for seen in outcomes.values())
    assert {name: set(seen) for name, seen in outcomes.items()} == {"nginx": {"good"}, "haproxy": {"good"}}


async def test_two_gateways_restart_one_after_the_other_and_nothing_fails(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.plays(stream_or_not)
    credential = credential_by(tmp_path / "keys")
    machines = [Machine(upstream.base_url, tmp_path / "keys") for _ in range(2)]
    ports = [machine.port for machine in machines]

    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(machine) for machine in machines))
        outcomes = await stack.enter_async_context(asked_on_and_on(tmp_path, ports, credential))
        for machine in machines:
            await machine.stop()
            await machine.start()
            await asyncio.sleep(BACK_SECONDS)

    assert_good(outcomes)


async def test_workers_of_one_machine_are_replaced_and_nothing_fails(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    upstream.plays(stream_or_not)
    async with running_workers(
        tmp_path, upstream.base_url, redis, "--set", f"drain_notice_seconds={NOTICE_SECONDS}"
    ) as workers:
        before = await workers.pids()
        ports = [workers.command.port] * 2
        async with asked_on_and_on(tmp_path, ports, workers.credential) as outcomes:
            workers.signal(signal.SIGUSR2)
            await workers.all_ready(2, but=tuple(before))
            await happens(lambda: not any(map(is_alive, before)), 10)

    assert_good(outcomes)
