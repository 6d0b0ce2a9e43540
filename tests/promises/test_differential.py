"""A service cannot tell the gateway from the API: requests and answers arrive as they were sent, but for a list."""

from __future__ import annotations

import asyncio
import random
import string
import zlib
from dataclasses import dataclass

import orjson
import pytest

from tests.kit.client import JSON, QUESTION, RawAnswer, RawClient
from tests.kit.gateway import Gateway
from tests.kit.upstream import OK, ScriptedUpstream, Seen, Turn

Fields = list[tuple[str, str]]

# The documented list, written down a second time on purpose: the product's own would agree with itself.
NEVER_UP = {
    *(
        "api-key",
        "cdn-loop",
        "connection",
        "cookie",
        "expect",
        "forwarded",
        "keep-alive",
        "openai-organization",
    ),
    *(
        "openai-project",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "true-client-ip",
        "upgrade",
    ),
    *("via", "x-api-key", "x-original-uri", "x-original-url", "x-real-ip", "x-rewrite-url"),
}
NEVER_UP_PREFIXES = ("cf-", "proxy-", "x-envoy-", "x-forwarded-")
NEVER_DOWN = {
    *("alt-svc", "connection", "keep-alive", "openai-organization", "openai-project", "proxy-authenticate"),
    *("set-cookie", "strict-transport-security", "te", "trailer", "transfer-encoding", "upgrade"),
}
ADDED = ("x-gateway-request-id", "x-gateway-credential-expires")
"""To the answers that a credential gets which expires within a week."""


def listed_by_connection(fields: Fields) -> set[str]:
    """The names that a Connection field takes away."""
    values = [value for name, value in fields if name.lower() == "connection"]
    return {part.strip().lower() for value in values for part in value.split(",")}


def expected_upstream(sent: Seen, *, host: str, deployment: bytes) -> Fields:
    """What the documented list leaves of a request's fields."""
    spelling: dict[str, str] = {}
    fields = []
    never = NEVER_UP | listed_by_connection(sent.fields)
    for name, value in sent.fields:
        lower = name.lower()
        if lower in never or lower.startswith(NEVER_UP_PREFIXES) or "_" in name:
            continue
        value = {"host": host, "authorization": "Bearer sk-upstream-key"}.get(lower, value)
        fields.append((spelling.setdefault(lower, name), value))
    return [*fields, ("CDN-Loop", ", ".join((*sent.all("cdn-loop"), deployment.decode())))]


@dataclass
class Spoken:
    """One request, and what came back."""

    request: bytes
    method: str
    answer: RawAnswer | None = None


