"""`gateway serve`: run the gateway until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import uvloop

from gateway.app.build import build_app
from gateway.app.own_upstream import refuse_itself
from gateway.app.private_listener import PrivateListener
from gateway.app.process import App, GatewayRunner, make_runner
from gateway.cli.options import add_settings, keyless, settings_from
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing, ensure_ring
from gateway.operations.scopes import expand
from gateway.operations.table import OperationTable
from gateway.proxy.acceptor import listening_sockets
from gateway.settings.section import SettingsInvalid, split_address
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings

FIRST_CREDENTIAL_SECONDS = 30 * 86400

_BACKLOG = 4096
"""Newcomers that may wait while the loop is busy; the kernel's own bound is the lower one on most machines."""

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BLOCK_BYTES = 2**20
_KEPT_BYTES = 4 * 2**20
"""What is kept when it is free: less, and what comes by TLS is new pages from the system for every read."""


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser("serve", help="run the gateway", allow_abbrev=False)
    add_settings(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    seen = Seen()
    settings = settings_from(options, seen)
    problems = keyless(settings)
    if problems:
        raise SettingsInvalid(problems)
    refuse_itself(settings)
    ring, made = ensure_ring(settings.keys_dir)
    for warning in seen.warnings:
        print(f"gateway: {warning}", file=sys.stderr)
    if made:
        _print_first_credential(settings, ring)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="gateway: %(message)s")
    app = build_app(
        settings,
        ring=ring,
        keys_dir=settings.keys_dir,
        read_settings=partial(_reread, options),
    )
    run_loop(serve(app))
    return 0


def _reread(options: argparse.Namespace, seen: Seen) -> Settings:
    settings = settings_from(options, seen)
    refuse_itself(settings)
    return settings


def run_loop(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end on uvloop."""
    _give_large_blocks_back()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)


def _spare_the_collector() -> None:
    """Look for cyclic garbage less often, and never among what lives as long as the process.

    An exchange leaves hardly any cycles; walking all modules for them costs about a tenth of its time. What little
    the start leaves is kept: to look for it takes as long as a tenth of the start.
    """
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _give_large_blocks_back() -> None:
    """Return a large body's memory to the system when it is freed, where the C library is glibc.

    Left to itself, glibc takes the first large block that is freed for a sign to keep blocks of its size.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


async def serve(app: App, *, listening: Callable[[str, str], None] | None = None) -> None:
    """Serve an app on its configured addresses until a signal; the second signal ends it at once.

    `listening` is told the public and the private address once connections are accepted.

    Raises OSError when an address cannot be listened on.
    """
    settings = app.services.settings
    stop = _signals(app)
    runner = make_runner(app)
    await runner.setup()
    private_host, private_port = split_address(settings.admin_listen)
    listener = PrivateListener(
        private_host,
        private_port,
        registry=app.services.metrics.registry,
        lifecycle=app.services.lifecycle,
        names=settings.admin_hosts,
        refused=app.services.metrics.refused_connections.labels("private").inc,
    )
    try:
        host, port = split_address(settings.listen)
        try:
            runner.accept(listening_sockets(host, port, backlog=_BACKLOG))
        except OSError as error:
            raise OSError(
                f"listen {settings.listen}: {error.strerror}; choose another with --listen"
            ) from None
        try:
            port = listener.start()
        except OSError as error:
            raise OSError(f"admin_listen {settings.admin_listen}: {error.strerror}") from None
        _spare_the_collector()
        public, private = _shown(runner.addresses[0]), _shown((private_host, port))
        print(
            f"gateway: serving on http://{public}, metrics on http://{private}/metrics, "
            f"upstream {_upstreams(settings)}",
            file=sys.stderr,
            flush=True,
        )
        if listening is not None:
            listening(public, private)
        received = await stop.get()
        app.services.lifecycle.ready = False
        print("gateway: stopping; signal again to stop at once", file=sys.stderr, flush=True)
        impatient = asyncio.create_task(stop.get())
        draining = asyncio.create_task(_drain(app, runner, settings, notice=received == signal.SIGTERM))
        await asyncio.wait({impatient, draining}, return_when=asyncio.FIRST_COMPLETED)
        app.services.lifecycle.draining = True
        for task in (impatient, draining):
            task.cancel()
        await asyncio.gather(impatient, draining, return_exceptions=True)
    finally:
        await runner.cleanup()
        await asyncio.to_thread(listener.stop)


async def _drain(app: App, runner: GatewayRunner, settings: Settings, *, notice: bool) -> None:
    if notice:  # Ctrl-C comes from a person; there is no load balancer to wait for
        await asyncio.sleep(settings.drain_notice_seconds)
    runner.stop_accepting()
    await app.drain(settings.drain_seconds)


def _signals(app: App) -> asyncio.Queue[int]:
    received: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.put_nowait, number)
    if app.configuration is not None:
        loop.add_signal_handler(signal.SIGHUP, app.configuration.reload_soon)
    return received


def _upstreams(settings: Settings) -> str:
    own = (tenant.upstream.base_url or settings.upstream.base_url for tenant in settings.tenants.values())
    first, *others = dict.fromkeys(own)
    return first if not others else f"{first} and {len(others)} more"


def _shown(address: Any) -> str:
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _print_first_credential(settings: Settings, ring: KeyRing) -> None:
    tenant = "default" if "default" in settings.tenants else next(iter(settings.tenants))
    issued = issue(
        ring,
        settings.credentials,
        tenant=tenant,
        subject="first-run",
        scopes=expand(settings.tenants[tenant].scopes, OperationTable.load().scopes),
        ttl_seconds=min(FIRST_CREDENTIAL_SECONDS, int(settings.credentials.max_lifetime_seconds)),
    )
    print(
        f"gateway: made a signing key in {settings.keys_dir}\n"
        f"gateway: a first credential, for the tenant {tenant}, shown this once:\n\n{issued.credential}\n",
        file=sys.stderr,
        flush=True,
    )
