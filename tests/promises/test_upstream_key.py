"""The upstream's key never reaches a client, however the upstream writes it; and nothing else is withheld for it."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from urllib.parse import quote

import brotli
import orjson
import pytest
import zstandard

from tests.conftest import StartGateway
from tests.kit.asking import ask, assert_upstream_error
from tests.kit.client import CHAT, HANDSHAKE, JSON, QUESTION, RawAnswer
from tests.kit.gateway import Gateway
from tests.kit.upstream import Script, ScriptedUpstream, Turn
from tests.kit.websocket import CLOSE, TEXT, frame, open_session, read_frame, read_to_the_end

KEY = "sk-proj-Abc_123/+=TheGatewaysOwnKey"
QUOTING = orjson.dumps({"error": {"message": f"Failed for Bearer {KEY}, sorry", "code": "odd"}})
PLAIN = orjson.dumps({"error": {"message": "You may not use this region.", "code": "unsupported_region"}})


def raw_deflate(body: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(body) + compressor.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "GZIP": gzip.compress,
    "deflate": zlib.compress,
    "Deflate": raw_deflate,
    "br": brotli.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "gzip, br": lambda body: brotli.compress(gzip.compress(body)),
    "br, gzip, zstd": lambda body: zstandard.compress(gzip.compress(brotli.compress(body))),
    "identity, br": brotli.compress,
}


@pytest.fixture
async def gateway(start_gateway: StartGateway, upstream: ScriptedUpstream) -> Gateway:
    return await start_gateway(upstream={"base_url": upstream.base_url, "api_key": KEY})


def says(
    status: int,
    body: bytes,
    fields: str = "",
    *,
    content_type: str = "application/json",
    reason: str = "Said",
) -> Script:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n{fields}"
        await turn.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return script


async def chat(gateway: Gateway) -> RawAnswer:
    return await ask(gateway, "POST", CHAT, QUESTION, headers=JSON)


def shown(answer: RawAnswer) -> bytes:
    head = "\n".join((answer.reason, *(f"{name}: {value}" for name, value in answer.fields)))
    return head.encode() + b"\n\n" + answer.body


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("status", [400, 403, 500])
async def test_an_error_that_quotes_the_key_is_withheld_in_every_coding(
    status: int, coding: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    upstream.plays(says(status, CODINGS[coding](QUOTING), f"Content-Encoding: {coding}\r\n"))

    answer = await chat(gateway)

    assert_upstream_error(answer, 502, "upstream_refused_key")
    assert answer.get("x-should-retry") == "false"


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("status", [400, 403, 500])
async def test_an_error_about_something_else_passes_as_it_came(
    status: int, coding: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    body = CODINGS[coding](PLAIN)
    upstream.plays(says(status, body, f"Content-Encoding: {coding}\r\nRetry-After: 3\r\n"))

    answer = await chat(gateway)

    assert (answer.status, answer.body, answer.reason) == (status, body, "Said")
    assert (answer.get("content-encoding"), answer.get("retry-after")) == (coding, "3")


def escaped(text: str, *, form: str = "\\u{:04x}") -> str:
    return "".join(form.format(ord(character)) for character in text)


SPELLINGS = {
    "as it is": KEY,
    "with escaped slashes": KEY.replace("/", "\\/"),
    "with slashes escaped twice": KEY.replace("/", "\\\\/"),
    "its first letter escaped": escaped(KEY[0]) + KEY[1:],
    "every letter escaped": escaped(KEY),
    "in capital escapes": escaped(KEY, form="\\u{:04X}"),
    "in JSON within JSON": orjson.dumps(escaped(KEY)).decode()[1:-1],
    "as Python would": escaped(KEY, form="\\x{:02x}"),
    "percent encoded": quote(KEY, safe=""),
    "percent encoded throughout": escaped(KEY, form="%{:02X}"),
    "percent encoded twice": quote(quote(KEY, safe=""), safe=""),
    "in HTML": escaped(KEY, form="&#{};"),
    "in HTML by hex": escaped(KEY, form="&#x{:x};"),
    "in HTML in JSON": escaped(escaped(KEY[:5], form="&#x{:X};")) + KEY[5:],
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("place", ["body", "middle of a long body", "header", "reason"])
async def test_no_spelling_of_the_key_passes(
    place: str, spelling: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    text = SPELLINGS[spelling]
    padding = "x\\n" * 100_000 if place.startswith("middle") else ""
    body = f'{{"error":{{"message":"{padding} Bearer {text} {padding}"}}}}'.encode()
    match place:
        case "header":
            upstream.plays(says(400, PLAIN, f"X-Debug: Bearer {text}\r\nX-Other: fine\r\n"))
        case "reason":
            upstream.plays(says(400, PLAIN, reason=f"No {text}"))
        case _:
            upstream.plays(says(400, body))

    answer = await chat(gateway)

    assert text.encode() not in shown(answer)
    if place == "body":
        assert_upstream_error(answer, 502, "upstream_refused_key")
    elif place.startswith("middle"):
        assert not answer.clean_end
        assert len(answer.body) > 50_000
        assert text[:12].encode() not in answer.body
    else:
        assert (answer.status, answer.body) == (400, PLAIN)
        assert answer.get("x-debug") is None


@pytest.mark.parametrize("charset", ["utf-16", "utf-16-be"])
async def test_not_in_utf_16_either(charset: str, gateway: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.plays(says(500, QUOTING.decode().encode(charset), content_type=f"text/plain; charset={charset}"))

    assert_upstream_error(await chat(gateway), 502, "upstream_refused_key")


async def test_header_values_of_successes_and_redirects_are_searched_too(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for status in (200, 307):
        fields = f"X-Auth: {KEY}\r\nLocation: /v1/x?key={quote(KEY, safe='')}\r\nX-Other: a\\/b%20c\r\n"
        upstream.plays(says(status, b"{}", fields))

        answer = await chat(gateway)

        assert (answer.status, answer.body) == (status, b"{}")
        assert answer.get("x-auth") is answer.get("location") is None
        assert answer.get("x-other") == "a\\/b%20c"
    upstream.plays(says(307, QUOTING))
    assert_upstream_error(await chat(gateway), 502, "upstream_refused_key")


async def test_a_long_error_passes_whole_when_it_quotes_nothing(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    body = b'{"error":{"message":"' + b"you sent \\u0041 %41 &#65; \\\\ " * 40_000 + b'"}}'
    for content_type in ("application/json", "text/event-stream"):
        upstream.plays(says(422, body, content_type=content_type))

        answer = await chat(gateway)

        assert (answer.status, answer.body, answer.clean_end) == (422, body, True)
        assert answer.get("content-length") == str(len(body))


@pytest.mark.parametrize("status", [400, 403, 503])
@pytest.mark.parametrize(
    "coding", ["compress", "dcb", "br, compress", "gzip, gzip, gzip, gzip", "damaged", "bomb", "long"]
)
async def test_what_cannot_be_read_keeps_its_status_and_loses_its_body(
    coding: str, status: int, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """A plain 403 must not become something that SDKs send again."""
    body, name = QUOTING, coding
    match coding:
        case "damaged":
            body, name = gzip.compress(QUOTING)[:-12] + b"damaged bytes", "gzip"
        case "bomb":
            body, name = brotli.compress(b"\0" * 50_000_000 + QUOTING), "br"
        case "long":
            body, name = zlib.compress(QUOTING + bytes(range(256)) * 8192, level=0), "deflate"
    upstream.plays(says(status, body, f"Content-Encoding: {name}\r\nRetry-After: 3\r\nETag: x\r\n"))

    answer = await chat(gateway)

    assert (answer.status, answer.clean_end) == (status, True)
    error = orjson.loads(answer.body)["error"]
    assert (error["code"], error["type"]) == ("upstream_unread", "upstream_error")
    assert str(status) in error["message"]
    assert (answer.get("retry-after"), answer.get("etag"), answer.get("content-encoding")) == (
        "3",
        None,
        None,
    )
    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"]) == (status, "complete")
    upstream.plays(says(200, b"{}"))
    assert (await chat(gateway)).status == 200


@pytest.mark.parametrize("coding", ["", "br", "compress"])
async def test_any_401_is_about_the_key_read_or_not(
    coding: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    fields = f"Content-Encoding: {coding}\r\n" if coding else ""
    upstream.plays(says(401, PLAIN, fields))

    answer = await chat(gateway)

    assert_upstream_error(answer, 502, "upstream_refused_key")
    assert answer.get("x-should-retry") == "false"


@pytest.mark.parametrize("coding", ["", *CODINGS])
async def test_a_403_about_a_key_is_the_operators_and_no_other_is(
    coding: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    encode = CODINGS.get(coding, bytes)
    fields = f"Content-Encoding: {coding}\r\n" if coding else ""
    upstream.plays(says(403, encode(b'{"error":{"message":"This API key lacks the scope."}}'), fields))
    assert_upstream_error(await chat(gateway), 502, "upstream_refused_key")
    upstream.plays(says(403, encode(PLAIN), fields))
    assert (await chat(gateway)).status == 403


async def test_what_stands_for_no_key_is_none(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Servers that want none get a word for one, and say such words."""
    gateway = await start_gateway(upstream={"base_url": upstream.base_url, "api_key": "none"})
    body = b'{"detail":"none of the models is loaded"}'
    upstream.plays(says(404, body))

    answer = await chat(gateway)

    assert (answer.status, answer.body) == (404, body)


