"""Several workers serve until a signal: what there is around their supervisor."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Any

from gateway.app.health import MachineHealth
from gateway.app.messages import Message
from gateway.app.operator_pages import OperatorPages
from gateway.app.operators import Operators
from gateway.app.private_listener import PrivateListener
from gateway.app.serving import (
    cannot_listen,
    dump_when_asked,
    most_seconds,
    reload_on_signal,
    say_serving,
    shown,
    spare_the_collector,
)
from gateway.app.state_document import StateDocument
from gateway.app.systemd import Notifier
from gateway.exchange.process_log import tell
from gateway.settings.reloading import Configuration
from gateway.settings.section import revealed, split_address
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings
from gateway.supervisor.counting import Counting
from gateway.supervisor.fetching import Fetching
from gateway.supervisor.listeners import Listeners, listen
from gateway.supervisor.supervisor import Supervisor
from gateway.supervisor.telling import Telling
from gateway.supervisor.worker import Worker

Gather = Callable[[Seen], Mapping[str, Any]]


async def supervise(settings: Settings, values: Mapping[str, Any], *, workers: int, gather: Gather) -> int:
    """Serve with so many workers until a signal; the exit code. The second signal ends it at once.

    `settings` were judged from `values`; `gather` gathers anew. Raises OSError when an address cannot be listened on.
    """
    dump_when_asked()
    try:
        listeners = listen(settings.listen, workers)
    except OSError as error:
        raise cannot_listen("listen", settings.listen, error) from None
    async with AsyncExitStack() as stack:
        return await _Supervision(settings, values, listeners, gather, stack).run()


class _Supervision:
    """A supervisor and what is around it, from the first signal it may get to its end."""

    def __init__(
        self,
        settings: Settings,
        values: Mapping[str, Any],
        listeners: Listeners,
        gather: Gather,
        stack: AsyncExitStack,
    ) -> None:
        """`stack` closes what is opened here."""
        self._settings = settings
        self._values = values
        self._listeners = listeners
        self._gather = gather
        self._stack = stack
        self._notifier = Notifier.from_environ(os.environ)
        self._counting = Counting(lambda: self._supervisor.workers, listeners)
        common = self._counting.common
        self._fetching = Fetching(fetched=common.jwks_fetched, identity_asked=common.identity_asked)
        self._health = MachineHealth(
            lambda: [worker.state for worker in self._supervisor.workers],
            more=lambda: {"restart": asdict(self._supervisor.restart)},
        )
        self._supervisor = Supervisor(
            settings,
            values,
            listeners,
            gather=lambda: gather(Seen()),
            replaced=self._counting.metrics.restarted,
            says=self._hear,
            gone=self._counting.gone,
            looked=self._health.live,
        )
        self._stops: asyncio.Queue[int] = asyncio.Queue()
        """Where signals to stop come."""

    async def run(self) -> int:
        """Serve until told to stop, or until no worker comes up; the exit code."""
        private = self._listen_privately()
        self._stack.push_async_callback(self._fetching.close)
        self._heed_signals()
        self._keep(self._supervisor.watch.run())
        self._keep(self._counting.run())
        stopped = asyncio.create_task(self._stops.get())
        problems = await self._come_up(stopped)
        if problems is not None:
            for problem in problems:
                tell(problem, logging.ERROR)
            await self._supervisor.stop(notice=False, impatient=_set())
            return 0 if stopped.done() else 1
        configuration = await self._follow()
        self._say_serving(private)
        hopeless = asyncio.create_task(self._supervisor.hopeless.wait())
        await asyncio.wait({hopeless, stopped}, return_when=asyncio.FIRST_COMPLETED)
        await configuration.close()
        if not stopped.done():
            stopped.cancel()
            tell("no worker comes up any more; giving up", logging.ERROR)
            await self._supervisor.stop(notice=False, impatient=_set())
            return 1
        hopeless.cancel()
        await self._stop(notice=stopped.result() == signal.SIGTERM)
        return 0

    def _listen_privately(self) -> str:
        """Open the private listener; its address. Raises OSError."""
        settings, common = self._settings, self._counting.common
        host, port = split_address(settings.admin_listen)
        exposition = self._counting.exposition()
        state = StateDocument(
            exposition,
            self._health,
            workers=lambda: [worker.state for worker in self._supervisor.workers],
            ask=Telling(lambda: self._supervisor.workers).ask,
            port=self._listeners.address[1],
        )
        operators = Operators(
            lambda: revealed(self._supervisor.in_force.values.get("admin_key")),
            refused=lambda reason: common.refused_operators.labels(reason).inc(),
        )
        listener = PrivateListener(
            host,
            port,
            exposition=exposition,
            health=self._health,
            operators=OperatorPages(operators, told=state.body),
            names=settings.admin_hosts,
            refused=common.refused_connections.labels("private").inc,
        )
        try:
            port = listener.start()
        except OSError as error:
            raise cannot_listen("admin_listen", settings.admin_listen, error) from None
        self._stack.push_async_callback(asyncio.to_thread, listener.stop)
        return shown((host, port))

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stops.put_nowait, number)
        loop.add_signal_handler(signal.SIGUSR2, self._supervisor.replace_all_soon)
        loop.add_signal_handler(signal.SIGHUP, _nothing_yet)

    async def _come_up(self, stopped: asyncio.Task[int]) -> list[str] | None:
        """Have the first workers come up; what kept one from it, or None where all did and nobody stopped them."""
        opening = asyncio.create_task(self._supervisor.open())
        self._stack.push_async_callback(asyncio.wait, {opening})
        await asyncio.wait({opening, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return opening.result() if opening.done() else []

    async def _follow(self) -> Configuration[Mapping[str, Any]]:
        """Follow the configuration, and put what is new in it in force in every worker, or in none.

        It is judged by the workers alone: they may be of a later release, and know more settings.
        """
        configuration = Configuration(
            read=self._gather,
            take=self._supervisor.in_force.take,
            loaded=self._counting.common.configuration_loaded,
            tenants=lambda values: values.get("tenants", {}),
            replaceable=True,
        )
        await configuration.start(self._values)
        self._stack.push_async_callback(configuration.close)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, reload_on_signal, configuration, self._notifier)
        return configuration

    def _say_serving(self, private: str) -> None:
        public, workers = shown(self._listeners.address), len(self._listeners.slots)
        say_serving(self._settings, public, private, workers=workers)
        spare_the_collector()
        self._notifier.ready(f"{workers} workers serve on {public}")
        self._keep(self._notifier.tell_while_live(lambda: self._health.live().ok))

    async def _stop(self, *, notice: bool) -> None:
        tell("stopping; signal again to stop at once")
        self._notifier.stopping(
            "stopping: what runs may finish", most_seconds=most_seconds(self._supervisor.in_force.of_a_stop)
        )
        impatient = asyncio.Event()
        self._keep(self._hurry(impatient))
        await self._supervisor.stop(notice=notice, impatient=impatient)

    async def _hurry(self, impatient: asyncio.Event) -> None:
        await self._stops.get()
        impatient.set()

    def _hear(self, worker: Worker, message: Message, rest: bytes) -> None:
        match message["say"]:
            case "counted":
                self._counting.hear(worker, rest)
            case "keys" | "identity":
                self._fetching.answer_soon(worker, message)

    def _keep(self, running: Coroutine[Any, Any, None]) -> None:
        """Have something run until the end."""
        task = asyncio.create_task(running)

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self._stack.push_async_callback(end)


def _nothing_yet() -> None:
    """What is read at the start is new enough."""


def _set() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event
