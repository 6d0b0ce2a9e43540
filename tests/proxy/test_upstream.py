"""The way upstream: connections that are reused only when nothing can go wrong, and what is sent only once."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import orjson
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.conftest import StartGateway
from tests.kit.client import RawAnswer
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn

CHAT = b'{"model":"gpt-4o-mini","messages":[]}'
JSON = "Content-Type: application/json\r\n"


def assert_typed(answer: RawAnswer, status: int, code: str) -> None:
    """The answer is the gateway's own error about the upstream."""
    error = orjson.loads(answer.body)["error"]
    assert (answer.status, error["type"], error["code"]) == (status, "upstream_error", code), error


def upstream_connections(gateway: Gateway, state: str) -> int:
    """How many the gateway counts in a state."""
    return int(gateway.metric(f'gateway_upstream_connections{{state="{state}"}}'))


# Reuse.


async def test_a_connection_is_reused_while_it_is_fresh_and_not_after(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "keepalive_seconds": 0.4}
    )
    client = await gateway.connect()
    for _ in range(5):
        assert (await client.request("POST", "/v1/chat/completions", CHAT, headers=JSON)).status == 200
    assert [seen.connection for seen in upstream.requests] == [1] * 5
    assert upstream_connections(gateway, "idle") == 1

    await asyncio.sleep(1.2)

    assert (await client.request("GET", "/v1/models")).status == 200
    assert upstream.requests[-1].connection == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_an_upstream_that_wants_to_close_is_not_asked_again_on_that_connection(
    answer: bytes, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answer)

    upstream.plays(script)
    client = await gateway.connect()

    for _ in range(3):
        assert (await client.request("GET", "/v1/models")).body == b"{}"
    assert [seen.connection for seen in upstream.requests] == [1, 2, 3]


UNASKED = {
    "a whole answer": OK.replace(b"{}", b"!!"),
    "half a head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "a head without its body": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
    "noise": b"\x00\x01\x02",
    "an empty line": b"\r\n",
    "a last chunk": b"0\r\n\r\n",
    "an interim answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
}