class Generator:
    """Valid requests and answers out of a seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def request(self, credential: str) -> Spoken:
        """A request that any HTTP/1.1 server has to understand, in an arbitrary dress."""
        choose = self.random
        method = choose.choice(["GET", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"])
        body, framing = b"", b""
        if method in ("POST", "PUT", "PATCH") or choose.random() < 0.05:
            body, framing = self.body()
        lines = [
            *(f"{name}: {value}".encode() for name, value in self.fields(NEVER_UP)),
            self.case("host").encode() + b": gateway.test",
            self.case("authorization").encode() + b": Bearer " + credential.encode(),
            *([framing] if framing else []),
        ]
        choose.shuffle(lines)
        head = b"%b %b HTTP/1.1\r\n%b\r\n\r\n" % (
            method.encode(),
            self.target().encode(),
            b"\r\n".join(lines),
        )
        return Spoken(head + body, method)

    def target(self) -> str:
        """A target without ambiguity; its query may hold anything that is printable."""
        choose = self.random
        safe = string.ascii_letters + string.digits + "-._~!$&'()*+,=:@"
        path = choose.choice(["/v1/unknown/", "/v1/files/", "/v1/models/", "/v1/chat/other/"])
        path += "s" + "".join(choose.choices(safe, k=choose.randrange(30)))
        if choose.random() < 0.2:
            path += choose.choice(["%20x", "%C3%A9", "%e2%82%AC", "%3A", "%40", "%5B%5D"])
        if choose.random() < 0.5:
            anything = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) != "#")
            path += "?" + "".join(choose.choices(anything, k=choose.randrange(40)))
        return path

    def fields(self, listed: set[str]) -> Fields:
        """Some fields: odd spellings, duplicates, empty values, UTF-8, and now and then a listed one."""
        choose = self.random
        names = [
            "".join(choose.choices(string.ascii_letters + string.digits + "-!.~^", k=8)) for _ in range(3)
        ]
        names += choose.sample(
            ["accept", "user-agent", "accept-encoding", "range", "etag", "x-request-id"], 3
        )
        names += choose.sample(
            ["openai-beta", "idempotency-key", "origin", "if-none-match", "x_under", "date"], 2
        )
        if choose.random() < 0.4:
            names.append(
                choose.choice(sorted(listed - {"connection", "expect", "transfer-encoding", "upgrade"}))
            )
        fields: Fields = []
        for name in choose.choices(names, k=choose.randrange(12)):
            # What the grammar allows once only, the parser refuses when it comes twice.
            if name not in ("user-agent", "etag") or name not in {known.lower() for known, _ in fields}:
                fields.append((self.case(name), self.value()))
        if choose.random() < 0.3:
            fields.append(("connection", "keep-alive, X-Hop"))
            fields.append((self.case("x-hop"), "1"))
        return fields

    def value(self) -> str:
        """A field value; what surrounds it is no part of it."""
        text = "".join(self.random.choices(string.printable[:94] + " \t", k=self.random.randrange(40)))
        return (text + self.random.choice(["", "", "é", "日本"])).strip(" \t")

    def case(self, name: str) -> str:
        """A name in some spelling."""
        return self.random.choice([name, name.upper(), name.title(), name.swapcase()])

    def body(self) -> tuple[bytes, bytes]:
        """A body as it goes over the wire, and the field that frames it."""
        content = self.random.randbytes(self.random.choice([0, 1, 5, 100, 5000, 70_000]))
        if self.random.random() < 0.5:
            return content, b"%b: %d" % (self.case("content-length").encode(), len(content))
        return self.chunks(content), self.case("transfer-encoding").encode() + b": chunked"

    def chunks(self, content: bytes) -> bytes:
        """A content cut into chunks of any sizes."""
        chunked = b""
        while content:
            size = self.random.choice([1, 3, 1000, 65536])
            chunked += b"%x\r\n%b\r\n" % (len(content[:size]), content[:size])
            content = content[size:]
        return chunked + b"0\r\n\r\n"

    def answer(self) -> bytes:
        """An answer as an upstream may send it."""
        choose = self.random
        status = choose.choice(
            [200, 200, 200, 201, 202, 204, 206, 301, 302, 304, 307, 400, 404, 409, 429, 500, 503]
        )
        lines = [
            f"HTTP/1.1 {status} {choose.choice(['OK', 'Some Reason', '', 'é', '日本'])}".encode(),
            *(f"{name}: {value}".encode() for name, value in self.fields(NEVER_DOWN)),
        ]
        body = b""
        if status not in (204, 304):
            body, framing = self.body()
            lines.append(framing)
        return b"\r\n".join(lines) + b"\r\n\r\n" + body


async def reply(turn: Turn) -> None:
    """Read everything, answer as the method wants it."""
    await turn.read_body()
    await turn.send(OK.removesuffix(b"{}") if turn.seen.method == "HEAD" else OK)


async def speak(client: RawClient, spoken: Spoken) -> None:
    """Send a request and read its answer."""
    await client.send(spoken.request)
    spoken.answer = await client.read_answer(spoken.method)


async def played(upstream: ScriptedUpstream, client: RawClient, exchanges: list[Spoken]) -> list[Seen]:
    """Speak all of them on one connection; what the upstream saw of each."""
    upstream.requests.clear()
    for spoken in exchanges:
        await speak(client, spoken)
        assert spoken.answer is not None
        assert spoken.answer.status == 200, (spoken.request[:500], spoken.answer.body)
    assert len(upstream.requests) == len(exchanges)
    return list(upstream.requests)


@pytest.mark.parametrize("seed", range(5))
async def test_generated_requests_arrive_as_they_were_sent(
    seed: int, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """200 per seed, 1,000 in all, straight to the upstream and through the gateway."""
    upstream.plays(reply)
    generator = Generator(seed)
    through = await gateway.connect()
    exchanges = [generator.request(through.credential) for _ in range(200)]
    straight = await RawClient.connect("127.0.0.1", upstream.port)
    gateway.clients.append(straight)  # closed with the gateway

    sent = await played(upstream, straight, exchanges)
    seen = await played(upstream, through, exchanges)

    host = f"127.0.0.1:{upstream.port}"
    deployment = gateway.app.services.trust.deployment.name
    for original, arrived in zip(sent, seen, strict=True):
        assert (arrived.method, arrived.target) == (original.method, original.target)
        assert arrived.fields == expected_upstream(original, host=host, deployment=deployment)
        assert arrived.body == original.body
        assert arrived.complete


def expected_downstream(fields: Fields) -> Fields:
    """What the documented list leaves of an answer's fields, framing aside."""
    never = NEVER_DOWN | listed_by_connection(fields) | {"content-length", "date"}
    return [(name, value) for name, value in fields if name.lower() not in never]


