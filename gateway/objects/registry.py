"""What one process asks and tells the registry of stored objects; the requests that wait for it come through here.

Asking fails where the store is away. Telling never does: what the store has not confirmed waits, and is told again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

from gateway.limits.store import StoreUnavailable
from gateway.objects.heard import NOBODY, Became, Found, Heard
from gateway.objects.keys import is_id
from gateway.objects.marks import Marks
from gateway.objects.presence import Presence
from gateway.objects.steps import Step
from gateway.objects.store import Intent, Made, Named, ObjectStore, Scope
from gateway.objects.waiting import Waiting, spool_beside

_FEW: Final = 128
"""Objects that are asked for whoever else asks."""

_PAUSE_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 15.0

_STOP_SECONDS: Final = 5.0
"""So long a stop waits for the store, which nobody waits for longer than half a second, and then for the disk."""

_log = logging.getLogger("gateway.objects")


class Registry:
    """Ownership as one process knows and tells it.

    With `keys_dir` what waits survives the process, and the next one there tells it.
    """

    def __init__(self, store: ObjectStore, *, keys_dir: Path | None = None, heard: Heard = NOBODY) -> None:
        self.store = store
        self._heard = heard
        self._presence = Presence(store, Marks(keys_dir))
        self._waiting = Waiting(spool_beside(keys_dir), tell=self._tell, lose=self._lose)
        self._under_way: set[asyncio.Future[Any]] = set()
        """What the store is being told, or the disk."""

        self._turns: dict[str, asyncio.Lock] = {}
        """Tenants' turns of asking for many at once, for everybody waits for the store meanwhile: one each."""

        self._unseen: set[tuple[str, str | None]] = set()
        """Storages, with the kind of what was made there without being named."""

        self._following: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        store.saw = self._saw

    @property
    def waiting(self) -> int:
        """Answers of which the store has still to be told."""
        return self._waiting.size

    @property
    def lost(self) -> int:
        """Tenants to whom only what is recorded is open, and is lost, until somebody has said that this is known."""
        return self._presence.lost

    async def start(self) -> None:
        """Begin to tell what waits, whoever left it here."""
        await self._presence.start()
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Have what is still to be told confirmed or kept, and let go of the store."""
        ends_at = monotonic() + _STOP_SECONDS
        while self._under_way and (left_seconds := ends_at - monotonic()) > 0:
            await asyncio.wait(self._under_way, timeout=left_seconds)
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        await self._waiting.close()
        await self.store.close()

    def in_force(self, scopes: Mapping[Scope, bool | None], *, checked: Iterable[Scope]) -> None:
        """Which tenants there are from now on, and whether all that each makes is recorded from the first.

        None: it was there before, and what was said of it then holds. To those that are `checked` only what is recorded
        is open.
        """
        self._presence.put(scopes, checked)
        self._wanted.set()

    def look(
        self, scope: Scope, named: Sequence[Named], intent: Intent | None = None
    ) -> asyncio.Future[list[bool]]:
        """Whether each may be used; notes the intent if all may. Raises StoreUnavailable.

        It leaves in this turn of the loop, unless that is much. Who cancels it may be too late for the intent.
        """
        if len(named) <= _FEW:
            return self._look(scope, named, intent)
        return asyncio.ensure_future(self._look_in_turn(scope, named, intent))

    async def _look_in_turn(self, scope: Scope, named: Sequence[Named], intent: Intent | None) -> list[bool]:
        async with self._turns.setdefault(scope.tenant, asyncio.Lock()):
            return await self._look(scope, named, intent)

    def _look(
        self, scope: Scope, named: Sequence[Named], intent: Intent | None
    ) -> asyncio.Future[list[bool]]:
        looking = self.store.look(scope, named, intent)
        looking.add_done_callback(partial(self._looked, monotonic()))
        return looking

    def _looked(self, began: float, looking: asyncio.Future[list[bool]]) -> None:
        if looking.cancelled():
            return  # nobody wants to know any more
        if looking.exception() is not None:
            found = Found.UNAVAILABLE
        else:
            found = Found.OWN if all(looking.result()) else Found.UNKNOWN
        self._heard.looked(found, monotonic() - began)

    def record(
        self, scope: Scope, made: Sequence[Made], intent_id: str | None = None
    ) -> asyncio.Future[bool]:
        """Make them the tenant's; False: not confirmed yet, they wait and are nobody's meanwhile.

        Never raises, and goes on if whoever waits for it does not.
        """
        told: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._begin(_step(scope, made, intent_id), told)
        return told

    def record_soon(self, scope: Scope, made: Sequence[Made], intent_id: str | None = None) -> None:
        """The same, and nobody waits for it."""
        self._begin(_step(scope, made, intent_id))

    def free_soon(self, scope: Scope, named: Sequence[Named]) -> None:
        """The upstream has them no longer."""
        self._spawn(self._take(Step(scope, (), tuple(one for one in named if is_id(one.id)))))

    def unseen_soon(self, scope: Scope, named: Sequence[Named]) -> None:
        """The upstream says that it does not have them, as it may of what it has only just made: these stay."""
        self._spawn(self._free_unseen(scope, [one for one in named if is_id(one.id)]))

    def made_unseen(self, scope: Scope, kind: str | None) -> None:
        """The upstream has answered as if it had made something, and has not said by which id: nobody reaches that."""
        if (scope.storage, kind) not in self._unseen:
            self._unseen.add((scope.storage, kind))
            _log.warning(
                "upstream %s has answered, as to %s, that a %s was made, by no id that could be read: nobody can use "
                "it, and `gateway objects orphans` has it; this is said once",
                *(scope.storage, scope.tenant, kind),
            )

    def forget_intent_soon(self, scope: Scope, exchange_id: str) -> None:
        """Nothing was made."""
        self._begin(Step(scope, intent_id=exchange_id))

    def went_unasked(self) -> None:
        """Count inference that goes through although the store could not be asked: its answer may be recorded late."""
        self._heard.went_unasked()

    async def _free_unseen(self, scope: Scope, named: Sequence[Named]) -> None:
        try:
            self._heard.became(Became.FREED, await self.store.free(scope, named, unseen=True))
        except StoreUnavailable:
            pass  # the next one who asks the upstream hears the same of them

    def _begin(self, step: Step, told: asyncio.Future[bool] | None = None) -> None:
        """Have it recorded, or kept if the store does not take it; `told` hears of either."""
        recording = self.store.record(step.scope, step.made, step.intent_id)
        self._under_way.add(recording)
        recording.add_done_callback(partial(self._recorded, step, told))

    def _recorded(
        self, step: Step, told: asyncio.Future[bool] | None, recording: asyncio.Future[int]
    ) -> None:
        self._under_way.discard(recording)
        if recording.cancelled() or recording.exception() is not None:
            self._spawn(self._keep(step, told))
            return
        self._heard.became(Became.RECORDED, recording.result())
        if told is not None and not told.done():
            told.set_result(True)

    async def _keep(self, step: Step, told: asyncio.Future[bool] | None = None) -> None:
        if step.made:
            self._heard.became(Became.WAITING, len(step.made))
        await self._waiting.keep(step)
        if told is not None and not told.done():
            told.set_result(False)

    async def _take(self, step: Step) -> None:
        try:
            await self._tell(step)
        except StoreUnavailable:
            await self._keep(step)

    async def _tell(self, step: Step) -> None:
        """Raises StoreUnavailable."""
        if step.made or step.intent_id is not None:
            new = await self.store.record(step.scope, step.made, step.intent_id)
            self._heard.became(Became.RECORDED, new)
        if step.freed:
            self._heard.became(Became.FREED, await self.store.free(step.scope, step.freed))

    def _lose(self, step: Step) -> None:
        """Nothing will come of a step: what `gateway objects import` needs to make up for it is said."""
        if not step.made:
            return
        _log.error(
            "there is no room to keep what the registry of stored objects could not be told: %s",
            step.written().decode().rstrip(),
        )
        self._heard.became(Became.LOST, len(step.made))
        self._presence.not_wholly(step.scope)

    def _saw(self, scope: Scope, mark: str) -> bool:
        """Whether the store is not what it was, which is looked at soon."""
        is_doubted = self._presence.saw(scope, mark)
        if is_doubted:
            self._wanted.set()
        return is_doubted

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _follow(self) -> None:
        """Tell what waits, and what is in force; less often while the store does not listen."""
        pause = _PAUSE_SECONDS
        while True:
            self._wanted.clear()
            try:
                took = await self._waiting.tell_all()
                if self._presence.owes:
                    took = await self._presence.tell() and took
            except Exception:  # noqa: BLE001 (a defect in telling one thing must not keep all others waiting)
                _log.exception("telling the registry of stored objects what waits failed")
                took = False
            pause = _PAUSE_SECONDS if took else min(2 * pause, _LONGEST_PAUSE_SECONDS)
            try:
                async with asyncio.timeout(pause):
                    await self._wanted.wait()
            except TimeoutError:
                pass  # time for the next look


def _step(scope: Scope, made: Sequence[Made], intent_id: str | None) -> Step:
    ids = tuple(one for one in made if is_id(one.id))
    if len(ids) < len(made):
        _log.warning("upstream %s names something that it has made by what is no id", scope.storage)
    return Step(scope, ids, (), intent_id)
