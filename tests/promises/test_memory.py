"""A gigabyte either way costs a gateway no memory: both directions are held back to what the other side takes."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gateway.credentials.key_ring import ensure_ring
from tests.kit.asking import credential_of
from tests.kit.client import MIB
from tests.kit.command import RunningCommand, running_command

GIGABYTE = 2**30
MAX_GROWTH_BYTES = 16 * MIB
PIECE = bytes(MIB)
TIMEOUT_SECONDS = 20.0

# How long a side dawdles at its first megabyte, so that whoever does not hold the other side back fills up.
DAWDLE_SECONDS = 0.5

FORM_HEAD = (
    b'--edge\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n"
)
FORM_TAIL = (
    b'\r\n--edge\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1'
    b'\r\n--edge\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nassistants\r\n--edge--\r\n'
)


@pytest.mark.parametrize("target", ["/v1/files", "/v1/audio/transcriptions"])
async def test_memory_over_an_upload_of_a_gigabyte_grows_by_16_mb_at_most(
    target: str, tmp_path: Path
) -> None:
    """Of /v1/files nothing is read; the form of a transcription is, for its model, which stands last here."""
    length = len(FORM_HEAD) + GIGABYTE + len(FORM_TAIL)
    received: list[int] = []

    def sink(connection: socket.socket, head: bytes) -> None:
        stated = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
        assert stated is not None
        time.sleep(DAWDLE_SECONDS)
        received.append(drained(connection, int(stated[1])))
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    def upload(connection: socket.socket, credential: str) -> bytes:
        connection.sendall(
            f"POST {target} HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {credential}\r\n"
            f"Content-Type: multipart/form-data; boundary=edge\r\nContent-Length: {length}\r\n\r\n".encode()
        )
        connection.sendall(FORM_HEAD)
        for _ in range(GIGABYTE // MIB):
            connection.sendall(PIECE)
        connection.sendall(FORM_TAIL)
        return read_head(connection)

    with raw_upstream(sink) as port:
        growth, answer = await measured(tmp_path, port, upload)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received == [length]
    assert growth <= MAX_GROWTH_BYTES


async def test_memory_over_a_download_of_a_gigabyte_grows_by_16_mb_at_most(tmp_path: Path) -> None:
    received: list[int] = []

    def source(connection: socket.socket, head: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % GIGABYTE)
        for _ in range(GIGABYTE // MIB):
            connection.sendall(PIECE)

    def download(connection: socket.socket, credential: str) -> bytes:
        connection.sendall(
            f"GET /v1/files/file-1/content HTTP/1.1\r\nHost: gateway.test\r\n"
            f"Authorization: Bearer {credential}\r\n\r\n".encode()
        )
        head = read_head(connection)
        time.sleep(DAWDLE_SECONDS)
        received.append(drained(connection, GIGABYTE))
        return head

    with raw_upstream(source) as port:
        growth, answer = await measured(tmp_path, port, download)

    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received == [GIGABYTE]
    assert growth <= MAX_GROWTH_BYTES


async def measured(
    directory: Path, upstream_port: int, exchange: Callable[[socket.socket, str], bytes]
) -> tuple[int, bytes]:
    """By how many bytes a gateway's peak exceeds what it held before an exchange, and what came of that."""
    keys = directory / "keys"
    ring, _ = ensure_ring(keys)
    flags = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--keys-dir", str(keys))
    async with running_command(
        "serve", *flags, "--upstream", f"http://127.0.0.1:{upstream_port}/v1", OPENAI_API_KEY="sk-upstream"
    ) as gateway:
        credential = credential_of(ring)
        await asyncio.to_thread(connected, gateway, lambda client: refused(client, credential))
        before = memory_bytes(gateway, "VmRSS")
        Path(f"/proc/{gateway.process.pid}/clear_refs").write_text("5")  # the peak starts afresh
        answer = await asyncio.to_thread(connected, gateway, lambda client: exchange(client, credential))
        return memory_bytes(gateway, "VmHWM") - before, answer


def refused(connection: socket.socket, credential: str) -> bytes:
    """An exchange that the gateway ends at its door: what is loaded at the first request is loaded then."""
    connection.sendall(
        f"GET /v1/a//b HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {credential}\r\n\r\n".encode()
    )
    head = read_head(connection)
    assert head.startswith(b"HTTP/1.1 400")
    return head


def connected(gateway: RunningCommand, act: Callable[[socket.socket], bytes]) -> bytes:
    with socket.create_connection((gateway.host, gateway.port), TIMEOUT_SECONDS) as connection:
        return act(connection)


@contextmanager
def raw_upstream(serve: Callable[[socket.socket, bytes], None]) -> Iterator[int]:
    """Serve one connection on a thread; fails when that failed."""
    failures: list[Exception] = []

    def run() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(TIMEOUT_SECONDS)
                serve(connection, read_head(connection))
        except Exception as failure:  # noqa: BLE001 (a thread's failure is the test's)
            failures.append(failure)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(TIMEOUT_SECONDS)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()
    assert not failures, failures


def read_head(connection: socket.socket) -> bytes:
    """Read exactly a message's head, so that the body is left for whoever counts it."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    return head


def drained(connection: socket.socket, length: int) -> int:
    """Read a body of this length, or to the connection's end; returns how many bytes came."""
    buffer = bytearray(MIB)
    count = 0
    while count < length:
        size = connection.recv_into(buffer, min(MIB, length - count))
        if not size:
            break
        count += size
    return count


def memory_bytes(gateway: RunningCommand, field: str) -> int:
    """A field of the gateway's memory as the kernel counts it: VmRSS now, VmHWM at its peak."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024
