"""One gateway in one process: from its first connection until a signal tells it to stop."""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import gc
import logging
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from gateway import __version__
from gateway.app.exposition import exposition_of_one
from gateway.app.operator_pages import OperatorPages
from gateway.app.operators import Operators
from gateway.app.private_listener import PrivateListener
from gateway.app.process import App, GatewayRunner, make_runner
from gateway.app.state_document import StateDocument, ask_one
from gateway.app.systemd import Notifier
from gateway.exchange.process_log import tell
from gateway.proxy.acceptor import BACKLOG, listening_sockets
from gateway.settings.reloading import Configuration
from gateway.settings.section import revealed, split_address
from gateway.settings.settings import Settings

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGE_BLOCK_BYTES = 2**20
_KEPT_BYTES = 4 * 2**20
"""What is kept when it is free: less, and what comes by TLS is new pages from the system for every read."""

SLACK_SECONDS = 10.0
"""Beyond what runs, for the last lines and the last settlements at a stop."""

_log = logging.getLogger("gateway.process")
_Result = TypeVar("_Result")


def run_loop(main: Coroutine[Any, Any, _Result]) -> _Result:
    """Run to the end on uvloop, ready to say what goes on."""
    dump_when_asked()
    _give_large_blocks_back()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def dump_when_asked() -> None:
    """Write the tracebacks of all threads to standard error upon SIGUSR1, and when a fault or a watchdog ends it."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)


def spare_the_collector() -> None:
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
    notifier = Notifier.from_environ(os.environ)
    stop = _signals(app, notifier)
    runner = make_runner(app)
    await runner.setup()
    listener: PrivateListener | None = None
    try:
        try:
            runner.accept(listening_sockets(*split_address(settings.listen), backlog=BACKLOG))
        except OSError as error:
            raise cannot_listen("listen", settings.listen, error) from None
        private_host, _ = split_address(settings.admin_listen)
        listener = private_listener(app, runner)
        try:
            port = listener.start()
        except OSError as error:
            raise cannot_listen("admin_listen", settings.admin_listen, error) from None
        spare_the_collector()
        public, private = shown(runner.addresses[0]), shown((private_host, port))
        say_serving(settings, public, private)
        if listening is not None:
            listening(public, private)
        notifier.ready(f"serving on {public}")
        watching = asyncio.create_task(notifier.tell_while_live(lambda: app.health.live().ok))
        received = await stop.get()
        app.stop_soon()
        tell("stopping; signal again to stop at once")
        notifier.stopping("stopping: what runs may finish", most_seconds=most_seconds(settings))
        impatient = asyncio.create_task(stop.get())
        draining = asyncio.create_task(_drain(app, runner, settings, notice=received == signal.SIGTERM))
        await asyncio.wait({impatient, draining}, return_when=asyncio.FIRST_COMPLETED)
        for task in (impatient, draining, watching):
            task.cancel()
        await asyncio.gather(impatient, draining, watching, return_exceptions=True)
    finally:
        await runner.cleanup()
        if listener is not None:
            await asyncio.to_thread(listener.stop)


def private_listener(app: App, runner: GatewayRunner) -> PrivateListener:
    """The private listener of the one process, to which clients come by this runner."""
    settings, metrics = app.services.settings, app.services.metrics
    exposition = exposition_of_one(metrics.registry, app.health.worker, lambda: runner.sockets)
    state = StateDocument(
        exposition,
        app.health,
        workers=lambda: (app.health.worker(),),
        ask=ask_one(app.state, asyncio.get_running_loop()),
        port=runner.addresses[0][1],
    )
    operators = Operators(
        lambda: revealed(app.admin_key), refused=lambda reason: metrics.refused_operators.labels(reason).inc()
    )
    return PrivateListener(
        *split_address(settings.admin_listen),
        exposition=exposition,
        health=app.health,
        operators=OperatorPages(operators, told=state.body),
        names=settings.admin_hosts,
        refused=metrics.refused_connections.labels("private").inc,
    )


async def _drain(app: App, runner: GatewayRunner, settings: Settings, *, notice: bool) -> None:
    if notice:  # Ctrl-C comes from a person; there is no load balancer to wait for
        await asyncio.sleep(settings.drain_notice_seconds)
    runner.stop_accepting()
    await app.drain(settings.drain_seconds)


def most_seconds(settings: Settings) -> float:
    """How long a stop takes at most."""
    return settings.drain_notice_seconds + settings.drain_seconds + SLACK_SECONDS


def _signals(app: App, notifier: Notifier) -> asyncio.Queue[int]:
    received: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.put_nowait, number)
    if app.configuration is not None:
        loop.add_signal_handler(signal.SIGHUP, reload_on_signal, app.configuration, notifier)
    loop.add_signal_handler(signal.SIGUSR2, _nobody_to_replace)
    return received


def reload_on_signal(configuration: Configuration[Any], notifier: Notifier) -> None:
    """Read the configuration again, and say so to who waits for that."""
    notifier.reloading("reading the configuration")
    reloading = configuration.reload_soon()
    reloading.add_done_callback(lambda done: notifier.reloaded(well=not done.cancelled() and done.result()))


def _nobody_to_replace() -> None:
    _log.warning(
        "SIGUSR2 replaces workers one by one; this is one process: run it with --workers 2 or more for that"
    )


def cannot_listen(key: str, address: str, error: OSError) -> OSError:
    """What an operator is told when an address cannot be listened on."""
    flag = key.replace("_", "-")
    return OSError(f"{key} {address}: {error.strerror}; choose another with --{flag}")


def say_serving(settings: Settings, public: str, private: str, *, workers: int = 1) -> None:
    """Tell the operator where it serves whom."""
    own = (tenant.upstream.base_url or settings.upstream.base_url for tenant in settings.tenants.values())
    first, *others = dict.fromkeys(own)
    upstream = first if not others else f"{first} and {len(others)} more"
    shared = f", {workers} workers" if workers > 1 else ""
    scheme = "http" if settings.tls_certificate is None else "https"
    version = f"version {__version__}"
    tell(
        f"{version}, serving on {scheme}://{public}, metrics on http://{private}/metrics, upstream {upstream}{shared}"
    )


def shown(address: Any) -> str:
    """An address as people write it."""
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
