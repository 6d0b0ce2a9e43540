"""A gateway under test, started through the same build_app and make_runner as production."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gateway.app.build import build_app
from gateway.app.place import ALONE, Place
from gateway.app.process import App, GatewayRunner, make_runner
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing
from gateway.proxy.acceptor import listening_sockets
from gateway.settings.sources import load
from gateway.traces.writer import Export
from tests.kit.client import RawClient
from tests.kit.exposition import page_of
from tests.kit.said import checked

BY_NAME = ("org.*", "realtime:mint", "unlisted:*", "usage:read")
EVERY_SCOPE: dict[str, Any] = {"scopes": ["*", *BY_NAME]}
"""The table of a tenant that may do everything."""


@dataclass
class Gateway:
    """Handles on a running gateway."""

    app: App
    ring: KeyRing
    host: str
    port: int
    lines: LogReader
    runner: GatewayRunner
    clients: list[RawClient] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    """Nested like the configuration file; where they are followed, a reload reads what a test has put there."""

    sockets: list[socket.socket] = field(default_factory=list)
    """What it listens on."""

    @property
    def base_url(self) -> str:
        """What an SDK takes as its base URL."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}/v1"

    @property
    def tls(self) -> ssl.SSLContext | None:
        """How a client speaks to it, where it serves TLS; the certificate is its own authority."""
        certificate = self.settings.get("tls_certificate")
        return None if certificate is None else ssl.create_default_context(cafile=certificate)

    def credential(
        self,
        scopes: Iterable[str] | None = None,
        *,
        tenant: str = "acme",
        subject: str = "tester",
        **more: Any,
    ) -> str:
        """A credential that this gateway accepts; every scope unless told otherwise."""
        return issue(
            self.ring,
            self.app.services.settings.credentials,
            tenant=tenant,
            subject=subject,
            scopes=self.app.services.table.scopes if scopes is None else frozenset(scopes),
            ttl_seconds=more.pop("ttl_seconds", 3600),
            **more,
        ).credential

    async def connect(self) -> RawClient:
        """A raw connection to the public listener; closed with the gateway, if the test has not done it."""
        client = await RawClient.connect(self.host, self.port, self.credential(), tls=self.tls)
        self.clients.append(client)
        return client

    def metrics(self) -> str:
        """What /metrics would say now."""
        return page_of(self.app.services.metrics.registry)

    def metric(self, series: str) -> float:
        """The value of one series, written as in the exposition format; 0 when it has not appeared."""
        for line in self.metrics().splitlines():
            if line.rsplit(" ", 1)[0] == series:
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def upstream_connections(self, state: str = "busy") -> int:
        """How many it holds; an upstream that does not read cannot see for itself that it was left."""
        return int(self.metric(f'gateway_upstream_connections{{state="{state}",upstream="default"}}'))


_MARK = b"all that was written before has been read\n"


class LogReader:
    """Collects the lines that a gateway writes to its log descriptor."""

    def __init__(self) -> None:
        self._read_end, self.descriptor = os.pipe()
        self._lines: list[bytes] = []
        self._marked = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        with os.fdopen(self._read_end, "rb") as stream:
            for line in stream:
                if line == _MARK:
                    self._marked.set()
                else:
                    self._lines.append(line)

    @property
    def raw(self) -> list[bytes]:
        """The lines that have been written so far."""
        if not self._ended:
            self._marked.clear()
            os.write(self.descriptor, _MARK)
            assert self._marked.wait(10)
        return list(self._lines)

    async def wait(self, count: int = 1, *, within_seconds: float = 5.0) -> list[dict[str, Any]]:
        """The first `count` lines, parsed; fails when they do not come."""
        deadline = asyncio.get_running_loop().time() + within_seconds
        while len(self._lines) < count:
            assert asyncio.get_running_loop().time() < deadline, f"{len(self._lines)} of {count} lines came"
            await asyncio.sleep(0.005)
        return [checked(line) for line in self._lines]

    def close(self) -> None:
        """End the collecting thread."""
        self._ended = True
        os.close(self.descriptor)
        self._thread.join()


@asynccontextmanager
async def running_gateway(
    *,
    ring: KeyRing | None = None,
    keys_dir: Path | None = None,
    followed: bool = False,
    file: Path | None = None,
    place: Place = ALONE,
    export_spans: Export | None = None,
    **settings: Any,
) -> AsyncIterator[Gateway]:
    """Start a gateway on a free port; `settings` are nested like the configuration file.

    `keys_dir` is what it follows and where it remembers accounts; None: it forgets them at its end. With `followed`
    its settings can be read again, from the same dictionary; with `file` they are added to those of that file,
    which is followed. `export_spans` is told of spans in a collector's
    place. `place` is what it is of the workers of its machine.
    """
    if file is None:
        settings.setdefault("tenants", {"acme": EVERY_SCOPE})
    # What an upstream under test is asked, its test asks; but where a test says otherwise.
    settings["upstream"] = {"model_list_seconds": 0, **settings.get("upstream", {})}
    lines = LogReader()
    ring = ring or KeyRing.ephemeral()
    read = partial(load, file, flags=settings, environ={})
    app = build_app(
        read(),
        ring=ring,
        keys_dir=keys_dir,
        log_descriptor=lines.descriptor,
        place=place,
        export_spans=export_spans,
        read_settings=(lambda seen: read(seen=seen)) if followed or file is not None else None,
    )
    runner = make_runner(app)
    await runner.setup()
    clients: list[RawClient] = []
    try:
        sockets = listening_sockets("127.0.0.1", 0, backlog=1024)
        runner.accept(sockets)
        host, port = runner.addresses[0][:2]
        yield Gateway(app, ring, host, port, lines, runner, clients, settings, sockets)
    finally:
        for client in clients:
            await client.close()
        await runner.cleanup()
        await asyncio.to_thread(lines.close)
