"""While the worst bodies that are accepted are read, judged and sent on, the loop serves everybody else."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.credentials.key_ring import ensure_ring
from tests.kit.asking import credential_of
from tests.kit.client import MIB
from tests.kit.command import RunningCommand, running_command

pytestmark = pytest.mark.asyncio(loop_scope="module")

# A loaded machine may take the processor away for a while; parsing one of these bodies took seconds.
LONGEST_SECONDS = 1.5
CONFIGURATION = """
[tenants.acme]
models = ["m*"]
default_model = "m"
metering = true
[tenants.acme.limits]
max_tokens_per_1_minute = 30000000000
"""
LARGE = 60 * MIB
BODIES: dict[str, Callable[[], bytes]] = {
    "one string": lambda: b'{"model":"m","stream":true,"input":"' + b"a" * LARGE + b'"}',
    "without a model": lambda: b'{"stream":true,"input":"' + b"a" * LARGE + b'"}',
    "escaped quotes": lambda: b'{"model":"m","input":"' + b'\\"' * (LARGE // 2) + b'"}',
    "backslashes": lambda: b'{"model":"m","input":"' + b"\\\\" * (LARGE // 2) + b'"}',
    "escaped letters": lambda: b'{"model":"m","input":"' + b"\\u0061" * (LARGE // 6) + b'"}',
    "underscores": lambda: b'{"model":"m","input":"' + b"_id" * (LARGE // 3) + b'"}',
    "objects": lambda: b'{"model":"m","input":[' + b'{"model":"m"},' * 99_000 + b"1]}",
    "members": lambda: (
        b'{"model":"m","input":{' + b",".join(b'"k%d_id":7' % n for n in range(190_000)) + b"}}"
    ),
    "numbers": lambda: b'{"model":"m","input":[' + b"1.5e-300," * 1_999_000 + b"1]}",
    "strings": lambda: b'{"model":"m","input":[' + b'"abcdefghijabcdefghi\\n",' * 1_999_000 + b'""]}',
    "nesting": lambda: b'{"model":"m","input":[' + (b"[" * 900 + b"]" * 900 + b",") * 200 + b"1]}",
    "digits": lambda: b'{"model":"m","temperature":1.' + b"1" * LARGE + b"}",
    "names of megabytes": lambda: b'{"model":"m","' + b"a" * 20 * MIB + b'":[' + b"{}," * 190_000 + b"1]}",
    "too complex": lambda: b'{"model":"m","input":[' + b"[]," * 10_000_000 + b"1]}",
    "middling objects": lambda: b'{"model":"m","input":[' + b"{}," * 21_000 + b"1]}",
}
"""Each is made when it is sent: half a gigabyte would burden every process that looks for tests here."""


@dataclass
class Crowd:
    """A gateway of its own process, and who asks it."""

    gateway: RunningCommand
    credential: str

    def longest_turn_seconds(self) -> float:
        with socket.create_connection((self.gateway.host, self.gateway.admin_port), 5) as connection:
            connection.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
            text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        found = re.search(r'^gateway_event_loop_lag_max_seconds{worker="0"} (\S+)$', text, re.MULTILINE)
        assert found is not None, text
        return float(found[1])

    def status_of(self, body: bytes) -> int:
        with socket.create_connection((self.gateway.host, self.gateway.port), 60) as connection:
            connection.sendall(
                f"POST /v1/responses HTTP/1.1\r\nHost: gateway.test\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {self.credential}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            )
            connection.sendall(body)
            return int(connection.recv(100).split()[1])


@contextmanager
def draining_upstream() -> Iterator[int]:
    """Answers at once whatever has come, and keeps none of it."""

    def serve(connection: socket.socket) -> None:
        buffer = bytearray(MIB)
        with connection, connection.makefile("rb") as stream:
            while head := b"".join(iter(stream.readline, b"\r\n")):
                stated = re.search(rb"content-length: (\d+)", head.lower())
                left = int(stated[1]) if stated else 0
                while left:
                    left -= stream.readinto(memoryview(buffer)[: min(MIB, left)])
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
                )

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def crowd(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Crowd]:
    directory: Path = tmp_path_factory.mktemp("gateway")
    ring, _ = ensure_ring(directory / "keys")
    (directory / "gateway.toml").write_text(CONFIGURATION)
    flags = (
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--keys-dir",
        str(directory / "keys"),
    )
    with draining_upstream() as port:
        async with running_command(
            *("serve", "--config", str(directory / "gateway.toml"), *flags),
            *("--upstream", f"http://127.0.0.1:{port}/v1"),
            OPENAI_API_KEY="sk-upstream",
        ) as gateway:
            yield Crowd(gateway, credential_of(ring, tenant="acme"))


@pytest.mark.parametrize("name", BODIES)
async def test_for_a_body(crowd: Crowd, name: str) -> None:
    status = await asyncio.to_thread(crowd.status_of, BODIES[name]())

    assert status == (413 if name == "too complex" else 200)
    assert await asyncio.to_thread(crowd.longest_turn_seconds) < LONGEST_SECONDS