@pytest.mark.parametrize("seed", range(5))
async def test_generated_answers_arrive_as_they_were_sent(
    seed: int, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    generator = Generator(1000 + seed)
    answers = [generator.answer() for _ in range(200)]

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answers[int(turn.seen.target.rpartition("/")[2])])

    upstream.plays(script)
    through = await gateway.connect()
    straight = await RawClient.connect("127.0.0.1", upstream.port)
    gateway.clients.append(straight)  # closed with the gateway
    for number in range(len(answers)):
        asked = Spoken(through.request_bytes("GET", f"/v1/unknown/{number}"), "GET")
        await speak(straight, asked)
        original = asked.answer
        await speak(through, asked)
        arrived = asked.answer

        assert original is not None and arrived is not None
        assert (arrived.status, arrived.reason) == (original.status, original.reason)
        assert (arrived.body, arrived.clean_end) == (original.body, True)
        assert all(len(arrived.all(name)) == 1 for name in ADDED)
        assert [
            field
            for field in arrived.fields
            if field[0].lower() not in {*ADDED, "content-length", "transfer-encoding", "date"}
        ] == expected_downstream(original.fields)
        assert arrived.all("content-length") == original.all("content-length")
        if original.all("date"):
            assert arrived.all("date") == original.all("date")
        else:
            assert len(arrived.all("date")) == 1  # ours


# What a client notices first, one by one.


def answer_of(head: str, body: bytes = b"") -> bytes:
    """An answer with a length."""
    return f"HTTP/1.1 {head}\r\nContent-Length: {len(body)}\r\n\r\n".encode("latin-1") + body


