"""What the gateway takes from inside aiohttp is there, is all in one list, and has the shape it had."""

from __future__ import annotations

import ast
import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ClientRequest
from aiohttp.http_parser import HttpRequestParserC, HttpResponseParserC
from aiohttp.http_writer import StreamWriter
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo
from yarl import URL

import gateway as gateway_package

# What the gateway takes from inside aiohttp. When one of these moves, aiohttp's pin in pyproject.toml was
# widened too far: read the new source, adapt, and only then change this table.

INSIDE_AIOHTTP: dict[str, set[str]] = {
    "BaseProtocol": {
        "_drain_helper",
        "_loop",
        "_pause_reading_for_buffer",
        "_pause_transport_reading",
        "_resume_transport_reading",
        "_upgraded",
    },
    "BaseRequest": {"_message", "_payload_writer"},
    "RequestHandler": {
        "_close",
        "_current_request",
        "_force_close",
        "_messages",
        "_payload_parser",
        "_request_count",
        "_task_handler",
        "_waiter",
    },
    "Server": {"_kwargs", "_loop"},
    "StreamReader": {"_size"},
    "StreamResponse": {"_eof_sent", "_keep_alive", "_payload_writer"},
    "StreamWriter": {"_eof", "_headers_buf", "_headers_written", "_send_headers_with_payload", "_write"},
}
PUBLIC_INSIDE_AIOHTTP: dict[str, set[str]] = {
    "BaseProtocol": {"writing_paused"},
    "RequestHandler": {
        "connection_lost",
        "data_received",
        "finish_response",
        "force_close",
        "handle_error",
        "set_parser",
    },
    "ResponseHandler": {"should_close", "transport"},
    "StreamReader": {
        "at_eof",
        "exception",
        "is_eof",
        "readany",
        "read_nowait",
        "set_exception",
        "set_read_chunk_size",
    },
    "StreamWriter": {"chunked", "output_size", "send_headers", "write", "write_eof"},
}


@asynccontextmanager
async def living_aiohttp() -> AsyncIterator[dict[str, object]]:
    """One living object of every class that the gateway leans on."""
    seen: dict[str, object] = {}

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request._payload_writer, StreamWriter)
        seen.update(
            {
                "BaseRequest": request,
                "RequestHandler": request.protocol,
                "BaseProtocol": request.protocol,
                "StreamReader": request.content,
                "StreamWriter": request._payload_writer,
            }
        )
        return web.Response()

    server = web.Server(handler)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = URL.build(scheme="http", host="127.0.0.1", port=runner.addresses[0][1])
    connector = aiohttp.TCPConnector()
    client_request = ClientRequest("GET", url, loop=asyncio.get_running_loop())
    connection = await connector.connect(client_request, traces=[], timeout=aiohttp.ClientTimeout(total=5))
    assert connection.transport is not None
    connection.transport.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")
    seen |= {
        "ClientRequest": client_request,
        "ResponseHandler": connection.protocol,
        "Server": server,
        "StreamResponse": web.StreamResponse(),
        "TCPConnector": connector,
    }
    while "StreamReader" not in seen:
        await asyncio.sleep(0.01)
    try:
        yield seen
    finally:
        connection.close()
        await connector.close()
        await runner.cleanup()


async def test_what_the_gateway_takes_from_inside_aiohttp_is_still_there() -> None:
    async with living_aiohttp() as living:
        missing = [
            f"{owner}.{name}"
            for table in (INSIDE_AIOHTTP, PUBLIC_INSIDE_AIOHTTP)
            for owner, names in table.items()
            for name in names
            if not hasattr(living[owner], name)
        ]
        assert not missing
        assert isinstance(living["RequestHandler"], RequestHandler)
        assert isinstance(living["ResponseHandler"], ResponseHandler)
        assert isinstance(living["ResponseHandler"], BaseProtocol)
        assert isinstance(living["StreamReader"], StreamReader)


# Attributes of the gateway's own classes that happen to be named like one of aiohttp's.
OURS = {"_protocol"}


def private_names(tree: ast.AST, owner: str) -> set[tuple[str, str]]:
    """The private attributes that code reads or sets, each with whose it is: `owner` for self, `*` for others."""
    found: set[tuple[str, str]] = set()
    for node in ast.iter_child_nodes(tree):
        inner = owner
        if isinstance(node, ast.ClassDef):
            inner = ast.unparse(node.bases[-1]).rpartition(".")[2] if node.bases else "nobody"
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            own = isinstance(node.value, ast.Name) and node.value.id == "self"
            found.add((owner if own else "*", node.attr))
        found |= private_names(node, inner)
    return found


async def test_nothing_inside_aiohttp_is_leaned_on_that_the_table_does_not_name() -> None:
    listed = set().union(*INSIDE_AIOHTTP.values())
    used = set()
    for path in Path(gateway_package.__file__).parent.rglob("*.py"):
        source = path.read_text("utf-8")
        if "aiohttp" in source:
            used |= private_names(ast.parse(source), "nobody")
    async with living_aiohttp() as living:
        theirs = {
            name
            for owner, name in used
            for whose in (living if owner == "*" else {owner} & living.keys())
            if hasattr(living[whose], name)
        } - OURS

    assert "_headers_buf" in theirs
    assert theirs == listed


async def test_the_shapes_that_the_gateway_relies_on_inside_aiohttp_have_not_changed() -> None:
    async with living_aiohttp() as living:
        request: Any = living["BaseRequest"]
        assert list(_ErrInfo.__annotations__) == ["status", "exc", "message"]
        message = request._message
        assert (message.method, message.path, message.version) == ("POST", "/", (1, 1))
        assert message.raw_headers == ((b"Host", b"a"), (b"Content-Length", b"1"))
        assert EMPTY_PAYLOAD.is_eof()
        writer: Any = living["StreamWriter"]
        assert writer._headers_written is True


def test_aiohttp_is_the_pinned_minor_and_has_its_c_parser() -> None:
    major, minor, _ = aiohttp.__version__.split(".", 2)

    assert (major, minor) == ("3", "14")
    assert HttpRequestParserC is not None
    assert HttpResponseParserC is not None
