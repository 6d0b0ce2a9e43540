"""Upstreams that are not OpenAI write heads as they like: what means one thing alone is read, and said anew plainly."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.client import JSON, QUESTION, RawAnswer
from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream, Turn


async def asked(
    gateway: Gateway,
    upstream: ScriptedUpstream,
    *pieces: bytes,
    method: str = "GET",
    target: str = "/v1/models",
) -> RawAnswer:
    """The answer that a client gets of what an upstream sends in these pieces, which then keeps its connection."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        for piece in pieces:
            await turn.send(piece)

    upstream.plays(script)
    client = await gateway.connect()
    answer = await client.request(method, target)
    await client.close()
    return answer


LENGTHS = {
    "twice": b"Content-Length: 2\r\ncontent-length: 2\r\n",
    "three times": b"Content-Length: 2\r\nX-A: 1\r\nContent-Length: 2\r\nContent-Length:2\r\n",
    "as a list": b"Content-Length: 2, 2\r\n",
    "as a list without blanks": b"Content-Length: 2,2,2\r\n",
    "both": b"Content-Length: 2, 2\r\nContent-Length: 2\r\n",
}


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in pieces"])
@pytest.mark.parametrize("kind", LENGTHS)
async def test_a_length_that_is_repeated_is_taken_once(
    kind: str, cut: bool, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + LENGTHS[kind] + b"X-B: 2\r\n\r\n"
    whole = head + b"{}"
    pieces = [whole[at : at + 7] for at in range(0, len(whole), 7)] if cut else [whole]

    for _ in range(2):
        answer = await asked(gateway, upstream, *pieces)

        assert (answer.status, answer.body, answer.all("content-length")) == (200, b"{}", ["2"])
        assert answer.get("x-b") == "2"
    assert upstream.connections == 1


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n",
        b"Content-Length: 2, 3\r\n",
        b"Content-Length: 2\r\nContent-Length: +2\r\n",
        b"Content-Length: 2,\r\n",
        b"Content-Length: 2\r\nContent-Length: 02\r\n",
        b"Content-Length: 2\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n",
    ],
)
async def test_lengths_that_differ_are_broken(
    lengths: bytes, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await asked(gateway, upstream, b"HTTP/1.1 200 OK\r\n" + lengths + b"\r\n{}")

    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (502, "upstream_broken")


async def test_the_time_is_said_where_the_upstream_does_not_say_it(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    undated = await asked(gateway, upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
    then = "Sun, 06 Nov 1994 08:49:37 GMT"
    dated = await asked(
        gateway, upstream, f"HTTP/1.1 200 OK\r\ndate: {then}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    )

    assert parsedate_to_datetime(undated.get("date") or "").tzinfo is not None
    assert len(undated.all("date")) == 1
    assert dated.all("date") == [then]


async def test_what_has_no_body_states_no_length_but_that_of_another_request(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n"
    empty = await asked(
        gateway, upstream, head % (b"204 No Content", 0), method="DELETE", target="/v1/files/f"
    )
    long = await asked(
        gateway, upstream, head % (b"204 No Content", 7), method="DELETE", target="/v1/files/f"
    )
    unchanged = await asked(gateway, upstream, head % (b"304 Not Modified", 7))
    asked_for_head = await asked(gateway, upstream, head % (b"200 OK", 7), method="HEAD")

    assert (empty.status, empty.get("content-length"), empty.get("transfer-encoding")) == (204, None, None)
    assert (long.status, long.get("content-length")) == (204, None)
    assert (unchanged.status, unchanged.get("content-length")) == (304, "7")
    assert (asked_for_head.status, asked_for_head.get("content-length")) == (200, "7")
    assert upstream.connections == 1


@pytest.mark.parametrize("status", ["000 X", "099 X", "013 X"])
async def test_a_status_below_100_is_broken_at_once(
    status: str, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    answer = await asked(gateway, upstream, f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())

    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (502, "upstream_broken")


async def test_interim_answers_of_any_number_are_passed_over(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    interim = b"HTTP/1.1 102 Processing\r\nContent-Length: 0\r\n\r\nHTTP/1.1 199 X\r\n\r\n"

    answer = await asked(gateway, upstream, interim, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    assert (answer.status, answer.body) == (200, b"{}")


async def test_a_value_in_latin_1_passes_as_it_came(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    head = (
        "HTTP/1.1 200 Tr\xe8s bien\r\nX-Latin: caf\xe9\r\nX-Both: \xe2\x82\xac\r\nContent-Length: 2\r\n\r\n"
    )

    answer = await asked(gateway, upstream, head.encode("latin-1") + b"{}")

    assert (answer.reason, answer.get("x-latin"), answer.get("x-both")) == (
        "Tr\xe8s bien",
        "caf\xe9",
        "\xe2\x82\xac",
    )


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "in pieces"])
@pytest.mark.parametrize(
    "name", ["Content-Length", "Transfer-Encoding", "Connection", "Proxy-Connection", "X"]
)
async def test_a_blank_behind_the_name_of_a_field_is_broken(
    name: str, cut: bool, gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """To some clients that is the field, and contradicts the framing; to others it is none."""
    value = {"Content-Length": "3", "Transfer-Encoding": "chunked"}.get(name, "close")
    whole = f"HTTP/1.1 200 OK\r\n{name} : {value}\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()

    answer = await asked(gateway, upstream, *([whole[:30], whole[30:]] if cut else [whole]))

    assert (answer.status, orjson.loads(answer.body)["error"]["code"]) == (502, "upstream_broken")


async def test_only_we_say_when_a_credential_of_ours_expires(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    """Behind us may be another gateway, whose word is about our key there."""
    head = b"HTTP/1.1 200 OK\r\nX-Gateway-Credential-Expires: tomorrow\r\nContent-Length: 2\r\n\r\n{}"

    answer = await asked(gateway, upstream, head)

    assert "tomorrow" not in answer.all("x-gateway-credential-expires")


# Where an answer leads.

LEADS = [
    ("{up}/files/file-1", "/v1/files/file-1"),
    ("{up}/files/file-1?a=b#c", "/v1/files/file-1?a=b#c"),
    ("{up}", "/v1"),
    # Another name is another server, for all that is known.
    ("http://LOCALHOST:{port}/api/v1/files/", "http://LOCALHOST:{port}/api/v1/files/"),
    ("https://127.0.0.1/api/v1/files/f", "/v1/files/f"),
    ("//127.0.0.1:{port}/api/v1/files/f", "/v1/files/f"),
    ("http://user:pw@127.0.0.1:{port}/api/v1/x", "/v1/x"),
    ("http://127.0.0.1:{port}/login", None),
    ("http://127.0.0.1:{port}", None),
    ("http://127.0.0.1:{port}/api/v1/../../admin", None),
    ("http://127.0.0.1:{port}/api/v10/files", None),
    ("/api/v1/files/f", "/v1/files/f"),
    ("/login", None),
    ("file-1", "file-1"),
    ("./file-1", "/v1/files/file-1"),
    ("../../../admin", None),
    ("?page=2", "?page=2"),
    ("https://files.example/blob?sig=1", "https://files.example/blob?sig=1"),
    ("http://127.0.0.1:1/else", "http://127.0.0.1:1/else"),
    ("http:/api/v1/files/f", None),
    ("http:///127.0.0.1:{port}/api/v1/f", None),
    ("///127.0.0.1:{port}/api/v1/f", None),
    ("\\\\127.0.0.1:{port}/api/v1/f", None),
    ("\\/127.0.0.1:{port}/api/v1/f", None),
    ("/\\127.0.0.1:{port}/api/v1/f", None),
    ("http:\\\\127.0.0.1:{port}\\x", None),
    ("http://127.0.0.1:{port}\\@files.example/x", None),
    ("http://else@127.0.0.1:{port}@files.example/x", None),
    ("ht\ttp://127.0.0.1:{port}/api/v1/f", None),
    ("\x01//127.0.0.1:{port}/api/v1/f", None),
    ("http://%3127.0.0.1:{port}/api/v1/f", None),
    ("http://127.0.0.1.:{port}/api/v1/f", "/v1/f"),
    ("http://127.0.0.1:0{port}/api/v1/f", "/v1/f"),
    ("https://files.example/a?b=\\", "https://files.example/a?b=\\"),
    ("mailto:ops@example.org", "mailto:ops@example.org"),
]


@pytest.mark.parametrize(
    "name", ["Location", "content-location", "Operation-Location", "Azure-AsyncOperation"]
)
async def test_no_answer_leads_past_the_gateway(
    name: str, start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    base_url = upstream.base_url.replace("/v1", "/api/v1")
    gateway = await start_gateway(upstream={"base_url": base_url, "api_key": "sk-upstream-key"})
    for leads, expected in LEADS:
        there = leads.format(up=base_url, port=upstream.port)
        head = f"HTTP/1.1 201 Created\r\n{name}: {there}\r\nX-After: 1\r\nContent-Length: 2\r\n\r\n{{}}"

        answer = await asked(gateway, upstream, head.encode(), target="/v1/files/some")

        assert (answer.status, answer.get("x-after")) == (201, "1"), leads
        assert answer.get(name) == (expected and expected.format(port=upstream.port)), leads
        assert upstream.requests[-1].target == "/api/v1/files/some"


async def test_links_are_led_back_one_by_one(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    gateway = await start_gateway(
        upstream={"base_url": upstream.base_url + "/", "api_key": "sk-upstream-key"}
    )
    link = (
        f'<{upstream.base_url}/models?after=x>; rel="next", <https://docs.example/>; rel=help, </x>; rel="up"'
    )

    answer = await asked(
        gateway, upstream, f"HTTP/1.1 200 OK\r\nLink: {link}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
    )

    assert answer.all("link") == ['</v1/models?after=x>; rel="next", <https://docs.example/>; rel=help']


async def test_heads_that_lead_somewhere_are_led_back_however_often_they_come(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    async def script(turn: Turn) -> None:
        await turn.read_body()
        place = f"{upstream.base_url}/files/{len(upstream.requests)}"
        await turn.send(
            f"HTTP/1.1 303 See Other\r\nLocation: {place}\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )

    upstream.plays(script)
    client = await gateway.connect()
    for number in range(1, 40):
        answer = await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)

        assert answer.get("location") == f"/v1/files/{number}"
