"""What is noted and claimed of objects, told to their store off the path of the answer, until it has heard it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable

from gateway.limits.store import StoreUnavailable
from gateway.usage.late_work import Claim, Found, LateWorkStore, Note, Step

MOST_WAITING = 10_000
"""Steps that wait while the store is away, of one tenant no more than there is room left; what comes then is lost."""

_AT_ONCE = 100
"""Steps of one call."""

_MOST_KNOWN = 10_000
_PAUSE_SECONDS = 1.0

_log = logging.getLogger(__name__)

Heard = Callable[[Step, Found | None], None]


class LateRegister:
    """Notes and claims of one process. Never waits and never raises for who notes or claims."""

    def __init__(
        self, store: LateWorkStore, *, heard: Heard, lost: Callable[[int], None] = lambda _: None
    ) -> None:
        """`heard` is told what came of each step, once; `lost` of how many nothing will come."""
        self._store = store
        self._heard = heard
        self._lost = lost
        self._steps: list[Step] = []
        self._by_tenant = Counter[str]()
        self._claimed: dict[str, None] = {}
        """Keys of objects that were claimed here a while ago: they have been counted, or soon are."""

        self._telling: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Steps that the store has not confirmed yet."""
        return len(self._steps)

    def note(self, note: Note) -> None:
        """Remember who made an object, and what it was counted with so far."""
        self._put(note)

    def claim(self, claim: Claim) -> bool:
        """Count what an object shows, unless somebody has; whether it may be the first time."""
        if claim.key in self._claimed and claim.own is None:
            return False
        if len(self._claimed) >= _MOST_KNOWN:
            del self._claimed[next(iter(self._claimed))]
        self._claimed[claim.key] = None
        self._put(claim)
        return True

    async def start(self) -> None:
        """Nothing to be done before something is noted."""

    async def close(self) -> None:
        """Tell the store what is left, as far as it listens now, and close it."""
        self._closed = True
        if self._telling is not None:
            await asyncio.wait({self._telling})
        if self._steps:
            self._lost(len(self._steps))
        await self._store.close()

    def _put(self, step: Step) -> None:
        tenant = step.maker.tenant
        if self._by_tenant[tenant] >= MOST_WAITING - len(self._steps):
            self._forget(step)
            self._lost(1)
            return
        self._steps.append(step)
        self._by_tenant[tenant] += 1
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def _tell(self) -> None:
        away: set[str] = set()
        while self._steps:
            steps = _of_one_place(self._steps, away)
            if not steps:
                if self._closed:
                    return
                away.clear()
                await self._pause()
                continue
            try:
                found = await self._store.take(steps)
            except StoreUnavailable:
                away.add(_place(steps[0]))  # that of others may be there
                continue
            except Exception:  # noqa: BLE001 (what others have to tell must not wait for a defect in these)
                _log.exception("what is remembered of stored objects could not be told")
                self._lost(len(steps))
                found = []
            told = set(map(id, steps))
            self._steps = [step for step in self._steps if id(step) not in told]
            self._by_tenant -= Counter(step.maker.tenant for step in steps)
            for step, what in zip(steps, found, strict=False):
                try:
                    self._heard(step, what)
                except Exception:  # noqa: BLE001 (as above)
                    _log.exception("what an object has used could not be counted")

    async def _pause(self) -> None:
        for _ in range(10):
            await asyncio.sleep(_PAUSE_SECONDS / 10)
            if self._closed:
                return

    def _forget(self, step: Step) -> None:
        if isinstance(step, Claim):
            self._claimed.pop(step.key, None)


def _of_one_place(steps: Iterable[Step], away: Container[str]) -> list[Step]:
    """The first steps whose keys share a slot of a cluster, of those places that are not away."""
    place, found = "", list[Step]()
    for step in steps:
        its = _place(step)
        place = place or ("" if its in away else its)
        if its == place:
            found.append(step)
            if len(found) == _AT_ONCE:
                break
    return found


def _place(step: Step) -> str:
    return step.key.partition("}")[0]
