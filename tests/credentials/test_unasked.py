"""What cannot be asked is told in words of ours: an answer that is no HTTP may be what was shown, or granted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.credentials.key_fetch import FetchFailed, KeySource, fetched
from gateway.proxy.identity_endpoint import NothingGranted, WayOut, ask_endpoint
from gateway.settings.workload_identity import WorkloadIdentity
from tests.kit.identity import IdentityEndpoint

SECRET = "eyJhbGciOiJSUzI1NiJ9.canary-of-what-is-shown.c2lnbmF0dXJl"
_OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[int]:
    """A server that quotes in this way what it was shown, and closes; its port."""

    async def answers(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = b""
        while SECRET.encode() not in asked:
            asked += await reader.read(65536)
        writer.write(answer.replace(b"SECRET", SECRET.encode()))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answers, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.mark.parametrize(
    "answer",
    [
        b'{"access_token":"SECRET"}',
        b"HTTP/1.1 SECRET\r\n\r\n",
        _OK + b"SECRET\r\n\r\n",
        _OK + b"A: SECRET",
        _OK + b"A: SECRET\0\r\n\r\n",
        _OK + b"Content-Length: SECRET\r\n\r\n",
        _OK + b"Transfer-Encoding: chunked\r\n\r\nSECRET\r\n",
        _OK + b"A: " + b"SECRET" * 1000 + b"\r\n\r\n",
        b"",
    ],
)
async def test_an_answer_that_is_no_http_is_quoted_nowhere(answer: bytes, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(SECRET)
    async with answering(answer) as port:
        endpoint = IdentityEndpoint()
        endpoint.port = port
        identity = WorkloadIdentity.model_validate(endpoint.table(file))
        with pytest.raises(NothingGranted, match="cannot be asked: ") as nothing:
            await ask_endpoint(identity, WayOut(None, None))
        with pytest.raises(FetchFailed, match="cannot be asked: ") as failed:
            await fetched(KeySource(f"http://127.0.0.1:{port}/keys", bearer_file=file))
    for told in (str(nothing.value), str(failed.value)):
        assert "canary" not in told


async def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    identity = WorkloadIdentity.model_validate(IdentityEndpoint().table(pipe))
    async with asyncio.timeout(5):
        with pytest.raises(NothingGranted, match="is empty"):
            await ask_endpoint(identity, WayOut(None, None))
        with pytest.raises(FetchFailed, match="is empty"):
            await fetched(KeySource("http://127.0.0.1:9/keys", bearer_file=pipe))
