"""Looking after slots whose worker does not turn its loop: a neighbour accepts in its place, then it is replaced."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from time import monotonic

from gateway.exchange.process_log import tell
from gateway.supervisor.slot import Slot
from gateway.supervisor.worker import Worker

LOOK_SECONDS = 0.25
DUMP_SECONDS = 0.5
"""For a hung worker to write down where its threads are."""


class Watch:
    """Looks at every worker four times a second, and at once when one comes or goes."""

    def __init__(
        self, slots: Sequence[Slot], *, hang_seconds: float, looked: Callable[[], None] = lambda: None
    ) -> None:
        """`looked` is called after each look."""
        self._slots = slots
        self._hang_seconds = hang_seconds
        self._looked = looked
        self._adopted: dict[int, Worker] = {}
        """By slot, who accepts there in its worker's place."""

        self._dumped: set[Worker] = set()
        self.is_over = False
        """Whether slots are closing: nobody adopts one any more."""

    async def run(self) -> None:
        """Look until cancelled."""
        looked_at = monotonic()
        while True:
            self._excuse(monotonic() - looked_at - LOOK_SECONDS)
            looked_at = monotonic()
            self.look()
            self._looked()
            await asyncio.sleep(LOOK_SECONDS)

    def _excuse(self, late_seconds: float) -> None:
        """Hold nothing against workers that were not heard because nothing ran here, as on a paused machine."""
        if late_seconds > LOOK_SECONDS:
            for slot in self._slots:
                for worker in slot.workers:
                    worker.excuse(late_seconds)

    def look(self) -> None:
        """See that somebody accepts from every slot, and end who is hung."""
        for slot in self._slots:
            if not self.is_over:
                self._see_to(slot)
            for worker in slot.workers:
                if worker.is_up and worker.turned_seconds_ago >= self._hang_seconds:
                    self._end(worker)

    def _see_to(self, slot: Slot) -> None:
        adopter = self._adopted.get(slot.index)
        if slot.worker is not None and slot.worker.turns:
            if adopter is not None:
                del self._adopted[slot.index]
                adopter.say("release", slot=slot.index)
            return
        if adopter is not None and adopter.turns and not adopter.is_leaving:
            return
        if adopter is not None:
            adopter.say("release", slot=slot.index)
            del self._adopted[slot.index]
        able = [one.worker for one in self._slots if one.worker is not None and one.worker.turns]
        if able:
            # Whoever has adopted fewest, so that one does not get the part of all.
            held = list(self._adopted.values())
            neighbour = min(able, key=held.count)
            self._adopted[slot.index] = neighbour
            neighbour.say("adopt", slot=slot.index)

    def _end(self, worker: Worker) -> None:
        if worker in self._dumped:
            return
        self._dumped.add(worker)
        worker.gone.add_done_callback(lambda _: self._dumped.discard(worker))
        worker.is_hung = True
        tell(
            f"worker {worker.place.index} (pid {worker.pid}): its loop has not turned for "
            f"{worker.turned_seconds_ago:.0f} s; where its threads are:",
            logging.ERROR,
        )
        worker.dump()
        asyncio.get_running_loop().call_later(DUMP_SECONDS, worker.kill)
