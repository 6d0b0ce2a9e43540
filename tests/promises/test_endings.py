"""However an upstream dies, its answer does not look whole; however a client leaves, nothing is left behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import product
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.asking import assert_upstream_error
from tests.kit.client import JSON, STREAMED_QUESTION, RawAnswer, RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.promises.leaving import all_of

EVENTS = [b'data: {"n":1}\n\n', b'data: {"n":2}\n\n', b"data: [DONE]\n\n"]
BODY = b"".join(EVENTS)

STATUS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
HEADS = {
    "chunked": STATUS + b"Transfer-Encoding: chunked\r\n\r\n",
    "length": STATUS + b"Content-Length: %d\r\n\r\n" % len(BODY),
    "close": STATUS + b"\r\n",
}
CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in EVENTS) + b"0\r\n\r\n"
WHOLE = {
    "chunked": HEADS["chunked"] + CHUNKS,
    "length": HEADS["length"] + BODY,
    "close": HEADS["close"] + BODY,
}
VERSIONS = ("HTTP/1.1", "HTTP/1.0")


async def cut_as_told(turn: Turn) -> None:
    """Answer in the framing, up to the byte, and by the death that the query names."""
    await turn.read_body()
    told = {name: values[0] for name, values in parse_qs(urlsplit(turn.seen.target).query).items()}
    whole = WHOLE[told["framing"]]
    if "at" not in told:
        await turn.send(whole)
        if told["framing"] == "close":
            turn.close()
        return
    if told["at"] != "0":
        await turn.send(whole[: int(told["at"])])
    match told["by"]:
        case "fin":
            turn.close()
        case "rst":
            turn.reset()
        case "silence":
            await turn.gone()


async def ask(client: RawClient, version: str, query: str) -> RawAnswer:
    """One request by POST, and its answer, however it ends."""
    await client.send(
        client.request_bytes(
            "POST", f"/v1/chat/completions?{query}", STREAMED_QUESTION, headers=JSON, version=version
        )
    )
    return await client.read_answer()


async def endings(gateway: Gateway, count: int) -> Counter[str]:
    """How the first `count` exchanges and any that followed have ended; waits until they have."""
    await gateway.lines.wait(count)
    await asyncio.sleep(0.1)
    return Counter(line["ending"] for line in await gateway.lines.wait(count))


async def assert_broken(gateway: Gateway, version: str, framing: str, at: int, by: str) -> None:
    """One answer cut at a byte is seen to be broken, and nothing foreign follows on its connection."""
    case = f"{version} {framing} cut at {at} of {len(WHOLE[framing])} by {by}"
    client = await gateway.connect()
    try:
        answer = await ask(client, version, f"framing={framing}&at={at}&by={by}")
    except asyncio.IncompleteReadError as nothing:
        raise AssertionError(f"{case}: no answer at all") from nothing
    except ConnectionResetError:
        # HTTP/1.0 knows no other sign, and it may overtake what came before it.
        assert version == "HTTP/1.0", case
        assert at >= len(HEADS[framing]), case
        return

    if answer.status != 200:
        assert at < len(HEADS[framing]), case
        if by == "silence":
            assert_upstream_error(answer, 504, "upstream_timeout")
        else:
            assert_upstream_error(answer, 502, "upstream_broken")
        if version == "HTTP/1.1":
            following = await ask(client, version, "framing=chunked")
            assert (following.status, following.body) == (200, BODY), case
    else:
        assert not answer.clean_end, case
        assert BODY.startswith(answer.body), case
        try:
            assert await client.reader.read() == b"", case
        except ConnectionResetError:
            pass
    await client.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("by", ["fin", "rst"])
async def test_an_answer_cut_at_any_byte_never_looks_whole(
    by: str, version: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(cut_as_told)
    positions = range(len(WHOLE["chunked"]))

    await all_of(assert_broken(gateway, version, "chunked", at, by) for at in positions)

    ended = await endings(gateway, len(positions))
    assert ended["upstream_lost"] == len(positions)
    assert set(ended) <= {"upstream_lost", "complete"}
    assert gateway.upstream_connections("busy") == 0


def moments(framing: str) -> list[int]:
    """Before the head, inside it, right behind it, inside an event, between two."""
    head = len(HEADS[framing])
    return [0, 20, head - 2, head, head + 12, head + len(EVENTS[0])]


@pytest.mark.parametrize("by", ["fin", "rst", "silence"])
async def test_every_death_in_every_framing_is_seen(
    by: str, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        upstream={
            "base_url": upstream.base_url,
            "api_key": "sk-up",
            "first_byte_timeout_seconds": 0.3,
            "idle_timeout_seconds": 0.3,
        }
    )
    upstream.plays(cut_as_told)
    cases = [
        (version, framing, at)
        for version, framing in product(VERSIONS, HEADS)
        for at in moments(framing)
        # A body that ends with its connection and between two events has ended properly.
        if not (framing == "close" and by == "fin" and at in (len(HEADS[framing]), moments(framing)[-1]))
    ]

    await all_of(assert_broken(gateway, version, framing, at, by) for version, framing, at in cases)

    ended = await endings(gateway, len(cases))
    assert ended["timed_out" if by == "silence" else "upstream_lost"] == len(cases)
    assert await upstream.all_closed() or gateway.upstream_connections("idle") == upstream.open_connections


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_stream_that_ends_with_its_connection_inside_a_line_is_broken(
    version: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """FIN is all that such an upstream ever says; a line without its end says the rest."""
    upstream.plays(cut_as_told)
    head = len(HEADS["close"])
    whole = WHOLE["close"]
    inside = [at for at in range(head + 1, len(whole)) if whole[at - 1 : at] != b"\n"]

    await all_of(assert_broken(gateway, version, "close", at, "fin") for at in inside)

    lines = await gateway.lines.wait(len(inside))
    assert {line["ending"] for line in lines} == {"upstream_lost"}


async def test_a_body_that_ends_with_its_connection_is_whole_when_its_end_is_a_fin(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(cut_as_told)
    for version in VERSIONS:
        client = await gateway.connect()
        answer = await ask(client, version, "framing=close")

        assert (answer.status, answer.body, answer.clean_end) == (200, BODY, True)
    assert {line["ending"] for line in await gateway.lines.wait(2)} == {"complete"}


async def test_a_truncated_length_never_lets_the_next_answer_in(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """The bytes that a short answer still owes must not be taken from the next one."""
    upstream.plays(cut_as_told)
    client = await gateway.connect()
    first = client.request_bytes(
        "POST",
        f"/v1/chat/completions?framing=length&at={len(HEADS['length']) + 5}&by=fin",
        STREAMED_QUESTION,
        headers=JSON,
    )
    second = client.request_bytes(
        "POST", "/v1/chat/completions?framing=length", STREAMED_QUESTION, headers=JSON
    )

    await client.send(first + second)
    answer = await client.read_head()
    rest = await client.reader.read()

    assert answer.get("content-length") == str(len(BODY))
    assert rest == BODY[:5]


async def test_an_exchange_that_ended_badly_takes_its_upstream_connection_with_it(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """The upstream stays alive and would go on: nobody shares what comes next on that connection."""
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url, "api_key": "sk-up", "first_byte_timeout_seconds": 0.3}
    )

    async def late(turn: Turn) -> None:
        await turn.read_body()
        if turn.seen.target.endswith("late"):
            await asyncio.sleep(0.6)
            await turn.send(OK.replace(b"{}", b"!!"))
        else:
            await turn.send(OK)

    upstream.plays(late)
    client = await gateway.connect()
    first = await client.request("GET", "/v1/models?late")
    assert_upstream_error(first, 504, "upstream_timeout")
    for _ in range(3):
        assert (await client.request("GET", "/v1/models")).body == b"{}"
        await asyncio.sleep(0.15)

    spoiled = upstream.requests[0].connection
    assert all(seen.connection != spoiled for seen in upstream.requests[1:])


UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
GARBAGE: dict[str, bytes] = {
    "words": b"what is this\r\n\r\n",
    "empty lines": b"\r\n\r\n\r\n\r\n",
    "zeros": bytes(64),
    "tls alert": bytes.fromhex("15030300020228"),
    "http2 settings": bytes.fromhex("000000040000000000"),
    "a request": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "status of letters": b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
    "length and coding": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "coding and length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "gzip as transfer coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "unknown transfer coding": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n",
    "two transfer codings": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"
    b"0\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
    "list of lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc",
    "negative length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "length of letters": b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nab",
    "length beyond 64 bits": b"HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618\r\n\r\nab",
    "name with a space": b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 0\r\n\r\n",
    "nul in a value": b"HTTP/1.1 200 OK\r\nX-A: \x00\r\nContent-Length: 0\r\n\r\n",
    "bare cr in a value": b"HTTP/1.1 200 OK\r\nX-A: b\rX-B: c\r\nContent-Length: 0\r\n\r\n",
    "1 MiB of headers": b"HTTP/1.1 200 OK\r\n"
    + b"".join(b"X-%d: %b\r\n" % (n, b"a" * 1000) for n in range(1050)),
    "one header of 1 MiB": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 2**20 + b"\r\n\r\n",
    "endless header": b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 2**16,
    "unasked upgrade": UPGRADED + b"websocket\r\n\r\n\x81\x01a",
    "unasked other upgrade": UPGRADED + b"h2c\r\n\r\n",
    "endless interim answers": INTERIM * 500,
}


@pytest.mark.parametrize("kind", GARBAGE)
async def test_what_is_no_answer_becomes_a_typed_502(
    kind: str,
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    gateway = await start_gateway(
        upstream={
            "base_url": upstream.base_url,
            "api_key": "sk-up",
            "first_byte_timeout_seconds": 5,
            "total_timeout_seconds": 5,
        }
    )

    async def garbage(turn: Turn) -> None:
        await turn.read_body()
        if turn.seen.target == "/v1/models":
            await turn.send(OK)
            return
        await turn.send(GARBAGE[kind])
        while kind.startswith("endless"):
            await turn.send(GARBAGE[kind])
        if kind != "zeros":
            turn.close()

    upstream.plays(garbage)
    client = await gateway.connect()

    answer = await client.request("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON)
    following = await client.request("GET", "/v1/models")

    assert_upstream_error(answer, 502, "upstream_broken")
    assert (following.status, following.body) == (200, b"{}")
    assert upstream.requests[1].connection != upstream.requests[0].connection
    [line, _] = await gateway.lines.wait(2)
    assert (line["status"], line["ending"], line["error"]) == (502, "upstream_lost", "upstream_broken")
    assert not [record for record in caplog.records if record.exc_info or record.name.startswith("aiohttp")]
    assert "Traceback" not in capfd.readouterr().err


BAD_BODIES: dict[str, bytes] = {
    "chunk size of letters": HEADS["chunked"] + b"5\r\ndata:\r\nxyz\r\n",
    "chunk longer than it says": HEADS["chunked"] + b"5\r\ndata: 1\r\n0\r\n\r\n",
    "chunk size beyond 64 bits": HEADS["chunked"] + b"5\r\ndata:\r\nfffffffffffffffff\r\na",
    "negative chunk": HEADS["chunked"] + b"5\r\ndata:\r\n-1\r\n",
}


@pytest.mark.parametrize("kind", BAD_BODIES)
async def test_an_answer_whose_framing_breaks_midway_is_broken_for_the_client(
    kind: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    head, _, rest = BAD_BODIES[kind].partition(b"\r\n\r\n")

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(head + b"\r\n\r\n")
        await turn.wait_for("head seen")
        await turn.send(rest)
        await turn.gone()

    upstream.plays(script)
    client = await gateway.connect()
    client.timeout_seconds = 3
    await client.send(client.request_bytes("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=JSON))
    answer = await client.read_head()
    upstream.gate("head seen").set()
    await client.read_body(answer)

    assert (answer.status, answer.clean_end) == (200, False)
    assert b"data:".startswith(answer.body)
    assert await client.closed()
    assert await upstream.all_closed()
    assert (await gateway.lines.wait(1))[0]["ending"] == "upstream_lost"


async def test_a_body_where_none_belongs_never_reaches_the_client(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """An upstream that sends a body to HEAD, 204 or 304 has spoiled its connection, not the client's."""
    statuses = {"head": b"200 OK", "none": b"204 No Content", "same": b"304 Not Modified"}

    async def script(turn: Turn) -> None:
        await turn.read_body()
        told = turn.seen.target.rpartition("?")[2]
        if told not in statuses:
            await turn.send(OK)
            return
        await turn.send(b"HTTP/1.1 %b\r\nContent-Length: 6\r\n\r\nforged" % statuses[told])

    upstream.plays(script)
    for told in statuses:
        client = await gateway.connect()
        method = "HEAD" if told == "head" else "GET"
        answer = await client.request(method, f"/v1/models?{told}")
        following = await client.request("GET", "/v1/models")

        if answer.status == 502:
            assert method == "HEAD" or orjson.loads(answer.body)["error"]["code"] == "upstream_broken"
        else:
            assert (answer.status, answer.body) == (int(statuses[told][:3]), b"")
        assert (following.status, following.body) == (200, b"{}")
    connections = [seen.connection for seen in upstream.requests]
    assert all(
        spoiled != next_one for spoiled, next_one in zip(connections[::2], connections[1::2], strict=True)
    )


async def test_an_answer_longer_than_it_said_spoils_only_its_own_connection(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(OK + OK.replace(b"{}", b"!!"))

    upstream.plays(script)
    client = await gateway.connect()

    answers = [await client.request("GET", "/v1/models") for _ in range(3)]

    assert {answer.status for answer in answers} <= {200, 502}
    assert all(answer.body == b"{}" for answer in answers if answer.status == 200)
    assert len({seen.connection for seen in upstream.requests}) == 3