@pytest.mark.parametrize("kind", UNASKED)
async def test_what_comes_on_an_idle_connection_is_never_taken_for_the_next_answer(
    kind: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def talkative(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(OK)
        await asyncio.sleep(0.05)
        await turn.send(UNASKED[kind])

    upstream.plays(talkative)
    client = await gateway.connect()
    for _ in range(3):
        answer = await client.request("GET", "/v1/models")

        assert (answer.status, answer.body) == (200, b"{}")
        await asyncio.sleep(0.15)
    if kind not in ("an empty line", "an interim answer"):
        assert len({seen.connection for seen in upstream.requests}) == 3


async def test_a_connection_that_was_held_back_by_a_slow_client_is_as_good_as_any_afterwards(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """No limit of the exchange that is over goes on running."""
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "idle_timeout_seconds": 0.3}
    )
    size = 16 * 2**20

    async def large(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + bytes(size))

    upstream.plays(large)
    client = await gateway.connect()
    for _ in range(2):
        await client.send(client.request_bytes("GET", "/v1/files/file-1/content"))
        answer = await client.read_head()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.sleep(0.2)
        client.writer.transport.resume_reading()  # type: ignore[attr-defined]
        await client.read_body(answer)
        assert (len(answer.body), answer.clean_end) == (size, True)
        await asyncio.sleep(0.6)

    assert [seen.connection for seen in upstream.requests] == [1, 1]


async def test_an_answer_before_the_request_was_read_is_delivered_and_its_connection_is_spent(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def refuse_early(turn: Turn) -> None:
        if turn.seen.method == "GET":
            await turn.send(OK)
            return
        await turn.send(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\n\r\nlarge")
        await turn.gone()

    upstream.plays(refuse_early)
    client, other = await gateway.connect(), await gateway.connect()
    await client.send(
        client.request_bytes(
            "POST", "/v1/files", headers="Content-Type: text/plain\r\nContent-Length: 1000000\r\n"
        )
        + bytes(1000)
    )

    answer = await client.read_answer()
    following = await other.request("GET", "/v1/models")

    assert (answer.status, answer.body) == (413, b"large")
    assert following.body == b"{}"
    assert [seen.connection for seen in upstream.requests] == [1, 2]
    assert upstream_connections(gateway, "busy") == 0


async def posted(gateway: Gateway, rounds: int, pause: Callable[[], float]) -> Counter[int]:
    """Post in rounds on one client connection, each with a name of its own; the statuses that came."""
    client = await gateway.connect()
    statuses: Counter[int] = Counter()
    for _ in range(rounds):
        name = f"X-Name: {id(client)}-{statuses.total()}\r\n"
        answer = await client.request("POST", "/v1/chat/completions", CHAT, headers=JSON + name)
        statuses[answer.status] += 1
        await asyncio.sleep(pause())
    return statuses


async def test_keep_alive_below_the_upstreams_idle_time_never_fails(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """The upstream hangs up 0.3 s after each answer; the gateway never waits so long before it does."""
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "keepalive_seconds": 0.1}
    )

    latest: dict[int, Turn] = {}

    def close_if_idle(turn: Turn) -> None:
        if latest[turn.seen.connection] is turn:
            turn.close()

    async def hang_up_when_idle(turn: Turn) -> None:
        latest[turn.seen.connection] = turn
        await turn.read_body()
        await turn.send(OK)
        asyncio.get_running_loop().call_later(0.3, close_if_idle, turn)

    upstream.plays(hang_up_when_idle)

    statuses = sum(
        await asyncio.gather(*(posted(gateway, 20, lambda: random.uniform(0.0, 0.35)) for _ in range(25))),
        Counter[int](),
    )

    assert statuses == {200: 500}
    assert len({seen.get("x-name") for seen in upstream.requests}) == len(upstream.requests) == 500


async def test_a_post_is_never_sent_twice_however_the_upstream_hangs_up(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """It closes idle connections at random moments, right when the next request may be on its way."""
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "keepalive_seconds": 10}
    )

    async def hang_up_at_random(turn: Turn) -> None:
        body = await turn.read_body()
        assert body == CHAT
        if random.random() < 0.1:
            turn.reset()
            return
        await turn.send(OK)
        end = turn.close if random.random() < 0.7 else turn.reset
        asyncio.get_running_loop().call_later(random.uniform(0, 0.01), end)

    upstream.plays(hang_up_at_random)

    statuses = sum(
        await asyncio.gather(*(posted(gateway, 60, lambda: random.uniform(0, 0.012)) for _ in range(20))),
        Counter[int](),
    )

    times_seen = Counter(seen.get("x-name") for seen in upstream.requests)
    assert max(times_seen.values()) == 1
    assert set(statuses) == {200, 502}
    assert statuses.total() == 1200
    assert statuses[200] > 600


# Connecting.


async def test_a_refused_connect_is_tried_again_because_nothing_was_sent(start_gateway: StartGateway) -> None:
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))  # bound, not listening: connecting is refused
        port = reserved.getsockname()[1]
        gateway = await start_gateway(
            upstream={"base_url": f"http://127.0.0.1:{port}/v1", "api_key": "sk-up"}
        )
        client = await gateway.connect()
        asking = asyncio.create_task(client.request("POST", "/v1/chat/completions", CHAT, headers=JSON))
        while not gateway.metric('gateway_upstream_connects_total{result="failed"}'):
            await asyncio.sleep(0.005)

        bodies: list[bytes] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            bodies.append(await reader.readexactly(len(CHAT)))
            writer.write(OK)
            await reader.read()
            writer.close()

        server = await asyncio.start_server(answer, sock=reserved)
        async with server:
            assert (await asking).status == 200
        assert bodies == [CHAT]


async def test_an_upstream_that_refuses_connections_is_a_502_within_a_second(
    start_gateway: StartGateway,
) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        gateway = await start_gateway(
            upstream={"base_url": f"http://127.0.0.1:{reserved.getsockname()[1]}/v1", "api_key": "sk-up"}
        )
        client = await gateway.connect()
        began = monotonic()

        answer = await client.request("POST", "/v1/chat/completions", CHAT, headers=JSON)

        assert_typed(answer, 502, "upstream_unreachable")
        assert monotonic() - began < 1.0
        assert gateway.metric('gateway_upstream_connects_total{result="failed"}') == 3
        assert (await gateway.lines.wait(1))[0]["ending"] == "upstream_lost"
        assert "127.0.0.1" not in answer.body.decode()


async def test_an_upstream_that_never_accepts_is_a_504_at_the_connect_limit(
    start_gateway: StartGateway,
) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:  # with the queue full, the kernel drops further handshakes
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        gateway = await start_gateway(
            upstream={
                "base_url": f"http://127.0.0.1:{full.getsockname()[1]}/v1",
                "api_key": "sk-up",
                "connect_timeout_seconds": 0.4,
            }
        )
        client = await gateway.connect()
        began = monotonic()

        answer = await client.request("GET", "/v1/models")

        assert_typed(answer, 504, "upstream_timeout")
        assert 0.35 < monotonic() - began < 2.0
        assert gateway.metric('gateway_upstream_connects_total{result="timeout"}') >= 1
        for one in crowd:
            one.close()


