"""nginx and HAProxy as programs of their own, with the examples of deploy/, in front of gateways that are processes."""

from __future__ import annotations

import asyncio
import shutil
import signal
import ssl
from asyncio.subprocess import DEVNULL, STDOUT, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gateway.credentials.issue import issue
from gateway.credentials.key_ring import ensure_ring
from gateway.operations.table import OperationTable
from gateway.settings.settings import Settings
from tests.kit.client import RawClient
from tests.kit.command import RunningCommand, running_command
from tests.kit.redis import free_port
from tests.kit.tls import make_certificate
from tests.kit.waiting import found

DEPLOY = Path(__file__).parents[2] / "deploy"
CHECKED_SECONDS = 0.25
"""How often HAProxy looks whether a gateway is ready, here; fewer than in the example, as of all that is waited for."""

NOTICE_SECONDS = 4 * CHECKED_SECONDS
"""Of the gateways: longer than HAProxy takes to see that one is about to stop."""


def filled(example: str, changes: Mapping[str, str]) -> str:
    """An example of deploy/ for this machine: each of these stands there once, and is replaced."""
    text = (DEPLOY / example).read_text("utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, f"{example}: {old}"
        text = text.replace(old, new)
    return text


def nginx(folder: Path, port: int, backends: Sequence[int]) -> list[str]:
    """Write a configuration that takes in the example; what starts nginx with it."""
    certificate, key = make_certificate(folder, "front")
    changes = {
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "/etc/nginx/certs/gateway.pem": str(certificate),
        "/etc/nginx/certs/gateway.key": str(key),
        "10.0.0.11:8080": f"127.0.0.1:{backends[0]}",
        "10.0.0.12:8080": f"127.0.0.1:{backends[1]}",
    }
    (folder / "gateway.conf").write_text(filled("nginx/gateway.conf", changes))
    own = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    main = [
        *("daemon off;", "worker_processes 1;", "user root;", f"pid {folder}/nginx.pid;"),
        *("events { worker_connections 1024; }", "http {", "access_log off;"),
        *(f"{name}_temp_path {folder}/{name};" for name in own),
        *(f"include {folder}/gateway.conf;", "}"),
    ]
    (folder / "nginx.conf").write_text("\n".join(main))
    return ["nginx", "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, port: int, backends: Sequence[int]) -> list[str]:
    """Write the example for this machine; what starts HAProxy with it."""
    certificate, key = make_certificate(folder, "front")
    both = folder / "both.pem"
    both.write_bytes(certificate.read_bytes() + key.read_bytes())
    changes = {
        "bind :443 ": f"bind 127.0.0.1:{port} ",
        "/etc/haproxy/certs/gateway.pem": str(both),
        "10.0.0.11:8080": f"127.0.0.1:{backends[0]}",
        "10.0.0.12:8080": f"127.0.0.1:{backends[1]}",
        "inter 1s": f"inter {int(CHECKED_SECONDS * 1000)}ms",
    }
    (folder / "haproxy.cfg").write_text(filled("haproxy/haproxy.cfg", changes))
    return ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]


Configure = Callable[[Path, int, Sequence[int]], list[str]]

CHECKS: dict[Configure, str] = {nginx: "-t", haproxy: "-c"}
"""The option of each with which it checks a configuration, and ends."""


@dataclass
class Front:
    """A balancer that listens, by TLS."""

    port: int
    tls: ssl.SSLContext
    said: Path
    """Everything that it has said."""

    async def connect(self, credential: str) -> RawClient:
        """A connection through it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, limit=2**22)
        return RawClient(reader, writer, credential)


@asynccontextmanager
async def in_front(configure: Configure, folder: Path, backends: Sequence[int]) -> AsyncIterator[Front]:
    """Start a balancer in front of two ports of this machine, and wait until it listens."""
    port = free_port()
    command = configure(folder, port, backends)
    program = shutil.which(command[0]) or shutil.which(command[0], path="/usr/sbin")
    assert program is not None, f"{command[0]} is not installed"
    said = folder / "said"
    with said.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            program, *command[1:], stdin=DEVNULL, stdout=output, stderr=STDOUT
        )
    try:
        await found(lambda: _listens(process, port, said), 10)
        yield Front(port, ssl.create_default_context(cafile=folder / "front.pem"), said)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(process: Process, port: int, said: Path) -> bool:
    assert process.returncode is None, said.read_text()
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True


@dataclass
class Machine:
    """A gateway as a process with ports of its own, which is started again on the same."""

    upstream: str
    keys_dir: Path
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)
    command: RunningCommand | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        self.command = await self._stack.enter_async_context(
            running_command(
                *("serve", "--listen", f"127.0.0.1:{self.port}"),
                *("--admin-listen", f"127.0.0.1:{self.admin_port}"),
                *("--upstream", self.upstream, "--keys-dir", str(self.keys_dir)),
                *("--set", f"drain_notice_seconds={NOTICE_SECONDS}"),
                OPENAI_API_KEY="sk-upstream",
            )
        )

    async def stop(self) -> None:
        """End it as a process manager does."""
        assert self.command is not None
        self.command.signal(signal.SIGTERM)
        assert await self.command.exit_code(20) == 0, self.command.stderr
        await self._stack.aclose()

    async def __aenter__(self) -> Machine:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def credential_by(keys_dir: Path) -> str:
    """A credential of the tenant `default` that machines with these keys accept."""
    ring, _ = ensure_ring(keys_dir)
    return issue(
        ring,
        Settings().credentials,
        tenant="default",
        subject="tester",
        scopes=OperationTable.load().scopes,
        ttl_seconds=3600,
    ).credential