async def through(
    gateway: Gateway,
    upstream: ScriptedUpstream,
    answer: bytes,
    *,
    method: str = "GET",
    target: str = "/v1/models",
    headers: str = "",
) -> RawAnswer:
    """What becomes of an answer on its way to the client."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answer)

    upstream.plays(script)
    client = await gateway.connect()
    return await client.request(method, target, headers=headers)


ENCODED = {
    "gzip": zlib.compress(b"hello " * 50, wbits=31),
    "br": bytes.fromhex("8b0280") + b"hello" + bytes.fromhex("03"),
    "zstd": bytes.fromhex("28b52ffd0458290000") + b"hello",
    "unheard-of": bytes(range(256)),
}


@pytest.mark.parametrize("encoding", ENCODED)
async def test_encoded_answers_are_not_touched(
    encoding: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    body = ENCODED[encoding]
    head = (
        f"200 OK\r\nContent-Type: application/json\r\nContent-Encoding: {encoding}\r\nVary: Accept-Encoding"
    )

    answer = await through(
        gateway, upstream, answer_of(head, body), headers="Accept-Encoding: gzip, br, zstd\r\n"
    )

    assert answer.body == body
    assert answer.get("content-encoding") == encoding
    assert answer.get("content-length") == str(len(body))
    assert upstream.requests[0].get("accept-encoding") == "gzip, br, zstd"


async def test_nobody_asks_for_an_encoding_that_the_client_did_not_ask_for(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    await through(gateway, upstream, OK)

    assert [name for name, _ in upstream.requests[0].fields] == ["Host", "Authorization", "CDN-Loop"]


async def test_encoded_request_bodies_are_not_inflated(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    body = zlib.compress(b"training data\n" * 1000, wbits=31)
    client = await gateway.connect()

    answer = await client.request(
        "POST",
        "/v1/files",
        body,
        headers="Content-Type: application/octet-stream\r\nContent-Encoding: gzip\r\n",
    )

    assert answer.status == 200
    assert upstream.requests[0].body == body
    assert upstream.requests[0].get("content-encoding") == "gzip"
    assert upstream.requests[0].get("content-length") == str(len(body))


async def test_an_encoded_json_body_cannot_hide_its_model(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    client = await gateway.connect()

    answer = await client.request(
        "POST",
        "/v1/chat/completions",
        zlib.compress(QUESTION, wbits=31),
        headers=JSON + "Content-Encoding: gzip\r\n",
    )

    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (415, "unsupported_media_type")
    assert upstream.connections == 0


async def test_head_answers_keep_the_length_of_what_they_do_not_send(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nETag: "a"\r\n\r\n'

    answer = await through(gateway, upstream, head, method="HEAD", target="/v1/files/file-1/content")

    assert (answer.status, answer.get("content-length"), answer.get("etag")) == (200, "12345", '"a"')
    assert upstream.requests[0].method == "HEAD"


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_answers_without_a_body_have_none_and_keep_the_connection(
    status: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(f'HTTP/1.1 {status}\r\nETag: W/"1"\r\n\r\n'.encode())

    upstream.plays(script)
    client = await gateway.connect()
    for _ in range(3):
        answer = await client.request("GET", "/v1/models", headers='If-None-Match: W/"1"\r\n')

        assert f"{answer.status} {answer.reason}" == status
        assert answer.get("etag") == 'W/"1"'
        assert answer.get("transfer-encoding") is None
        assert answer.get("content-length") in (None, "0")
    assert upstream.connections == 1
    assert upstream.requests[0].get("if-none-match") == 'W/"1"'


async def test_interim_answers_are_not_relayed(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

    answer = await through(gateway, upstream, interim + OK)

    assert (answer.status, answer.body, answer.get("link")) == (200, b"{}", None)


@pytest.mark.parametrize("status", ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 X"])
async def test_redirects_are_the_clients_to_follow(
    status: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await through(
        gateway, upstream, answer_of(f"{status}\r\nLocation: http://127.0.0.1:1/else", b"moved")
    )

    assert f"{answer.status} {answer.reason}" == status
    assert (answer.get("location"), answer.body) == ("http://127.0.0.1:1/else", b"moved")
    assert len(upstream.requests) == 1


async def test_ranges_and_validators_pass_both_ways(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    head = '206 Partial Content\r\nContent-Range: bytes 2-5/10\r\nETag: "v1"\r\nAccept-Ranges: bytes'

    answer = await through(
        gateway,
        upstream,
        answer_of(head, b"2345"),
        target="/v1/files/file-1/content",
        headers='Range: bytes=2-5\r\nIf-Range: "v1"\r\n',
    )

    assert (answer.status, answer.body) == (206, b"2345")
    assert (answer.get("content-range"), answer.get("etag")) == ("bytes 2-5/10", '"v1"')
    assert (upstream.requests[0].get("range"), upstream.requests[0].get("if-range")) == ("bytes=2-5", '"v1"')


async def test_cookies_pass_in_neither_direction(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    head = "200 OK\r\nSet-Cookie: __cf_bm=1; Path=/\r\nset-cookie: session=2"
    first = await through(gateway, upstream, answer_of(head, b"{}"))
    second = await through(gateway, upstream, OK, headers="Cookie: session=2\r\n")

    assert first.all("set-cookie") == []
    assert second.status == 200
    assert all(seen.get("cookie") is None for seen in upstream.requests)


async def test_a_folded_answer_field_does_not_reach_the_client_folded(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """A line that begins with white space is read in different ways (RFC 9112, 5.2)."""
    answer = await through(gateway, upstream, answer_of("200 OK\r\nX-A: b\r\n c\r\nX-B: d", b"{}"))

    if answer.status == 200:
        assert [name for name, _ in answer.fields if name != name.strip() or not name] == []
        assert answer.get("x-b") == "d"
    else:
        assert orjson.loads(answer.body)["error"]["code"] == "upstream_broken"


async def test_the_upstreams_reason_and_odd_statuses_pass(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for status in ("200 Fine By Me", "299 Odd", "418 I'm a teapot", "451 ", "599 Whatever"):
        answer = await through(gateway, upstream, answer_of(status, b"x"))

        assert f"{answer.status} {answer.reason}" == status


async def test_the_gateways_own_request_id_is_the_only_one_of_its_name(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """A gateway may stand behind a gateway: the id to quote is that of the one that was asked."""
    answer = await through(
        gateway, upstream, answer_of("200 OK\r\nX-Gateway-Request-Id: req_gw_other", b"{}")
    )

    [line] = await gateway.lines.wait(1)
    assert answer.all("x-gateway-request-id") == [line["request_id"]]


async def test_the_upstreams_own_errors_pass_unchanged(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    body = b'{"error":{"message":"No such model","type":"invalid_request_error","param":null,"code":"model_not_found"}}'
    head = "404 Not Found\r\nContent-Type: application/json\r\nx-ratelimit-limit-requests: 60"

    answer = await through(gateway, upstream, answer_of(head, body))

    assert (answer.status, answer.body) == (404, body)
    assert answer.get("x-upstream-ratelimit-limit-requests") == "60"
    [line] = await gateway.lines.wait(1)
    assert (line["status"], line["ending"]) == (404, "complete")


async def test_trailers_are_dropped_and_the_body_is_whole(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nX-Sum: 1\r\n\r\n"

    answer = await through(gateway, upstream, chunked)

    assert (answer.body, answer.clean_end) == (b"{}", True)
    assert (answer.get("trailer"), answer.get("x-sum")) == (None, None)


async def test_an_http10_upstream_is_understood(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\nold but whole")
        turn.close()

    upstream.plays(script)
    client = await gateway.connect()
    for _ in range(2):
        answer = await client.request("GET", "/v1/models")

        assert (answer.status, answer.body, answer.clean_end) == (200, b"old but whole", True)
    assert upstream.connections == 2


async def test_many_clients_at_once_get_each_their_own(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    """Nothing of one exchange is seen in another, whatever is reused."""

    async def echo(turn: Turn) -> None:
        body = await turn.read_body()
        mark = turn.seen.get("x-mark") or ""
        await asyncio.sleep(random.random() / 100)
        await turn.send(
            f"HTTP/1.1 200 OK\r\nX-Mark: {mark}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )

    upstream.plays(echo)

    async def one(number: int) -> None:
        client = await gateway.connect()
        for turn in range(20):
            mark = f"{number}-{turn}"
            answer = await client.request(
                "POST", "/v1/unknown/echo", mark.encode() * 50, headers=f"X-Mark: {mark}\r\n"
            )
            assert (answer.get("x-mark"), answer.body) == (mark, mark.encode() * 50)

    await asyncio.gather(*map(one, range(30)))
