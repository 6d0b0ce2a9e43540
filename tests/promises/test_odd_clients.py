"""What real clients send and HTTP allows is served; what is refused is refused by the status that HTTP has for it."""

from __future__ import annotations

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.asking import assert_refused
from tests.kit.client import CHAT, JSON, PLAIN, QUESTION, RawAnswer
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream

H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQBAAAAAAIAAAAA\r\n"
"""What the JDK's HttpClient and `curl --http2` send with their first request."""


# Upgrades that are not spoken here.


async def test_a_connection_that_asked_for_http2_goes_on_in_http1(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()
    for _ in range(3):  # of a head that comes again not everything is asked again
        assert (await client.request("POST", CHAT, QUESTION, headers=JSON + H2C)).status == 200
        assert (await client.request("GET", "/v1/models", headers=H2C)).status == 200
        assert (await client.request("POST", "/v1/files", b"x" * 100_000, headers=PLAIN + H2C)).status == 200

    assert [len(seen.body) for seen in upstream.requests] == [len(QUESTION), 0, 100_000] * 3
    heads = b"".join(seen.raw_head.lower() for seen in upstream.requests)
    assert b"h2c" not in heads
    assert b"http2-settings" not in heads


@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("step", [1, 70, 10_000])
async def test_what_stands_behind_such_a_request_is_the_next_one(
    framing: str, step: int, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()
    first = client.request_bytes("POST", CHAT, QUESTION, headers=JSON + H2C)
    if framing == "chunks":
        head, _, body = first.partition(b"\r\n\r\n")
        head = head.replace(b"Content-Length: %d" % len(QUESTION), b"Transfer-Encoding: chunked")
        first = head + b"\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    both = first + client.request_bytes("GET", "/v1/models")

    for at in range(0, len(both), step):
        await client.send(both[at : at + step])
    answers = [await client.read_answer(), await client.read_answer()]

    assert [answer.status for answer in answers] == [200, 200]
    assert [(seen.target, seen.body) for seen in upstream.requests] == [(CHAT, QUESTION), ("/v1/models", b"")]


async def test_a_health_check_that_asks_for_http2_keeps_its_connection(gateway: Gateway) -> None:
    client = await gateway.connect()
    for _ in range(2):
        assert (await client.request("GET", "/gateway/livez", headers=H2C)).status == 200


# Statuses.


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_a_method_that_is_never_forwarded_is_answered_with_those_that_are(
    method: str, gateway: Gateway
) -> None:
    client = await gateway.connect()

    answer = await client.request(method, "/v1/models")

    assert_refused(answer, 405, "method_not_allowed")
    assert answer.get("allow") == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(
    ("line", "more", "status", "code"),
    [
        ("FROBNICATE /v1/models HTTP/1.1", "", 501, "method_unknown"),
        ("get /v1/models HTTP/1.1", "", 501, "method_unknown"),
        (f"GET /v1/models?{'a' * 20_000} HTTP/1.1", "", 414, "target_too_long"),
        (f"GET /v1/models?{'a' * 9000} HTTP/1.1", "", 414, "target_too_long"),
        (f"GET /v1/{'a' * 3000} HTTP/1.1", "", 414, "target_too_long"),
        ("GET /v1/models HTTP/1.1", f"X-Long: {'a' * 20_000}\r\n", 431, "headers_too_large"),
        ("GET /v1/models HTTP/1.1", "X-Many: a\r\n" * 300, 431, "headers_too_large"),
        ("GET /v1/models HTTP/1.1", f"X-Long: {'a' * 15_000}\r\n" * 5, 431, "headers_too_large"),
    ],
)
async def test_a_head_that_cannot_be_served_is_refused_by_the_status_that_says_why(
    line: str, more: str, status: int, code: str, pieces: int, gateway: Gateway
) -> None:
    client = await gateway.connect()
    head = f"{line}\r\nHost: gateway.test\r\n{more}\r\n".encode()
    at = len(head) // pieces

    await client.send(head[:at])
    await client.send(head[at:])

    assert_refused(await client.read_answer(), status, code)
    assert await client.closed()


@pytest.mark.parametrize("much", [4000, 40_000])
async def test_a_target_without_end_is_too_long_and_no_header_is(
    much: int, start_gateway: StartGateway
) -> None:
    gateway = await start_gateway(edge={"max_header_bytes": 8192})
    client = await gateway.connect()

    await client.send(b"GET /v1/" + b"a" * much)
    await client.send(b"a" * 5000)

    assert_refused(await client.read_answer(), 414, "target_too_long")


# Credentials.


@pytest.mark.parametrize("blanks", ["  ", "   "])
async def test_several_blanks_behind_bearer_are_one(blanks: str, gateway: Gateway) -> None:
    client = await gateway.connect()
    head = client.request_bytes("GET", "/v1/models").replace(b"Bearer ", b"Bearer" + blanks.encode())

    await client.send(head)

    assert (await client.read_answer()).status == 200


@pytest.mark.parametrize("more", [", Bearer other", ",", "\u00e9"])
async def test_what_is_no_credential_is_refused_as_one_and_the_connection_goes_on(
    more: str, gateway: Gateway
) -> None:
    client = await gateway.connect()
    good = client.credential.encode()
    bad = client.request_bytes("GET", "/v1/models").replace(good, good + more.encode("latin-1"))
    for _ in range(2):
        await client.send(bad)
        assert_refused(await client.read_answer(), 401, "invalid_api_key")

    assert (await client.request("GET", "/v1/models")).status == 200


# Header values.


async def test_a_header_value_passes_as_the_bytes_that_it_is(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()
    for value in (b"caf\xe9", b"\xff\xfe", "é".encode(), b"\xed\xa0\x80"):
        head = client.request_bytes("GET", "/v1/models", headers="X-Title: @\r\n").replace(b"@", value)
        await client.send(head)
        assert (await client.read_answer()).status == 200
        assert b"\r\nX-Title: " + value + b"\r\n" in upstream.requests[-1].raw_head


@pytest.mark.parametrize("step", [1, 10_000])
async def test_fields_that_only_pass_may_be_repeated(
    step: int, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    lines = "User-Agent: one\r\nX-A: 1\r\nuser-agent: two\r\nETag: a\r\n~~~~: b\r\nETag: c\r\n"
    client = await gateway.connect()
    for _ in range(3):  # a head that comes again is not read again
        asked = client.request_bytes("POST", CHAT, QUESTION, headers=JSON + lines)
        for at in range(0, len(asked), step):
            await client.send(asked[at : at + step])
        assert (await client.read_answer()).status == 200

    for seen in upstream.requests:
        assert seen.body == QUESTION
        assert lines.replace("user-agent", "User-Agent").encode() in seen.raw_head


@pytest.mark.parametrize(
    "lines", ["Content-Type: a\r\n" * 2, "Content-Length: 0\r\n" * 2, "ETag: a\r\nETag : b\r\n"]
)
@pytest.mark.parametrize("more", ["", "User-Agent: one\r\nUser-Agent: two\r\n"])
async def test_what_decides_something_may_not(
    lines: str, more: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()

    assert_refused(await client.request("GET", "/v1/models", headers=more + lines), 400, "bad_request_syntax")
    assert upstream.connections == 0


async def test_a_target_with_raw_letters_is_told_to_encode_them(gateway: Gateway) -> None:
    client = await gateway.connect()
    await client.send(client.request_bytes("GET", "/v1/models?a=@").replace(b"@", "é".encode()))

    answer = await client.read_answer()

    assert_refused(answer, 400, "bad_request_syntax")
    assert b"Percent-encode" in answer.body


# Connections.


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'{"model":"a","model":"b"}', "duplicate_parameter"),
        (b'{"model":1}', "invalid_type"),
        (b'{"model":"a","n":-1}', "invalid_value"),
    ],
)
@pytest.mark.parametrize("framing", ["length", "chunks"])
async def test_a_request_that_is_bad_only_in_its_json_keeps_its_connection(
    body: bytes, code: str, framing: str, gateway: Gateway
) -> None:
    client = await gateway.connect()
    for _ in range(2):
        bad = client.request_bytes("POST", CHAT, body, headers=JSON)
        if framing == "chunks":
            bad = client.request_bytes("POST", CHAT, headers=JSON + "Transfer-Encoding: chunked\r\n")
            bad += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        await client.send(bad)
        answer = await client.read_answer()
        assert_refused(answer, 400, code)
        assert answer.get("connection") is None

    assert (await client.request("POST", CHAT, QUESTION, headers=JSON)).status == 200


async def test_json_with_too_much_structure_keeps_its_connection(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(edge={"max_json_structures": 65536})
    client = await gateway.connect()
    deep = orjson.dumps({"model": "gpt-4o-mini", "messages": [[]] * 66_000})

    assert_refused(await client.request("POST", CHAT, deep, headers=JSON), 413, "json_too_complex")

    assert (await client.request("POST", CHAT, QUESTION, headers=JSON)).status == 200


async def test_json_may_begin_with_a_byte_order_mark(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """PowerShell and .NET write one; what goes up has it still, and what was put in stands in its place."""
    limits = {"max_tokens_per_1_minute": 1_000_000}
    gateway = await start_gateway(tenants={"acme": {"default_model": "gpt-4o-mini", "limits": limits}})
    client = await gateway.connect()
    body = "\ufeff".encode() + b'{"stream":true,"messages":[]}'

    assert (await client.request("POST", CHAT, body, headers=JSON)).status == 200

    went_up = upstream.requests[0].body
    assert went_up.startswith("\ufeff{".encode())
    assert orjson.loads(went_up[3:]) == {
        "model": "gpt-4o-mini",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [],
    }


# Halves of characters.

HALF = rb"\ud83d"
"""What is left of an emoji that JavaScript has cut."""


@pytest.mark.parametrize("models", [None, ["gpt-4o-mini"]], ids=["any model", "some models"])
@pytest.mark.parametrize(
    "text",
    [HALF, rb"\ude00 and \uD83D\uDE00", rb"\\\udfff\\ud800", rb"\ud83d\ud83d\ude00", b"x" * 70_000 + HALF],
)
async def test_half_of_a_character_passes_in_what_decides_nothing(
    models: list[str] | None, text: bytes, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    limits = {"max_tokens_per_1_minute": 1_000_000}
    gateway = await start_gateway(tenants={"acme": {"models": models, "limits": limits} if models else {}})
    client = await gateway.connect()
    body = (
        b'{"model":"gpt-4o-mini","stream":true,"metadata":{"a":"@"},"tools":[{"type":"function","function":'
        b'{"name":"f","description":"@"}}],"messages":[{"role":"user","content":[{"type":"text","text":"@"}]}]}'
    ).replace(b"@", text)

    answer = await client.request("POST", CHAT, body, headers=JSON)

    assert answer.status == 200, answer.body
    assert text in upstream.requests[0].body
    assert upstream.requests[0].body.replace(b'"stream_options":{"include_usage":true},', b"") == body


@pytest.mark.parametrize(
    "body",
    [
        rb'{"model":"gpt-4o-mini\ud800","messages":[]}',
        rb'{"model":"\udc00gpt-4o-mini","messages":[]}',
        rb'{"mo\ud800del":"gpt-4o-mini","messages":[]}',
        rb'{"model":"gpt-4o-mini","mod\ud800el":"o3-pro","messages":[]}',
        rb'{"model":"gpt-4o-mini","n":1,"n\ud800":9,"messages":[]}',
        rb'{"model":"gpt-4o-mini","tools":[{"type":"x","mod\ud800el":"o3-pro"}],"messages":[]}',
        rb'{"model":"gpt-4o-mini","tools":[{"type":"function\ud800"}],"messages":[]}',
    ],
)
async def test_half_of_a_character_is_refused_in_what_decides(
    body: bytes, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    """Some readers drop it, and would read another name than we do."""
    gateway = await start_gateway(tenants={"acme": {"models": ["gpt-*"]}})
    client = await gateway.connect()

    answer = await client.request("POST", CHAT, body, headers=JSON)

    assert answer.status in (400, 403)
    assert upstream.connections == 0


# Forms of callers who may use some models only, as clients write them.


@pytest.mark.parametrize(
    ("boundary", "before", "name", "end"),
    [
        ("edge", "", 'a;b "c".wav', ""),
        ("edge;", "", "my %22best%22.wav", ""),
        ('"edge" ; charset=utf8', "\r\n", 'my \\"best\\".wav', "\r\n"),
        ("----=_Part_1_23.45", "", "a.wav", "\r\n"),
        ("x" * 100, "This is a form.\r\n", "C:\\a\\", "\r\nThat was it.\r\n"),
    ],
)
async def test_a_form_of_a_restricted_caller_is_read_as_clients_write_it(
    boundary: str, before: str, name: str, end: str, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants={"acme": {"models": ["whisper-1"]}})
    client = await gateway.connect()
    line = "\r\n--" + boundary.partition(";")[0].strip(' "')
    parts = (
        f'{line}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\nsound',
        *(f'{line}\r\nContent-Disposition: form-data; name="more[]";\r\n\r\n{n}' for n in range(990)),
        f'{line}\r\nContent-Disposition: form-data; name="model"\r\n\r\n@',
    )
    form = f"{before}{''.join(parts)[2:]}{line}--{end}"
    headers = f"Content-Type: multipart/form-data; boundary={boundary}\r\n"

    answers = [
        await client.request(
            "POST", "/v1/audio/transcriptions", form.replace("@", model).encode(), headers=headers
        )
        for model in ("whisper-1", "o3-pro")
    ]

    assert [answer.status for answer in answers] == [200, 403]
    assert upstream.requests[0].body == form.replace("@", "whisper-1").encode()
    assert not upstream.requests[1].complete


# What a body is called.


@pytest.mark.parametrize(
    "charset",
    ["utf-8", "utf8", "UTF8", '"utf-8"', "us-ascii", "US-ASCII", "ascii", "iso-8859-1", "", '""', "'utf-8'"],
)
async def test_json_is_read_whichever_charset_of_its_own_letters_it_claims(
    charset: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()
    kind = f"Content-Type: application/json; charset={charset}\r\n"

    answer = await client.request("POST", CHAT, QUESTION, headers=kind)

    assert answer.status == 200, answer.body
    assert upstream.requests[0].get("content-type") == f"application/json; charset={charset}"


@pytest.mark.parametrize("charset", ["utf-16", "utf-16le", "utf-32", "utf-7", "ibm037", "gb18030", "*=utf-8"])
async def test_json_in_letters_that_policy_would_not_see_is_refused(charset: str, gateway: Gateway) -> None:
    client = await gateway.connect()
    kind = f"Content-Type: application/json; charset={charset}\r\n".replace("=*=", "*=")

    answer: RawAnswer = await client.request("POST", CHAT, QUESTION, headers=kind)

    assert_refused(answer, 415, "unsupported_media_type")