async def test_the_pool_limit_holds_and_who_waits_is_seen(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "max_connections": 2}
    )
    most = 0

    async def gated(turn: Turn) -> None:
        nonlocal most
        await turn.read_body()
        most = max(most, upstream.open_connections)
        await turn.wait_for("open")
        await turn.send(OK)

    upstream.plays(gated)
    clients = [await gateway.connect() for _ in range(7)]
    asking = [asyncio.create_task(client.request("GET", "/v1/models")) for client in clients]
    while len(upstream.requests) < 2 or upstream_connections(gateway, "waiting") < 5:
        await asyncio.sleep(0.01)

    assert upstream_connections(gateway, "busy") == 2
    assert upstream_connections(gateway, "waiting") == 5
    upstream.gate("open").set()
    answers = await asyncio.gather(*asking)

    assert [answer.status for answer in answers] == [200] * 7
    assert most == 2
    assert upstream.connections == 2
    assert (upstream_connections(gateway, "busy"), upstream_connections(gateway, "waiting")) == (0, 0)


async def test_waiting_for_a_place_in_the_pool_ends_at_the_connect_limit(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={
            "base_url": upstream.base_url,
            "api_key": "sk-up",
            "max_connections": 1,
            "connect_timeout_seconds": 0.3,
        }
    )

    async def gated(turn: Turn) -> None:
        await turn.wait_for("open")
        await turn.send(OK)

    upstream.plays(gated)
    first, second = await gateway.connect(), await gateway.connect()
    asking = asyncio.create_task(first.request("GET", "/v1/models"))
    while not upstream.requests:
        await asyncio.sleep(0.01)

    answer = await second.request("GET", "/v1/models")
    upstream.gate("open").set()

    assert answer.status in (503, 504)
    assert orjson.loads(answer.body)["error"]["code"] in ("overloaded", "upstream_timeout")
    assert (await asking).status == 200
    assert len(upstream.requests) == 1


async def test_clients_that_leave_while_they_wait_take_no_place(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "max_connections": 1}
    )

    async def gated(turn: Turn) -> None:
        await turn.wait_for("open")
        await turn.send(OK)

    upstream.plays(gated)
    first, last = await gateway.connect(), await gateway.connect()
    asking = asyncio.create_task(first.request("GET", "/v1/models"))
    waiting = [await gateway.connect() for _ in range(20)]
    for client in waiting:
        await client.send(client.request_bytes("GET", "/v1/models"))
    while upstream_connections(gateway, "waiting") < 20:
        await asyncio.sleep(0.01)
    for number, client in enumerate(waiting):
        client.reset() if number % 2 else await client.close()
    await asyncio.sleep(0.2)

    assert upstream_connections(gateway, "waiting") == 0
    upstream.gate("open").set()
    assert (await asking).status == 200
    assert (await last.request("GET", "/v1/models")).status == 200
    assert len(upstream.requests) == 2


async def test_a_client_that_leaves_while_the_upstream_is_dialled_leaves_nothing_behind(
    start_gateway: StartGateway,
) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        gateway = await start_gateway(
            upstream={"base_url": f"http://127.0.0.1:{full.getsockname()[1]}/v1", "api_key": "sk-up"}
        )
        clients = [await gateway.connect() for _ in range(10)]
        for client in clients:
            await client.send(client.request_bytes("GET", "/v1/models"))
        await asyncio.sleep(0.2)

        for client in clients:
            client.reset()

        lines = await gateway.lines.wait(10, within_seconds=1)
        assert {line["ending"] for line in lines} == {"client_left"}
        assert not any(upstream_connections(gateway, state) for state in ("busy", "waiting"))
        for one in crowd:
            one.close()


# Limits of time.


def timed(upstream: ScriptedUpstream, **limits: Any) -> dict[str, Any]:
    """Upstream settings with short limits."""
    return {"base_url": upstream.base_url, "api_key": "sk-up"} | limits


async def test_every_kind_of_operation_has_its_own_first_byte_limit(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream=timed(
            upstream,
            first_byte_timeout_seconds=5,
            timeouts={"stored": {"first_byte_seconds": 0.2}, "generation": {"first_byte_seconds": 2}},
        )
    )

    async def late(turn: Turn) -> None:
        await turn.read_body()
        await asyncio.sleep(0.5)
        await turn.send(OK)

    upstream.plays(late)
    stored, generation = await gateway.connect(), await gateway.connect()

    quick, patient = await asyncio.gather(
        stored.request("GET", "/v1/models"),
        generation.request("POST", "/v1/chat/completions", CHAT, headers=JSON),
    )

    assert_typed(quick, 504, "upstream_timeout")
    assert patient.status == 200


