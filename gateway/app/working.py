"""One worker of several: it serves from sockets that it inherits, and does what its supervisor says."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine, Iterable
from typing import Any

from gateway.app.build import build_app
from gateway.app.inherited import Inherited
from gateway.app.messages import Message, Messages
from gateway.app.own_upstream import refuse_itself
from gateway.app.prepared import Prepared
from gateway.app.process import App, GatewayRunner, make_runner
from gateway.app.serving import spare_the_collector
from gateway.app.snapshots import Snapshots
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.key_sets import AskedFetch
from gateway.credentials.keys import KeyProblem
from gateway.exchange.process_log import Speaker, speak_as
from gateway.settings.document import from_json
from gateway.settings.judging import judged
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.settings import Settings

BEAT_SECONDS = 0.25

_log = logging.getLogger("gateway.worker")
_Order = tuple[Message, bytes]


async def work(inherited: Inherited) -> int:
    """Serve until told to leave or to stop, or until nobody is there any more who could tell; the exit code."""
    worker = _Worker(inherited)
    return await worker.run()


class _Worker:
    def __init__(self, inherited: Inherited) -> None:
        self._place = inherited.place
        self._sockets = inherited.sockets
        self._control = inherited.control
        self._orders: asyncio.Queue[_Order | None] = asyncio.Queue()
        self._supervisor = Messages(self._hears, lambda: self._orders.put_nowait(None))
        self._adopted: set[int] = set()
        self._prepared: dict[int, Prepared] = {}
        self._busy: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._over = asyncio.Event()
        self._snapshots: Snapshots
        self._app: App
        self._runner: GatewayRunner

    def _hears(self, message: Message, rest: bytes) -> None:
        self._orders.put_nowait((message, rest))

    async def run(self) -> int:
        self._heed_signals()
        self._control.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self._supervisor, sock=self._control)
        if not await self._start():
            self._supervisor.close()
            await self._supervisor.over()
            return 1
        obeying = asyncio.create_task(self._obey())
        beating = asyncio.create_task(self._beat())
        try:
            await self._over.wait()
        finally:
            await self._runner.cleanup()
            for task in (obeying, beating, *self._busy):
                task.cancel()
            await asyncio.gather(obeying, beating, *self._busy, return_exceptions=True)
            self._supervisor.say("counted", await self._snapshots.take())
            self._supervisor.close()
            await self._supervisor.over()
        return 0

    def _heed_signals(self) -> None:
        """What a terminal or a service manager sends to all is the supervisor's to deal with.

        SIGTERM to one worker alone has it leave, once there is a successor.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR2):
            loop.add_signal_handler(number, _nothing)
        loop.add_signal_handler(signal.SIGTERM, self._supervisor.say, "asked_to_leave")

    async def _start(self) -> bool:
        order = await self._orders.get()
        if order is None:
            return False
        _, document = order
        try:
            settings = _settings(document)
            speak_as(Speaker("worker", settings.log.format, self._place.index))
            await asyncio.to_thread(refuse_itself, settings)  # it may be new, and nobody has looked yet
            self._app = build_app(
                settings,
                ring=await asyncio.to_thread(KeyRing.load, settings.keys_dir),
                keys_dir=settings.keys_dir,
                place=self._place,
                fetch=AskedFetch(lambda question: self._supervisor.ask("keys", **question)),
                ask_grants=lambda question: self._supervisor.ask("identity", **question),
            )
            self._runner = make_runner(self._app)
            await self._runner.setup()
        except (SettingsInvalid, KeyProblem) as invalid:
            self._supervisor.say("failed", problems=[str(problem) for problem in invalid.problems])
            return False
        except OSError as error:
            self._supervisor.say("failed", problems=[str(error)])
            return False
        self._snapshots = Snapshots(self._app.services.metrics.registry)
        self._runner.accept(self._sockets[self._place.index])
        spare_the_collector()
        self._say_beat()
        self._supervisor.say("ready")
        return True

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self._say_beat()

    def _say_beat(self) -> None:
        own = self._app.health.worker()
        reasons = [(reason.code, reason.message) for reason in own.reasons]
        self._supervisor.say("beat", ready=own.ready, reasons=reasons)

    # Orders

    async def _obey(self) -> None:
        while (order := await self._orders.get()) is not None:
            try:
                self._do(*order)
            except Exception:  # noqa: BLE001 (who obeyed no more would go on serving, by what nobody else works by)
                _log.exception("what the supervisor said cannot be done: %s", order[0]["say"])
        # Nobody else could tell it to hurry.
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._over.set)
        if self._ending is None:
            _log.error("the supervisor is gone; this worker finishes what it serves; SIGTERM ends it at once")
            self._close(self._neighbours)
            self._finish()

    def _do(self, order: Message, rest: bytes) -> None:
        match order["say"]:
            case "adopt":
                slot: int = order["slot"]
                self._adopted.add(slot)
                self._runner.adopt(slot, self._sockets[slot])
            case "release":
                self._adopted.discard(order["slot"])
                self._runner.release(order["slot"])
            case "count":
                self._soon(self._count(order))
            case "state":
                self._soon(self._tell_state(order))
            case "prepare":
                self._soon(self._prepare(order, rest))
            case "commit":
                prepared = self._prepared.pop(order["number"], None)
                if prepared is not None:
                    prepared.commit()
                self._prepared.clear()
            case "forget":
                self._prepared.clear()
            case "leave":
                # Its successor has all of these, so nobody is lost who waits in a queue.
                self._runner.leave()
                self._close(range(len(self._sockets)))
                self._end(self._app.drain(self._drain_seconds, notice_seconds=self._notice_seconds))
            case "stopping":
                self._app.stop_soon()
            case "close":
                self._close(self._neighbours)
                self._supervisor.answer(order)
            case "finish":
                self._finish()
            case "end":
                self._over.set()
            case _:
                pass  # of a later release

    async def _count(self, order: Message) -> None:
        # A snapshot must reach the supervisor: one is not taken before the last has.
        if not self._supervisor.waits:
            self._supervisor.say("counted", await self._snapshots.take())
        self._supervisor.answer(order)

    async def _tell_state(self, order: Message) -> None:
        told = await self._app.state.tell(common=order["common"], busiest=order["busiest"])
        self._supervisor.answer(order, told=told)

    async def _prepare(self, order: Message, document: bytes) -> None:
        problems: list[Problem] = []
        waiting: list[str] = []
        try:
            prepared = await self._app.prepare(await asyncio.to_thread(_settings, document))
        except SettingsInvalid as invalid:
            problems = invalid.problems
        except Exception as failed:  # noqa: BLE001 (whatever they hold, what is in force stays in force)
            problems = [Problem("configuration", str(failed))]
        else:
            self._prepared[order["number"]] = prepared
            waiting = prepared.waiting
        told = [{"key": problem.key, "message": problem.message} for problem in problems]
        self._supervisor.answer(order, problems=told, waiting=waiting)

    @property
    def _neighbours(self) -> list[int]:
        """The slots whose own workers turn their loops: they take who waits there, and close their sockets last."""
        own = {self._place.index, *self._adopted}
        return [slot for slot in range(len(self._sockets)) if slot not in own]

    def _close(self, slots: Iterable[int]) -> None:
        for slot in slots:
            for one in self._sockets[slot]:
                one.close()

    # Ends

    def _finish(self) -> None:
        """Nobody comes in its place."""
        self._app.stop_soon()
        self._runner.stop_accepting()
        self._end(self._app.drain(self._drain_seconds))

    def _end(self, drained: Coroutine[Any, Any, None]) -> None:
        """Go when this has come to its end; what was waited for before counts no more."""
        ending = self._ending
        self._ending = asyncio.create_task(drained)
        self._ending.add_done_callback(self._drained)
        if ending is not None:
            ending.cancel()

    def _drained(self, ending: asyncio.Task[None]) -> None:
        if not ending.cancelled():
            self._over.set()

    @property
    def _drain_seconds(self) -> float:
        return self._app.services.settings.drain_seconds

    @property
    def _notice_seconds(self) -> float:
        return self._app.services.settings.drain_notice_seconds

    def _soon(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._busy.add(task)
        task.add_done_callback(self._busy.discard)


def _settings(document: bytes) -> Settings:
    return judged(from_json(document))


def _nothing() -> None:
    """Nobody is disturbed."""
