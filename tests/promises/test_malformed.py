"""What could be misunderstood is refused, whole and at once: nothing of it reaches the upstream."""

from __future__ import annotations

import asyncio
import logging
from itertools import chain

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.client import RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream
from tests.promises.malformed_corpus import ACCEPTED, CLOSED, CREDENTIAL, FAMILIES, Case

ANSWER_SECONDS = 4.0


def test_the_corpus_is_large_and_its_ids_are_unique() -> None:
    ids = [case.id for case in chain(*FAMILIES.values())] + [case.id for case in ACCEPTED]

    assert len(ids) == len(set(ids))
    assert len(ids) - len(ACCEPTED) >= 200


@pytest.mark.parametrize("family", FAMILIES)
async def test_malformed_requests_are_refused_closed_and_never_forwarded(
    family: str,
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    gateway = await start_gateway(
        edge={"header_timeout_seconds": 2, "body_idle_timeout_seconds": 2},
        allow_uncontained=True,  # what is wrong is the handshake, not its path
    )
    caplog.set_level(logging.DEBUG)
    cases = FAMILIES[family]
    credential = gateway.credential().encode()

    answers = await asyncio.gather(*(_everything_until_closed(gateway, case, credential) for case in cases))
    problems = {
        case.id: problem
        for case, answer in zip(cases, answers, strict=True)
        if (problem := _problem(case, answer))
    }
    forwarded = {seen.get("x-case") or "unknown case": seen.raw_head for seen in upstream.requests}
    await asyncio.sleep(0.1)

    assert not forwarded, "\n".join(f"{case}: {head!r}" for case, head in forwarded.items())
    assert not problems, "\n".join(f"{case}: {problem}" for case, problem in problems.items())
    assert upstream.connections == 0
    lines = await gateway.lines.wait(len(cases))
    assert all(line["ending"] == "refused" for line in lines)
    assert len({line["request_id"] for line in lines}) == len(lines) == len(cases)
    assert not [line for line in gateway.lines.raw if credential in line]
    assert not [
        record
        for record in caplog.records
        if record.levelno >= logging.WARNING or record.exc_info or record.name.startswith("aiohttp")
    ]
    assert "Traceback" not in capfd.readouterr().err


def _problem(case: Case, answer: bytes | None) -> str:
    """What is wrong with how a case was refused; nothing when all is right."""
    if answer is None:
        return "the connection stays open"
    if not answer:
        return "" if CLOSED in case.statuses else "closed without an answer"
    return _wrong_answer(answer, case)


def _wrong_answer(answer: bytes, case: Case) -> str:
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.split(b"\r\n")
    version, status, *_ = status_line.split(b" ")
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        return f"answered as {version!r}"
    if int(status) not in case.statuses:
        return f"answered {int(status)} instead of {sorted(case.statuses)}: {body!r}"
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    if fields.get(b"content-length") != b"%d" % len(body):
        return f"more or less than one answer came: {answer!r}"
    if version == b"HTTP/1.1" and fields.get(b"connection") != b"close":
        return "the answer does not announce that the connection is closed"
    if not fields.get(b"x-gateway-request-id"):
        return "the answer has no request id"
    if fields.get(b"x-request-id") != fields[b"x-gateway-request-id"]:
        return "SDKs do not find the request id"
    try:
        error = orjson.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"not in the API's error shape: {body!r}"
    if error.keys() != {"message", "type", "param", "code"} or error["type"] != "invalid_request_error":
        return f"not in the API's error shape: {body!r}"
    return ""


async def _everything_until_closed(gateway: Gateway, case: Case, credential: bytes) -> bytes | None:
    """All that comes back until the gateway closes the connection; None when it does not."""
    client = await gateway.connect()
    received = bytearray()
    # The mark tells which case it was that reached the upstream.
    marked = case.data.replace(CREDENTIAL + b"\r\n", b"%b\r\nX-Case: %b\r\n" % (CREDENTIAL, case.id.encode()))
    try:
        await _send(client, marked.replace(CREDENTIAL, credential))
        async with asyncio.timeout(ANSWER_SECONDS):
            while piece := await client.reader.read(65536):
                received += piece
    except TimeoutError:
        return None
    except ConnectionError:
        pass  # a reset closes it too; what came before it still counts
    finally:
        await client.close()
    return bytes(received)


async def _send(client: RawClient, data: bytes) -> None:
    try:
        await client.send(data)
    except ConnectionError:
        pass  # refused while it was still being sent


async def test_arriving_in_crumbs_changes_no_verdict(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """A sample of every family, three bytes at a time: no defect hides behind the end of a piece."""
    sample = [case for cases in FAMILIES.values() for case in cases[::15] if len(case.data) < 3000]

    async def trickle(case: Case) -> str:
        client = await gateway.connect()
        reading = asyncio.create_task(client.reader.read(65536))
        data = case.data.replace(CREDENTIAL, client.credential.encode())
        for at in range(0, len(data), 3):
            if reading.done():
                break
            await _send(client, data[at : at + 3])
            await asyncio.sleep(0)
        try:
            answer = await asyncio.wait_for(reading, ANSWER_SECONDS)
        except ConnectionError:
            answer = b""
        status = int(answer.split(b" ", 2)[1]) if answer else CLOSED
        return "" if status in case.statuses else f"{case.id}: {status} instead of {sorted(case.statuses)}"

    problems = [problem for problem in await asyncio.gather(*map(trickle, sample)) if problem]

    assert not problems, "\n" + "\n".join(problems)
    assert upstream.connections == 0


async def test_odd_but_unambiguous_requests_are_served(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    for case in ACCEPTED:
        upstream.requests.clear()
        client = await gateway.connect()
        await client.send(case.data.replace(CREDENTIAL, client.credential.encode()))
        answer = await client.read_head()
        if answer.status == 100:
            answer = await client.read_head()

        assert answer.status == 200, (case.id, case.why)
        [seen] = upstream.requests
        assert (seen.target, seen.body) == (case.target, case.body), (case.id, case.why)


async def test_after_a_refusal_nothing_more_is_read_from_the_connection(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """A good request behind a bad one may be the bad one's body: it is not served."""
    client = await gateway.connect()
    good = client.request_bytes("GET", "/v1/models")
    bad = client.request_bytes("GET", "/v1/models", headers="Content-Length: 0\r\nContent-Length: 0\r\n")

    await client.send(bad + good + good)
    answer = await client.read_answer()

    assert answer.status == 400
    assert await client.reader.read() == b""
    await asyncio.sleep(0.1)
    assert upstream.connections == 0


async def test_a_malformed_request_behind_a_good_one_is_refused_in_its_turn(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()
    good = client.request_bytes("GET", "/v1/models")

    await client.send(good)
    first = await client.read_answer()
    await client.send(b"GET /v1/models HTTP/1.1\r\nHost : x\r\n\r\n" + good)
    second = await client.read_answer()

    assert (first.status, second.status) == (200, 400)
    assert await client.reader.read() == b""
    assert len(upstream.requests) == 1


async def test_good_requests_in_one_piece_with_a_bad_one_are_answered_if_and_only_if_they_were_made(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()
    good = client.request_bytes("POST", "/v1/unlisted", b"x")

    await client.send(good + good + b"GET /v1/models HTTP/1.1\r\nHost : x\r\n\r\n" + good)
    received = await client.reader.read()

    assert received.count(b"HTTP/1.1 200 ") == len(upstream.requests) <= 2
    assert received.count(b"HTTP/1.1 400 ") == 1


@pytest.mark.parametrize("bad", [b"xyz\r\n", b"3\r\nabcX", b"0\r\nX : 1\r\n\r\n"])
async def test_broken_framing_behind_the_head_is_refused_when_it_comes_and_not_by_a_deadline(
    bad: bytes, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for target, kind in (("/v1/chat/completions", "application/json"), ("/v1/files", "text/plain")):
        client = await gateway.connect()
        client.timeout_seconds = 3
        framed = f"Content-Type: {kind}\r\nTransfer-Encoding: chunked\r\n"
        await client.send(client.request_bytes("POST", target, headers=framed))
        await asyncio.sleep(0.05)

        await client.send(bad)
        answer = await client.read_answer()

        assert answer.status == 400
        assert await client.closed()
    assert all(not seen.complete for seen in upstream.requests)
    assert await upstream.all_closed()
