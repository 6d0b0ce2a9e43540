"""What the gateway takes from aiohttp beside its documented classes has the shape it had.

When one of these fails, aiohttp's pin in pyproject.toml was widened too far: read the new source, and adapt. What is
taken on the upstreams' side is held by the tests of `answer_heads` and `dial`.
"""

from __future__ import annotations

import inspect
import re

import aiohttp
import pytest
from aiohttp import web
from aiohttp.http_parser import HttpRequestParserC, HttpResponseParserC
from aiohttp.streams import EMPTY_PAYLOAD

from gateway.errors import BadRequest
from gateway.proxy import request_heads
from gateway.proxy.edge import EdgeServer


def test_aiohttps_runner_asks_nothing_of_a_server_that_ours_does_not_answer() -> None:
    source = inspect.getsource(web.BaseRunner)
    asked = set(re.findall(r"self\._server\.(\w+)", source))

    assert asked == {"pre_shutdown", "shutdown"}
    assert asked <= vars(EdgeServer).keys()


def test_the_parser_reads_a_head_alone_without_a_loop_or_a_reader_for_its_body() -> None:
    head = b"POST /v1?a=%2F HTTP/1.1\r\nHost: a\r\nContent-Length: 05\r\n\r\n"
    fed = request_heads._parser().feed_data(head)
    [(message, payload)], upgraded, behind = fed

    assert (message.method, message.path) == ("POST", "/v1?a=%2F")
    assert message.version is request_heads.HTTP11
    assert message.raw_headers == ((b"Host", b"a"), (b"Content-Length", b"05"))
    assert message.headers.get("Content-Length") == "05"
    assert (message.chunked, message.upgrade, message.should_close) == (False, False, False)
    assert payload is EMPTY_PAYLOAD
    assert (upgraded, behind) == (False, b"")


@pytest.mark.parametrize(
    ("version", "more", "chunked", "upgrade", "should_close"),
    [
        ("1.1", b"Transfer-Encoding: chunked\r\n", True, False, False),
        ("1.1", b"Connection: close\r\n", False, False, True),
        ("1.1", b"Connection: Upgrade\r\nUpgrade: websocket\r\n", False, True, False),
        ("1.0", b"", False, False, True),
        ("1.0", b"Connection: keep-alive\r\n", False, False, False),
    ],
)
def test_the_parser_says_of_a_head_what_the_gateway_goes_by(
    version: str, more: bytes, chunked: bool, upgrade: bool, should_close: bool
) -> None:
    known, _, _ = request_heads.RequestHeads().whole(
        b"GET / HTTP/%b\r\nHost: a\r\n%b\r\n" % (version.encode(), more)
    )

    assert (known.version is request_heads.HTTP10) is (version == "1.0")
    assert (known.chunked, not known.keep_alive) == (chunked, should_close)


@pytest.mark.parametrize("end", [b"\n\r\n", b"\r\n\n", b"\n\n", b"\r\r\n", b"\r\n\r\r\n"])
def test_the_parser_sees_the_end_of_a_head_nowhere_else_than_the_gateway(end: bytes) -> None:
    """What it took for the next request would vanish."""
    with pytest.raises(BadRequest):
        request_heads.RequestHeads().whole(
            b"GET / HTTP/1.1\r\nHost: a%bGET /b HTTP/1.1\r\nHost: b\r\n\r\n" % end
        )


def test_aiohttp_is_the_pinned_minor_and_has_its_c_parser() -> None:
    major, minor, _ = aiohttp.__version__.split(".", 2)

    assert (major, minor) == ("3", "14")
    assert HttpRequestParserC is not None
    assert HttpResponseParserC is not None
