"""Several workers serve until a signal: what there is around their supervisor."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

from gateway.app.health import MachineHealth
from gateway.app.messages import Message
from gateway.app.private_listener import PrivateListener
from gateway.app.serving import (
    cannot_listen,
    most_seconds,
    reload_on_signal,
    say_serving,
    shown,
    spare_the_collector,
)
from gateway.app.systemd import Notifier
from gateway.app.telling import tell
from gateway.settings.reloading import Configuration
from gateway.settings.section import split_address
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings
from gateway.supervisor.counting import Counting
from gateway.supervisor.fetching import Fetching
from gateway.supervisor.listeners import listen
from gateway.supervisor.supervisor import Supervisor
from gateway.supervisor.worker import Worker

Gather = Callable[[Seen], Mapping[str, Any]]


async def supervise(settings: Settings, values: Mapping[str, Any], *, workers: int, gather: Gather) -> int:
    """Serve with so many workers until a signal; the exit code. The second signal ends it at once.

    `settings` were judged from `values`; `gather` gathers anew. Raises OSError when an address cannot be listened on.
    """
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        listeners = listen(settings.listen, workers)
    except OSError as error:
        raise cannot_listen("listen", settings.listen, error) from None
    notifier = Notifier.from_environ(os.environ)
    counting = Counting(lambda: supervisor.workers)
    fetching = Fetching(fetched=counting.common.jwks_fetched)

    def hear(worker: Worker, message: Message, rest: bytes) -> None:
        match message["say"]:
            case "counted":
                counting.hear(worker, rest)
            case "keys":
                fetching.answer_soon(worker, message)

    health = MachineHealth(
        lambda: [worker.state for worker in supervisor.workers],
        more=lambda: {"restart": asdict(supervisor.restart)},
    )
    supervisor = Supervisor(
        settings,
        values,
        listeners,
        gather=lambda: gather(Seen()),
        replaced=counting.metrics.restarted,
        says=hear,
        gone=counting.gone,
        looked=health.live,
    )
    async with AsyncExitStack() as stack:
        port = _listen_privately(settings, health, counting, stack)
        stack.push_async_callback(fetching.close)
        stops = _heed_signals(supervisor)
        _run(supervisor.watch.run(), stack)
        _run(counting.run(), stack)
        stopped = asyncio.create_task(stops.get())
        opening = asyncio.create_task(supervisor.open())
        await asyncio.wait({opening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        problems = opening.result() if opening.done() else []
        if problems is not None:
            for problem in problems:
                tell(problem)
            await supervisor.stop(notice=False, impatient=_set())
            await opening
            return 0 if stopped.done() else 1
        configuration = await _follow(values, supervisor, counting, notifier, gather, stack)
        private = shown((split_address(settings.admin_listen)[0], port))
        say_serving(settings, shown(listeners.address), private, workers=workers)
        spare_the_collector()
        notifier.ready(f"{workers} workers serve on {shown(listeners.address)}")
        _run(notifier.tell_while_live(lambda: health.live().ok), stack)
        hopeless = asyncio.create_task(supervisor.hopeless.wait())
        await asyncio.wait({hopeless, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await configuration.close()
        if not stopped.done():
            stopped.cancel()
            tell("no worker comes up any more; giving up")
            await supervisor.stop(notice=False, impatient=_set())
            return 1
        hopeless.cancel()
        tell("stopping; signal again to stop at once")
        notifier.stopping("stopping: what runs may finish", most_seconds=most_seconds(settings))
        impatient = asyncio.Event()
        _run(_hurry(stops, impatient), stack)
        await supervisor.stop(notice=stopped.result() == signal.SIGTERM, impatient=impatient)
    return 0


def _listen_privately(
    settings: Settings, health: MachineHealth, counting: Counting, stack: AsyncExitStack
) -> int:
    """Open the private listener; its port. Raises OSError."""
    host, port = split_address(settings.admin_listen)
    listener = PrivateListener(
        host, port, exposition=counting.exposition(), health=health, names=settings.admin_hosts
    )
    try:
        found = listener.start()
    except OSError as error:
        raise cannot_listen("admin_listen", settings.admin_listen, error) from None
    stack.push_async_callback(asyncio.to_thread, listener.stop)
    return found


def _heed_signals(supervisor: Supervisor) -> asyncio.Queue[int]:
    """Replace workers when asked to; returns where signals to stop come."""
    stops: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stops.put_nowait, number)
    loop.add_signal_handler(signal.SIGUSR2, supervisor.replace_all_soon)
    loop.add_signal_handler(signal.SIGHUP, _nothing_yet)
    return stops


async def _follow(
    values: Mapping[str, Any],
    supervisor: Supervisor,
    counting: Counting,
    notifier: Notifier,
    gather: Gather,
    stack: AsyncExitStack,
) -> Configuration[Mapping[str, Any]]:
    """Follow the configuration, and put what is new in it in force in every worker, or in none.

    It is judged by the workers alone: they may be of a later release, and know more settings.
    """
    configuration = Configuration(
        read=gather,
        take=supervisor.in_force.take,
        loaded=counting.common.configuration_loaded,
        replaceable=True,
    )
    await configuration.start(values)
    stack.push_async_callback(configuration.close)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_on_signal, configuration, notifier)
    return configuration


def _nothing_yet() -> None:
    """What is read at the start is new enough."""


async def _hurry(stops: asyncio.Queue[int], impatient: asyncio.Event) -> None:
    await stops.get()
    impatient.set()


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


def _run(what: Any, stack: AsyncExitStack) -> None:
    """Have something run until the end."""
    task = asyncio.create_task(what)

    async def end() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(end)