@pytest.mark.parametrize(
    "said", [QUOTING, b'{"code": "invalid_api_key", "message": "Incorrect API key provided: sk-p***Key."}']
)
async def test_a_handshake_shows_no_key_and_a_refusal_that_comes_as_an_event_ends_the_session(
    said: bytes, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for status in (101, 400):
        upstream.plays(says(status, QUOTING, f"X-Auth: {KEY}\r\n"))
        answer = await ask(gateway, "GET", "/v1/realtime?model=gpt-realtime", headers=HANDSHAKE)
        assert KEY.encode() not in shown(answer)
    session = await open_session(gateway, upstream)
    harmless = b'{"type":"response.text.delta","delta":"{\\"code\\":\\"invalid_api_key\\"}"}'
    await session.from_upstream(frame(TEXT, harmless, masked=False))
    assert (await read_frame(session.client.reader)).payload == harmless
    await session.from_upstream(frame(TEXT, b'{"type":"error","error":' + said + b"}", masked=False))

    seen = await read_to_the_end(session.client.reader)

    assert [(one.opcode, one.code) for one in seen] == [(CLOSE, 1011)]
    assert KEY.encode() not in b"".join(one.raw for one in seen)
    lines = await gateway.lines.wait(3)
    assert lines[2]["ending"] == "upstream_lost"
    assert "key" in lines[2]["detail"]
