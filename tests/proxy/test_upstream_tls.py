"""An upstream that must prove its name, and one behind a proxy. Certificates are made for the occasion."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.credentials.key_ring import KeyRing
from tests.conftest import StartGateway
from tests.kit.asking import assert_upstream_error, credential_of
from tests.kit.client import JSON, QUESTION, RawClient
from tests.kit.command import running_command
from tests.kit.tls import make_certificate, served_with
from tests.kit.upstream import OK, ScriptedUpstream

# TLS. Certificates are made for the occasion.


@asynccontextmanager
async def tls_upstream(certificate: tuple[Path, Path]) -> AsyncIterator[tuple[int, list[bytes]]]:
    """An upstream behind TLS that answers `{}`; its port, and the request heads it has seen."""
    context = served_with(certificate)
    heads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(OK)
        except (asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], heads
    finally:
        server.close()


async def test_an_upstream_that_cannot_prove_its_name_is_never_sent_anything(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    good = make_certificate(tmp_path, "good")
    cases = {
        "self-signed": (good, None),
        "signed by another": (good, make_certificate(tmp_path, "another")[0]),
        "for another address": (
            (other := make_certificate(tmp_path, "elsewhere", address="192.0.2.1")),
            other[0],
        ),
        "expired": ((old := make_certificate(tmp_path, "old", valid_days=-1)), old[0]),
    }
    for kind, (certificate, ca_file) in cases.items():
        async with tls_upstream(certificate) as (port, heads):
            gateway = await start_gateway(
                upstream={
                    "base_url": f"https://127.0.0.1:{port}/v1",
                    "api_key": "sk-up",
                    **({"ca_file": str(ca_file)} if ca_file else {}),
                }
            )
            client = await gateway.connect()

            answer = await client.request("POST", "/v1/chat/completions", QUESTION, headers=JSON)

            assert_upstream_error(answer, 502, "upstream_unreachable")
            assert heads == [], kind


async def test_an_upstream_with_a_certificate_from_the_ca_file_is_trusted(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path, "good")
    async with tls_upstream(certificate) as (port, heads):
        gateway = await start_gateway(
            upstream={
                "base_url": f"https://127.0.0.1:{port}/v1",
                "api_key": "sk-up",
                "ca_file": str(certificate[0]),
            }
        )
        client = await gateway.connect()

        for _ in range(3):
            assert (await client.request("GET", "/v1/models")).body == b"{}"

        assert heads[0].startswith(f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n".encode())


async def test_the_authorities_of_the_system_are_trusted_and_nobody_else(tmp_path: Path) -> None:
    """By a whole process: what is imported first there must not decide whom it believes."""
    known, unknown = (make_certificate(tmp_path, name) for name in ("known", "unknown"))
    statuses = []
    for certificate in (known, unknown):
        keys = tmp_path / "keys"
        async with (
            tls_upstream(certificate) as (port, _),
            running_command(
                *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
                *("--keys-dir", str(keys), "--upstream", f"https://127.0.0.1:{port}/v1"),
                SSL_CERT_FILE=str(known[0]),
                OPENAI_API_KEY="sk-up",
            ) as command,
            await RawClient.connect(command.host, command.port, credential_of(KeyRing.load(keys))) as client,
        ):
            statuses.append((await client.request("GET", "/v1/models")).status)

    assert statuses == [200, 502]


@pytest.mark.both_loops
@pytest.mark.parametrize("size", [100_000, 500_000, 3_000_000])
@pytest.mark.parametrize("framing", ["Content-Length: %d\r\n", ""])
async def test_a_large_answer_arrives_whole_although_the_upstream_hangs_up_behind_it(
    start_gateway: StartGateway, tmp_path: Path, framing: str, size: int
) -> None:
    certificate = make_certificate(tmp_path, "good")
    context = served_with(certificate)
    body = bytes(range(250)) * (size // 250)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        length = framing % len(body) if framing else ""
        writer.write(f"HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n".encode() + body)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        way = {
            "base_url": f"https://127.0.0.1:{port}/v1",
            "api_key": "sk-upstream",
            "ca_file": str(certificate[0]),
        }
        gateway = await start_gateway(upstream=way)
        clients = [await gateway.connect() for _ in range(12)]
        answers = await asyncio.gather(*(client.request("GET", "/v1/models") for client in clients))

    assert [(a.status, a.clean_end, len(a.body)) for a in answers] == [(200, True, len(body))] * 12
    assert all(answer.body == body for answer in answers)


async def test_an_upstream_that_speaks_no_tls_is_a_502(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(plain, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        gateway = await start_gateway(
            upstream={"base_url": f"https://127.0.0.1:{port}/v1", "api_key": "sk-up"}
        )
        client = await gateway.connect()

        assert_upstream_error(await client.request("GET", "/v1/models"), 502, "upstream_unreachable")


# Through a proxy.


class TinyProxy:
    """An HTTP proxy: forwards absolute-form requests, tunnels CONNECT, and remembers the heads it was sent."""

    def __init__(self, *, refuse: bytes = b"") -> None:
        self.heads: list[bytes] = []
        self._refuse = refuse

    async def __aenter__(self) -> TinyProxy:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            if self._refuse:
                writer.write(self._refuse)
                return
            method, target, _ = head.split(b" ", 2)
            authority = target if method == b"CONNECT" else target.split(b"/")[2]
            host, _, port = authority.decode().rpartition(":")
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                far_writer.write(head.replace(b"http://" + authority, b"", 1))
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while piece := await reader.read(65536):
                writer.write(piece)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


async def test_a_plain_upstream_is_asked_through_the_proxy_in_absolute_form(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    async with TinyProxy() as proxy:
        gateway = await start_gateway(
            upstream={
                "base_url": upstream.base_url,
                "api_key": "sk-up",
                "http_proxy": f"http://user:word@127.0.0.1:{proxy.port}",
            }
        )
        client = await gateway.connect()

        answer = await client.request("POST", "/v1/chat/completions?a=%41", QUESTION, headers=JSON)

        assert (answer.status, answer.body) == (200, b"{}")
        host = f"127.0.0.1:{upstream.port}"
        lines = proxy.heads[0].split(b"\r\n")
        assert lines[0] == f"POST http://{host}/v1/chat/completions?a=%41 HTTP/1.1".encode()
        assert f"Host: {host}".encode() in lines
        assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk" in lines
        assert upstream.requests[0].body == QUESTION


async def test_a_tls_upstream_is_reached_through_a_tunnel_that_hides_everything_from_the_proxy(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    certificate = make_certificate(tmp_path, "good")
    async with TinyProxy() as proxy, tls_upstream(certificate) as (port, heads):
        gateway = await start_gateway(
            upstream={
                "base_url": f"https://127.0.0.1:{port}/v1",
                "api_key": "sk-up",
                "ca_file": str(certificate[0]),
                "http_proxy": f"http://user:word@127.0.0.1:{proxy.port}",
            }
        )
        client = await gateway.connect()

        for _ in range(3):
            assert (await client.request("GET", "/v1/models")).body == b"{}"

        assert [head.split(b"\r\n")[0] for head in proxy.heads] == [
            f"CONNECT 127.0.0.1:{port} HTTP/1.1".encode()
        ]
        assert b"Proxy-Authorization: Basic dXNlcjp3b3Jk" in proxy.heads[0]
        assert b"sk-up" not in proxy.heads[0]
        assert len(heads) == 3
        assert all(head.startswith(b"GET /v1/models HTTP/1.1\r\n") for head in heads)
        assert not any(b"proxy-" in head.lower() for head in heads)


async def test_the_tunnel_does_not_excuse_a_bad_certificate(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    async with TinyProxy() as proxy, tls_upstream(make_certificate(tmp_path, "bad")) as (port, heads):
        gateway = await start_gateway(
            upstream={
                "base_url": f"https://127.0.0.1:{port}/v1",
                "api_key": "sk-up",
                "http_proxy": f"http://127.0.0.1:{proxy.port}",
            }
        )
        client = await gateway.connect()

        assert_upstream_error(await client.request("GET", "/v1/models"), 502, "upstream_unreachable")
        assert heads == []


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required", "502 Bad Gateway"])
async def test_a_proxy_that_refuses_the_tunnel_is_a_502_about_the_upstream(
    status: str, start_gateway: StartGateway
) -> None:
    async with TinyProxy(refuse=f"HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\nsecret".encode()) as proxy:
        gateway = await start_gateway(
            upstream={
                "base_url": "https://127.0.0.1:1/v1",
                "api_key": "sk-up",
                "http_proxy": f"http://user:word@127.0.0.1:{proxy.port}",
            }
        )
        client = await gateway.connect()

        answer = await client.request("GET", "/v1/models")

        assert_upstream_error(answer, 502, "upstream_unreachable")
        await gateway.lines.wait(1)
        for text in (answer.body, *gateway.lines.raw):
            assert b"word@" not in text
            assert b"dXNlcjp3b3Jk" not in text
            assert b"secret" not in text