async def test_the_idle_limit_runs_between_pieces_and_not_over_the_whole_answer(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(upstream=timed(upstream, idle_timeout_seconds=0.4))

    async def drip(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            await asyncio.sleep(0.15)
            await turn.chunk(b"x")
        await turn.send(b"0\r\n\r\n")

    upstream.plays(drip)
    client = await gateway.connect()

    answer = await client.request("GET", "/v1/files/file-1/content")

    assert (answer.body, answer.clean_end) == (b"xxxxxx", True)


async def test_the_total_limit_ends_an_answer_that_never_ends(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(upstream=timed(upstream, total_timeout_seconds=0.5))

    async def endless(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not turn.writer.is_closing():
            await turn.chunk(b"x")
            await asyncio.sleep(0.05)

    upstream.plays(endless)
    client = await gateway.connect()
    began = monotonic()

    answer = await client.request("GET", "/v1/files/file-1/content")

    assert not answer.clean_end
    assert 0.4 < monotonic() - began < 2.5
    assert (await gateway.lines.wait(1))[0]["ending"] == "timed_out"
    assert await upstream.all_closed()


async def test_a_slow_reading_client_does_not_use_up_the_upstreams_idle_limit(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """While the gateway itself holds the upstream back, its silence is not its fault."""
    gateway = await start_gateway(upstream=timed(upstream, idle_timeout_seconds=0.4))
    size = 24 * 2**20

    async def large(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // 2**20):
            await turn.send(bytes(2**20))

    upstream.plays(large)
    client = await gateway.connect()
    await client.send(client.request_bytes("GET", "/v1/files/file-1/content"))
    answer = await client.read_head()
    client.writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.sleep(1.2)
    client.writer.transport.resume_reading()  # type: ignore[attr-defined]
    client.timeout_seconds = 10

    await client.read_body(answer)

    assert (len(answer.body), answer.clean_end) == (size, True)


# Where it goes.


async def test_the_base_urls_path_stands_in_for_v1(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={"base_url": f"http://127.0.0.1:{upstream.port}/openai/v1/", "api_key": "k"}
    )
    client = await gateway.connect()

    await client.request("GET", "/v1/models?a=%2F&b")

    assert upstream.requests[0].target == "/openai/v1/models?a=%2F&b"
    assert upstream.requests[0].get("host") == f"127.0.0.1:{upstream.port}"


# TLS. Certificates are made for the occasion.


def make_certificate(
    folder: Path, name: str, *, address: str = "127.0.0.1", valid_days: int = 1
) -> tuple[Path, Path]:
    """A self-signed certificate for an address, and its key, as files."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=valid_days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    cert_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return cert_file, key_file


@asynccontextmanager
async def tls_upstream(certificate: tuple[Path, Path]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """An upstream behind TLS that answers `{}`; its port, and the request heads it has seen."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()


async def test_an_upstream_that_cannot_prove_its_name_is_never_sent_anything(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    good = make_certificate(tmp_path, "good")
    cases = {
        "self-signed": (good, None),
        "signed by another": (good, make_certificate(tmp_path, "another")[0]),
        "for another address": (
            (other := make_certificate(tmp_path, "elsewhere", address="192.0.2.1")),
            other[0],
        ),
        "expired": ((old := make_certificate(tmp_path, "old", valid_days=-1)), old[0]),
    }
    for kind, (certificate, ca_file) in cases.items():
        async with tls_upstream(certificate) as (port, heads):
            gateway = await start_gateway(
                upstream={
                    "base_url": f"https://127.0.0.1:{port}/v1",
                    "api_key": "sk-up",
                    **({"ca_file": str(ca_file)} if ca_file else {}),
                }
            )
            client = await gateway.connect()

            answer = await client.request("POST", "/v1/chat/completions", CHAT, headers=JSON)

            assert_typed(answer, 502, "upstream_unreachable")
            assert heads == [], kind


async def test_an_upstream_with_a_certificate_from_the_ca_file_is_trusted(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path, "good")
    async with tls_upstream(certificate) as (port, heads):
        gateway = await start_gateway(
            upstream={
                "base_url": f"https://127.0.0.1:{port}/v1",
                "api_key": "sk-up",
                "ca_file": str(certificate[0]),
            }
        )
        client = await gateway.connect()

        for _ in range(3):
            assert (await client.request("GET", "/v1/models")).body == b"{}"

        assert heads[0].startswith(f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode())


async def test_an_upstream_that_speaks_no_tls_is_a_502(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gateway = await start_gateway(
            upstream={"base_url": f"https://127.0.0.1:{port}/v1", "api_key": "sk-up"}
        )
        client = await gateway.connect()

        assert_typed(await client.request("GET", "/v1/models"), 502, "upstream_unreachable")


# Through a proxy.


class TinyProxy:
    """An HTTP proxy: forwards absolute-form requests, tunnels CONNECT, and remembers the heads it was sent."""

    def __init__(self, *, refuse: bytes = b"") -> None:
        self.heads: list[bytes] = []
        self._refuse = refuse

    async def __aenter__(self) -> TinyProxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self._refuse:
                writer.write(self._refuse)
                return
            method, target, _ = head.split(b" ", 2)
            authority = target if method == b"CONNECT" else target.split(b"/")[2]
            host, _, port = authority.decode().rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                far_writer.write(head.replace(b"http://" + authority, b"", 1))
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


async def test_a_plain_upstream_is_asked_through_the_proxy_in_absolute_form(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async with TinyProxy() as proxy:
        gateway = await start_gateway(
            upstream={
                "base_url": upstream.base_url,
                "api_key": "sk-up",
                "http_proxy": f"http://user:word@127.0.0.1:{proxy.port}",
            }
        )
        client = await gateway.connect()

        answer = await client.request("POST", "/v1/chat/completions?a=%41", CHAT, headers=JSON)

        assert (answer.status, answer.body) == (200, b"{}")
        host = f"127.0.0.1:{upstream.port}"
        lines = proxy.heads[0].split(b"\r\n")
        assert lines[0] == f"POST http://{host}/v1/chat/completions?a=%41 HTTP/1.1".encode()
        assert f"Host: {host}".encode() in lines
        assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk" in lines
        assert upstream.requests[0].body == CHAT


async def test_a_tls_upstream_is_reached_through_a_tunnel_that_hides_everything_from_the_proxy(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path, "good")
    async with TinyProxy() as proxy, tls_upstream(certificate) as (port, heads):
        gateway = await start_gateway(
            upstream={
                "base_url": f"https://127.0.0.1:{port}/v1",
                "api_key": "sk-up",
                "ca_file": str(certificate[0]),
                "http_proxy": f"http://user:word@127.0.0.1:{proxy.port}",
            }
        )
        client = await gateway.connect()

        for _ in range(3):
            assert (await client.request("GET", "/v1/models")).body == b"{}"

        assert [head.split(b"\r\n")[0] for head in proxy.heads] == [
            f"CONNECT 127.0.0.1:{port} HTTP/1.1".encode()
        ]
        assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk" in proxy.heads[0]
        assert b"sk-up" not in proxy.heads[0]
        assert len(heads) == 3
        assert all(head.startswith(b"GET /v1/models HTTP/1.1\r\n") for head in heads)
        assert not any(b"proxy-" in head.lower() for head in heads)


async def test_the_tunnel_does_not_excuse_a_bad_certificate(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    async with TinyProxy() as proxy, tls_upstream(make_certificate(tmp_path, "bad")) as (port, heads):
        gateway = await start_gateway(
            upstream={
                "base_url": f"https://127.0.0.1:{port}/v1",
                "api_key": "sk-up",
                "http_proxy": f"http://127.0.0.1:{proxy.port}",
            }
        )
        client = await gateway.connect()

        assert_typed(await client.request("GET", "/v1/models"), 502, "upstream_unreachable")
        assert heads == []


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"])
async def test_a_proxy_that_refuses_the_tunnel_is_a_502_about_the_upstream(
    status: str, start_gateway: StartGateway
) -> None:
    async with TinyProxy(refuse=f"HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\nsecret".encode()) as proxy:
        gateway = await start_gateway(
            upstream={
                "base_url": "https://127.0.0.1:1/v1",
                "api_key": "sk-up",
                "http_proxy": f"http://user:word@127.0.0.1:{proxy.port}",
            }
        )
        client = await gateway.connect()

        answer = await client.request("GET", "/v1/models")

        assert_typed(answer, 502, "upstream_unreachable")
        await gateway.lines.wait(1)
        for text in (answer.body, *gateway.lines.raw):
            assert b"word@" not in text
            assert b"dXNlcjp3b3Jk" not in text
            assert b"secret" not in text
