"""All workers of one machine, from the first start to the last end."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from gateway.app.messages import Message, OtherEndGone
from gateway.app.place import Place
from gateway.app.serving import SLACK_SECONDS
from gateway.app.supervisor_metrics import Cause
from gateway.exchange.process_log import tell
from gateway.settings.document import to_json
from gateway.settings.effect import restarted
from gateway.settings.settings import Settings
from gateway.supervisor.listeners import Listeners
from gateway.supervisor.orphans import reap_others
from gateway.supervisor.settings_in_force import SettingsInForce
from gateway.supervisor.slot import Slot
from gateway.supervisor.watch import Watch
from gateway.supervisor.worker import Worker

CLOSE_SECONDS = 1.0
"""For workers to close what is not theirs, so that nobody waits in a queue that nobody looks at."""

END_SECONDS = 2.0
"""For workers that were told to end at once; then they are killed."""


@dataclass
class Restart:
    """What became of the last time that all workers were to be replaced."""

    number: int = 0
    outcome: str = "none"
    """`none`, `running`, `done` or `failed`."""

    reason: str = ""


class Supervisor:
    """Starts the workers, keeps them, replaces them and ends them."""

    def __init__(
        self,
        settings: Settings,
        values: Mapping[str, Any],
        listeners: Listeners,
        *,
        gather: Callable[[], Mapping[str, Any]],
        replaced: Callable[[Cause], None],
        says: Callable[[Worker, Message, bytes], None],
        gone: Callable[[Worker], None],
        looked: Callable[[], object],
    ) -> None:
        """`values` are what was gathered for `settings`, and `gather` gathers anew, raising SettingsInvalid.

        `replaced` counts why a worker was, and `says` hears what workers say that is not for the supervisor itself,
        and `gone` that one has ended; `looked` is called whenever all of them have been looked at.
        """
        self.restart = Restart()
        self._listeners = listeners
        self._gather = gather
        self._count_replaced = replaced
        self._says = says
        self._gone = gone
        self._tell_looked = looked
        self.slots = tuple(
            Slot(index, start=self._start, changed=self._changed, replaced=self._replaced)
            for index in range(len(listeners.slots))
        )
        self.in_force = SettingsInForce(values, lambda: self.workers, unable=self._outdated)
        self.watch = Watch(self.slots, hang_seconds=settings.worker_hang_seconds, looked=self._looked)
        self._starts = 0
        self._being_replaced: set[Worker] = set()
        self._requests: set[asyncio.Task[object]] = set()
        self._replacing = asyncio.Lock()
        self._asked = False
        """Whether a restart is asked for that has not begun."""

        self.stopping = False
        self.hopeless = asyncio.Event()
        """Is set when no slot has a worker, and none has had one come up for long."""

    @property
    def workers(self) -> Iterator[Worker]:
        """All that live, leaving ones included."""
        for slot in self.slots:
            yield from slot.workers

    async def open(self) -> list[str] | None:
        """Have the first workers come up; what kept one from it, or None where all did."""
        came_up = await asyncio.gather(*(slot.open() for slot in self.slots))
        if all(came_up):
            return None
        problems = dict.fromkeys(problem for slot in self.slots for problem in slot.problems)
        return list(problems) or [slot.why for slot, up in zip(self.slots, came_up, strict=True) if not up]

    # Replacing

    def replace_all_soon(self) -> None:
        """Replace all workers one by one, without waiting for it; for a signal's handler.

        Whoever asks while that is under way has it done once more: there may be more that is new.
        """
        if not self._asked:
            self._asked = True
            self._soon(self._replace_all())

    async def _replace_all(self) -> None:
        if self._replacing.locked():
            tell("another restart follows the one that is under way")
        async with self._replacing:
            self._asked = False
            number = self.restart.number + 1
            self.restart = Restart(number, "running")
            reason = ""
            if not self.stopping:
                tell("replacing all workers, one by one")
                try:
                    reason = await self._replaced_all()
                except Exception as defect:  # noqa: BLE001 (whoever waits for it must hear that it is over)
                    reason = f"{type(defect).__name__}: {defect}"
            if self.stopping:
                self.restart = Restart(number, "failed", "the gateway stops")
                return
            self.restart = Restart(number, "failed" if reason else "done", reason)
            if reason:
                tell(f"restart failed: {reason}", logging.ERROR)
            else:
                tell("all workers have been replaced")

    async def _replaced_all(self) -> str:
        """Replace all; what went wrong, or nothing."""
        in_force = self.in_force
        number = in_force.next_number()  # what is changed from now on may not have been gathered
        try:
            values = restarted(in_force.values, await asyncio.to_thread(self._gather))
        except Exception as invalid:  # noqa: BLE001 (whatever the files hold, what runs goes on)
            return f"{invalid}; everything is as it was"
        first, *others = self.slots
        new = partial(self._start_with, to_json(values), number)
        if not await first.replace(Cause.ASKED, start=new):
            return f"{first.why}; everything is as it was"
        before = [slot.worker for slot in others]
        in_force.replace(values, number)
        for slot, worker in zip(others, before, strict=True):
            if not await slot.replace(Cause.ASKED, of=worker):
                return f"{slot.why}; the workers before it are new, the others old"
        return ""

    def _outdated(self, worker: Worker, why: str) -> None:
        if self._replacing.locked():
            return  # its turn comes; a new release may have settings that it does not know
        tell(
            f"worker {worker.place.index} cannot take the settings in force, and is replaced: {why}",
            logging.WARNING,
        )
        self._replace_soon(worker)

    def _replace_soon(self, worker: Worker) -> None:
        if not self.stopping and worker not in self._being_replaced:
            self._being_replaced.add(worker)
            self._soon(self._replace(worker))

    async def _replace(self, worker: Worker) -> None:
        """Replace one that was told to end by itself, or that cannot go on as it is."""
        slot = self.slots[worker.place.index]
        if worker is slot.worker and not await slot.replace(Cause.ASKED, of=worker) and not self.stopping:
            tell(f"worker {slot.index} goes on without a successor: {slot.why}", logging.ERROR)
        self._being_replaced.discard(worker)

    # Ending

    async def stop(self, *, notice: bool, impatient: asyncio.Event) -> None:
        """End all workers: what they serve may finish, unless `impatient` is set meanwhile."""
        self.stopping = True
        for slot in self.slots:
            slot.end()
        stopping = asyncio.create_task(self._stop(notice=notice))
        hurrying = asyncio.create_task(impatient.wait())
        await asyncio.wait({stopping, hurrying}, return_when=asyncio.FIRST_COMPLETED)
        over = asyncio.gather(*(slot.over() for slot in self.slots))
        if not stopping.done():
            self._say("end")
            await asyncio.wait({over}, timeout=END_SECONDS)
        for worker in tuple(self.workers):
            worker.kill()
        await over
        for task in (stopping, hurrying):
            task.cancel()
        await asyncio.gather(stopping, hurrying, return_exceptions=True)

    async def _stop(self, *, notice: bool) -> None:
        settings = self.in_force.of_a_stop
        self._say("stopping")
        if notice:  # Ctrl-C comes from a person; there is no load balancer to wait for
            await asyncio.sleep(settings.drain_notice_seconds)
        for worker in self.workers:
            if not worker.is_up:
                worker.kill()  # it would keep sockets open that nobody looks at
        # Whoever closes a socket last resets those who wait in its queue: that must be its own worker, which has
        # taken them.
        self.watch.is_over = True
        self._listeners.close()
        asked = [asyncio.create_task(_closed(worker)) for worker in self.workers]
        if asked:
            await asyncio.wait(asked, timeout=CLOSE_SECONDS)
        self._say("finish")
        for worker in self.workers:
            worker.is_leaving = True
        over = [asyncio.create_task(slot.over()) for slot in self.slots]
        await asyncio.wait(over, timeout=settings.drain_seconds + SLACK_SECONDS)
        for task in (*asked, *over):
            task.cancel()

    def _say(self, what: str) -> None:
        for worker in self.workers:
            worker.say(what)

    # Workers

    async def _start(self, index: int) -> Worker:
        return await self._start_with(self.in_force.document, self.in_force.number, index)

    async def _start_with(self, settings: bytes, number: int, index: int) -> Worker:
        self._starts += 1
        place = Place(index, len(self.slots))
        worker = Worker(place, f"{index}.{self._starts}", says=self._hears)
        worker.gone.add_done_callback(lambda _: self._gone(worker))
        await worker.start(self._listeners, settings, number)
        return worker

    def _hears(self, worker: Worker, message: Message, rest: bytes) -> None:
        if message["say"] == "asked_to_leave":
            self._replace_soon(worker)
            return
        self._says(worker, message, rest)

    def _replaced(self, cause: Cause) -> None:
        self._count_replaced(cause)
        if all(slot.worker is None and slot.patience.is_hopeless for slot in self.slots):
            self.hopeless.set()

    def _changed(self) -> None:
        self.watch.look()

    def _looked(self) -> None:
        self.in_force.look()
        self._tell_looked()
        if os.getpid() == 1:
            reap_others({worker.pid for worker in self.workers})

    def _soon(self, what: Any) -> None:
        task = asyncio.create_task(what)
        self._requests.add(task)
        task.add_done_callback(self._requests.discard)


async def _closed(worker: Worker) -> None:
    with suppress(OtherEndGone):
        await worker.ask("close")
