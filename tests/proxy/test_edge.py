"""At the door: what is refused before it costs anything, within which deadlines and caps, and in whose words."""

from __future__ import annotations

import asyncio
import resource
from time import monotonic

import pytest

from tests.conftest import StartGateway
from tests.kit.asking import assert_refused
from tests.kit.client import JSON, PLAIN, QUESTION
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


# Deadlines.


@pytest.mark.parametrize("step_seconds", [0.0, 0.05], ids=["silent", "dripping"])
async def test_a_head_that_is_not_complete_in_time_is_answered_408(
    step_seconds: float, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Single bytes do not buy more time."""
    gateway = await start_gateway(edge={"header_timeout_seconds": 0.4})
    client = await gateway.connect()
    began = monotonic()
    await client.send(b"GET /v1/models HTTP/1.1\r\nHost: gateway.test\r\nX-Slow: ")
    reading = asyncio.create_task(client.read_answer())
    while step_seconds and not reading.done() and monotonic() - began < 3:
        await client.send(b"a")
        await asyncio.sleep(step_seconds)

    answer = await reading

    assert_refused(answer, 408, "request_timeout")
    assert answer.get("connection") == "close"
    assert 0.35 < monotonic() - began < 2.0
    assert await client.closed()
    assert upstream.connections == 0
    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"], line["error"]) == (408, "refused", "request_timeout")


async def test_the_header_deadline_holds_for_every_request_of_a_connection(
    start_gateway: StartGateway,
) -> None:
    gateway = await start_gateway(edge={"header_timeout_seconds": 0.3})
    client = await gateway.connect()
    for _ in range(2):
        assert (await client.request("GET", "/v1/models")).status == 200
        await asyncio.sleep(0.5)  # between requests only the keep-alive limit runs

    await client.send(b"GET /v1/models HTTP/1.1\r\nHo")

    assert_refused(await client.read_answer(), 408, "request_timeout")
    assert await client.closed()


async def test_a_slow_answer_is_not_bound_by_the_header_deadline(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        edge={"header_timeout_seconds": 0.2, "body_idle_timeout_seconds": 0.2, "keepalive_seconds": 0.2}
    )

    async def slow(turn: Turn) -> None:
        await turn.read_body()
        await asyncio.sleep(0.6)
        await turn.send(OK)

    upstream.plays(slow)
    client = await gateway.connect()

    assert (await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)).status == 200


KINDS = {"/v1/chat/completions": JSON, "/v1/files": PLAIN}
"""An operation whose body is read whole, and one whose body streams."""


async def test_a_body_that_stops_is_answered_408_and_the_upstream_let_go(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"body_idle_timeout_seconds": 0.3})

    async def stop(target: str, framing: str) -> None:
        client = await gateway.connect()
        await client.send(
            client.request_bytes("POST", target, headers=KINDS[target] + framing) + b"5\r\nhello\r\n"
        )
        answer = await client.read_answer()

        assert_refused(answer, 408, "request_timeout")
        assert answer.get("connection") == "close"
        assert await client.closed()

    framings = ("Content-Length: 100\r\n", "Transfer-Encoding: chunked\r\n")
    await asyncio.gather(*(stop(target, framing) for target in KINDS for framing in framings))

    assert await upstream.all_closed()
    assert len(upstream.requests) == 2
    assert not any(seen.complete for seen in upstream.requests)
    assert {(line["status"], line["ending"]) for line in await gateway.lines.wait(4)} == {(408, "refused")}


async def test_a_body_that_keeps_coming_has_all_the_time_it_needs(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"body_idle_timeout_seconds": 0.3})
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", "/v1/files", headers=PLAIN + "Content-Length: 8\r\n"))
    for _ in range(8):
        await asyncio.sleep(0.1)
        await client.send(b"x")

    assert (await client.read_answer()).status == 200
    assert upstream.requests[0].body == b"x" * 8


async def test_an_idle_connection_is_closed_without_a_word(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(edge={"keepalive_seconds": 0.3})
    fresh, used = await gateway.connect(), await gateway.connect()
    await used.request("GET", "/v1/models")
    began = monotonic()

    assert await fresh.reader.read() == b""
    assert await used.reader.read() == b""
    assert monotonic() - began < 2.5
    assert len(gateway.lines.raw) <= 1


# Caps.


async def test_above_the_connection_cap_everybody_is_told_to_come_back(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"max_connections": 3, "peer_share": 1.0})
    inside = [await gateway.connect() for _ in range(3)]
    for client in inside:
        assert (await client.request("GET", "/v1/models")).status == 200
    outside = await gateway.connect()

    await outside.send(outside.request_bytes("GET", "/v1/models"))
    answer = await outside.read_answer()

    assert_refused(answer, 503, "overloaded")
    assert answer.get("retry-after")
    assert answer.get("connection") == "close"
    assert await outside.closed()
    assert len(upstream.requests) == 3
    assert (await gateway.lines.wait(4))[-1]["status"] == 503
    assert (await inside[0].request("GET", "/v1/models")).status == 200
    await outside.close()
    await inside[0].close()
    await asyncio.sleep(0.1)
    assert (await (await gateway.connect()).request("GET", "/v1/models")).status == 200


async def test_the_connection_cap_leaves_half_of_the_files_for_the_upstream(gateway: Gateway) -> None:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert gateway.app.server is not None
    assert 0 < gateway.app.server.state.clients.most < files / 2


async def test_the_header_cap_is_where_the_setting_says(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(edge={"max_header_bytes": 4096})
    base = (await gateway.connect()).request_bytes("GET", "/v1/models")
    room = 4096 - len(base) - len("X-Pad: \r\n")
    fits, exceeds = await gateway.connect(), await gateway.connect()

    assert (await fits.request("GET", "/v1/models", headers=f"X-Pad: {'a' * (room - 50)}\r\n")).status == 200
    assert_refused(
        await exceeds.request("GET", "/v1/models", headers=f"X-Pad: {'a' * (room + 100)}\r\n"),
        431,
        "headers_too_large",
    )
    assert await exceeds.closed()


@pytest.mark.parametrize(("target", "kind"), KINDS.items(), ids=["whole", "streamed"])
async def test_a_body_above_its_cap_is_refused_by_its_length_or_when_it_gets_there(
    target: str, kind: str, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(edge={"max_json_body_bytes": 1000, "max_body_bytes": 1000})
    by_length, by_count, fits = [await gateway.connect() for _ in range(3)]
    body = b'{"model":"m"}'.ljust(1001)

    await by_length.send(by_length.request_bytes("POST", target, headers=f"{kind}Content-Length: 1001\r\n"))
    assert_refused(await by_length.read_answer(), 413, "request_too_large")
    assert upstream.connections == 0
    await by_count.send(
        by_count.request_bytes("POST", target, headers=f"{kind}Transfer-Encoding: chunked\r\n")
        + b"200\r\n%b\r\n1e9\r\n%b\r\n0\r\n\r\n" % (body[:512], body[512:])
    )
    assert_refused(await by_count.read_answer(), 413, "request_too_large")
    assert not any(seen.complete for seen in upstream.requests)
    assert (await fits.request("POST", target, body[:1000], headers=kind)).status == 200
    assert await by_length.closed()


# Expect: 100-continue.

UPLOAD_BYTES = 25 * 2**20


REFUSALS = [
    (401, "missing_api_key"),
    (401, "invalid_api_key"),
    (403, "missing_scope"),
    (413, "request_too_large"),
    (429, "rate_limit_exceeded"),
    (400, "ambiguous_target"),
    (404, "not_found"),
]


async def test_a_refused_upload_costs_its_client_no_byte(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        tenants={
            "acme": {},
            "busy": {
                "limits": {"max_requests_per_1_minute": 1},
                "upstream": {"api_key": "sk-busy"},
                "stored_objects": "own",
            },
        },
        edge={"max_body_bytes": UPLOAD_BYTES, "max_json_body_bytes": UPLOAD_BYTES},
    )
    busy = await gateway.connect()
    busy.credential = gateway.credential(tenant="busy")
    assert (await busy.request("GET", "/v1/models")).status == 200

    async def upload(target: str, status: int, code: str) -> None:
        client = await gateway.connect()
        asked, size = target, UPLOAD_BYTES
        match status:
            case 401:
                client.credential = "sk-somebody-elses"
            case 403:
                client.credential = gateway.credential(["models:read"])
            case 413:
                size += 1
            case 429:
                client.credential = busy.credential
            case 400:
                asked = target.replace("/v1/", "/v1/x/../")
            case 404:
                asked = "/elsewhere"
        headers = f"{KINDS[target]}Content-Length: {size}\r\nExpect: 100-continue\r\n"
        head = client.request_bytes("POST", asked, headers=headers)
        if code == "missing_api_key":
            head = head.replace(b"Authorization", b"X-Nothing")

        await client.send(head)
        assert_refused(await client.read_answer(), status, code)
        # What a client sends next could be its body or a new request: it is never taken for the latter.
        client.credential = gateway.credential()
        try:
            await client.send(client.request_bytes("GET", "/v1/models"))
        except ConnectionError:
            pass
        assert await client.closed()

    await asyncio.gather(*(upload(target, *refusal) for target in KINDS for refusal in REFUSALS))

    assert len(upstream.requests) == 1


async def test_an_accepted_upload_is_invited_after_the_decision_and_not_by_the_upstream(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {"limits": {"max_requests_per_1_minute": 100}}})
    for target, kind in KINDS.items():
        client = await gateway.connect()
        headers = f"{kind}Content-Length: {len(QUESTION)}\r\nExpect: 100-continue\r\n"
        await client.send(client.request_bytes("POST", target, headers=headers))

        assert await asyncio.wait_for(client.reader.readexactly(len(CONTINUE)), 2) == CONTINUE
        await client.send(QUESTION)
        answer = await client.read_answer()

        assert (answer.status, answer.body) == (200, b"{}")
        assert upstream.requests[-1].body == QUESTION
        assert upstream.requests[-1].get("expect") is None


async def test_a_body_sent_without_waiting_is_taken_all_the_same(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()

    await client.send(
        client.request_bytes("POST", "/v1/files", b"hello", headers=PLAIN + "Expect: 100-continue\r\n")
    )
    interim = await client.read_head()
    answer = await client.read_answer() if interim.status == 100 else interim

    assert answer.status == 200
    assert upstream.requests[0].body == b"hello"


async def test_http10_and_requests_without_a_body_are_never_invited(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    old, empty = await gateway.connect(), await gateway.connect()

    first = await old.request(
        "POST", "/v1/files", b"hello", headers=PLAIN + "Expect: 100-continue\r\n", version="HTTP/1.0"
    )
    second = await empty.request("GET", "/v1/models", headers="Expect: 100-continue\r\n")

    assert (first.status, second.status) == (200, 200)
    assert all(seen.get("expect") is None for seen in upstream.requests)


# Keep-alive, pipelining.


async def test_pipelined_requests_are_answered_in_their_order(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def slowest_first(turn: Turn) -> None:
        await turn.read_body()
        number = turn.seen.target[-1:]
        await asyncio.sleep({"1": 0.3, "2": 0.1, "3": 0}[number])
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + number.encode())

    upstream.plays(slowest_first)
    client = await gateway.connect()
    await client.send(
        client.request_bytes("GET", "/v1/models?1")
        + client.request_bytes("POST", "/v1/chat/completions?2", QUESTION, headers=JSON)
        + client.request_bytes("GET", "/v1/models?3")
    )

    answers = [await client.read_answer() for _ in range(3)]

    assert [answer.body for answer in answers] == [b"1", b"2", b"3"]
    assert [seen.target[-1] for seen in upstream.requests] == ["1", "2", "3"]
    assert upstream.requests[1].body == QUESTION


async def test_a_hundred_requests_in_one_piece_are_all_answered(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()

    await client.send(b"".join(client.request_bytes("GET", f"/v1/models?{number}") for number in range(100)))
    answers = [await client.read_answer() for _ in range(100)]

    assert all((answer.status, answer.body) == (200, b"{}") for answer in answers)
    assert [seen.target for seen in upstream.requests] == [f"/v1/models?{number}" for number in range(100)]


async def test_nothing_is_served_behind_a_request_that_closes(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()

    await client.send(
        client.request_bytes("GET", "/v1/models?1", headers="Connection: close\r\n")
        + client.request_bytes("POST", "/v1/chat/completions?2", QUESTION, headers=JSON)
    )

    answer = await client.read_answer()

    # The parser may refuse the whole piece; then nothing of it has been done.
    assert [seen.target for seen in upstream.requests] == (["/v1/models?1"] if answer.status == 200 else [])
    assert answer.status in (200, 400)
    assert await client.closed()


async def test_an_empty_line_behind_a_body_does_not_cut_the_answer_to_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Old clients send one, and a server ignores it (RFC 9112, 2.2)."""
    gateway = await start_gateway(edge={"header_timeout_seconds": 0.3})

    async def slow(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await asyncio.sleep(0.8)
        await turn.send(b"later")

    upstream.plays(slow)
    client = await gateway.connect()
    await client.send(client.request_bytes("POST", "/v1/chat/completions", QUESTION, headers=JSON))
    await asyncio.sleep(0.05)
    await client.send(b"\r\n")

    answer = await client.read_answer()

    assert (answer.status, answer.body, answer.clean_end) == (200, b"firstlater", True)


async def test_large_heads_within_the_cap_pass_both_ways(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upward = "".join(f"X-Up-{number}: {'u' * 15_000}\r\n" for number in range(3))
    downward = "".join(f"X-Down-{number}: {'d' * 30_000}\r\n" for number in range(3))
    many = "".join(f"X-Many-{number}: m\r\n" for number in range(200))

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(f"HTTP/1.1 200 OK\r\n{downward}{many}Content-Length: 2\r\n\r\n{{}}".encode())

    upstream.plays(script)
    client = await gateway.connect()

    answer = await client.request("GET", "/v1/models", headers=upward + many)

    assert answer.status == 200
    assert all(answer.get(f"x-down-{number}") == "d" * 30_000 for number in range(3))
    assert all(upstream.requests[0].get(f"x-up-{number}") == "u" * 15_000 for number in range(3))
    assert len([name for name, _ in answer.fields if name.startswith("X-Many")]) == 200
    assert len([name for name, _ in upstream.requests[0].fields if name.startswith("X-Many")]) == 200


async def test_a_refusal_of_what_was_asked_keeps_the_connection_for_the_next_request(
    gateway: Gateway,
) -> None:
    """Only what may have been misread closes it."""
    client = await gateway.connect()
    good = client.credential
    for target, credential, status in (
        ("/elsewhere", good, 404),
        ("/v1/models", "nobody", 401),
        ("/v1/models", gateway.credential(["files:read"]), 403),
    ):
        client.credential = credential
        assert (await client.request("GET", target)).status == status
    client.credential = good

    assert (await client.request("GET", "/v1/models")).status == 200


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
        b"GET / HTTP/1.1\r\nHo st: x\r\n\r\n",
    ],
    ids=["noise", "bomb", "malformed"],
)
async def test_garbage_behind_a_request_never_gets_into_its_answer(
    garbage: bytes, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def two_pieces(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst")
        await turn.wait_for("garbage sent")
        await turn.send(b"later")

    upstream.plays(two_pieces)
    client = await gateway.connect()
    await client.send(client.request_bytes("GET", "/v1/models"))
    answer = await client.read_head()
    assert await client.reader.readexactly(5) == b"first"
    await client.send(garbage)
    await asyncio.sleep(0.1)
    upstream.gate("garbage sent").set()

    try:
        rest = await asyncio.wait_for(client.reader.read(5), 5)
    except ConnectionError:
        rest = b""
    assert answer.get("content-length") == "10"
    assert rest in (b"later", b"")
    assert await client.closed()
    assert len(upstream.requests) == 1


async def test_options_needs_a_credential_like_any_method(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()
    client.credential = "nobody"

    answer = await client.request(
        "OPTIONS",
        "/v1/chat/completions",
        headers="Origin: https://a.test\r\nAccess-Control-Request-Method: POST\r\n",
    )

    assert answer.status == 401
    assert not [name for name, _ in answer.fields if name.lower().startswith("access-control-")]
    assert upstream.connections == 0
