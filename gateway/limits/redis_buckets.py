"""Buckets in Redis, on Redis' own clock, exact across workers and replicas.

What the exchanges of one turn of the loop want goes up as one call, of which every step is atomic by itself. What
they turned out to have used may wait a moment for such a call, so that it need not make one of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from gateway.limits.store import BucketStore, Census, Step, StoreUnavailable
from gateway.limits.terms import Dimension
from gateway.limits.turn import MOST_STEPS, Receipts, Turn, Undoing, account_keys, head_of, held_in
from gateway.redis.cluster import open_wire
from gateway.redis.line import Argument, Call, RedisUnavailable, Reply
from gateway.redis.observer import NOBODY, Observer
from gateway.redis.schema import DEFAULT_PREFIX, schema_key
from gateway.redis.script import Script
from gateway.redis.servers import RedisServers
from gateway.redis.sharing import schema_arguments, schema_script

SILENT_SECONDS = 3.0
"""A worker that has not announced itself for so long no longer counts."""

COMPANY_SECONDS = 0.01
"""How long a settlement may wait for other steps that frees no slot, of a limit that has room for many more."""

_LEASES_PER_CALL = 1000
_WORKERS_KEPT_MS = 60_000
_SCRIPTS = {
    "turn": ("buckets", "turn"),
    "renew": ("buckets", "renew"),
    "reset": ("reset",),
    "held": ("held",),
    "announce": ("announce",),
}
"""By name, the files that each is made of."""


class RedisBuckets(BucketStore):
    """A BucketStore that all workers and replicas share; redis/servers.py says what `url` may be.

    Nothing is connected before the first call. No call takes longer than `deadline_seconds`. `prefix` keeps
    deployments apart that share a server. `clock` (seconds) stands in for Redis' own time in tests.
    """

    def __init__(
        self,
        url: str,
        *,
        lease_seconds: float = 15.0,
        deadline_seconds: float = 0.08,
        prefix: str = DEFAULT_PREFIX,
        clock: Callable[[], float] | None = None,
        observer: Observer = NOBODY,
    ) -> None:
        self.lease_seconds = lease_seconds
        self._prefix = prefix
        self._clock = clock
        self._wire = open_wire(
            RedisServers.parse(url), prefix, deadline_seconds=deadline_seconds, observer=observer
        )
        self._scripts = {name: Script.load(__package__, *files) for name, files in _SCRIPTS.items()}
        self._head = head_of(self._lease(), 0)
        self._announced: str | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """Asked for once: each time that Python looks which loop runs is a system call."""
        self._steps: list[Step] = []
        """What has been put and has not left."""
        self._leaves = False
        """Whether that leaves when this turn of the loop ends."""
        self._waits: asyncio.TimerHandle | None = None
        """When it leaves at the latest, if nothing makes it leave before."""
        self._turns: set[Call] = set()
        """What is under way."""
        self._receipts = Receipts(prefix, apart=self._wire.has_places)
        self._doubts: list[Undoing] = []
        """What has to be undone, and is not under way."""
        self._undone_soon = 0
        """How much of that is."""
        self._quiet: asyncio.Future[None] | None = None
        """Who waits for an end of all that."""

    def put(self, step: Step) -> None:
        """Let a step leave at the end of this turn of the loop, with all others; or with theirs of a later one."""
        if not step.permits:
            step.done(True, ())
            return
        steps = self._steps
        steps.append(step)
        if self._leaves:
            return
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        if (
            step.mode == "settle"
            and step.outcome is None
            and not step.hurries
            and not step.charges.quotas.has_slots
            and len(steps) < MOST_STEPS
        ):
            # Nobody waits for what it gives back: neither who put it, nor who wants a slot.
            if self._waits is None:
                self._waits = loop.call_later(COMPANY_SECONDS, self._waited)
            return
        self._leaves = True
        loop.call_soon(self._send)

    async def renew(self, leases: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        missing: list[tuple[str, str]] = []
        for key, pairs in groupby(sorted(leases, key=_account_of), key=_account_of):
            ids = [f"@{exchange_id}" for exchange_id, _ in pairs]
            for start in range(0, len(ids), _LEASES_PER_CALL):
                now = self._now()
                arguments = [
                    self._lease(),
                    "" if now is None else now,
                    *ids[start : start + _LEASES_PER_CALL],
                ]
                reply = await self._run("renew", account_keys(self._prefix, key), arguments)
                missing.extend((exchange.decode()[1:], key) for exchange in reply)
        return missing

    async def reset(self, keys: Iterable[str]) -> None:
        for key in keys:
            await self._run("reset", account_keys(self._prefix, key), [])

    async def held(self, key: str, most: int) -> tuple[list[Holding], int]:
        """What open exchanges hold of an account, those whose lease ends first, and how many more there are."""
        now, count, *found = await self._run("held", account_keys(self._prefix, key), [most])
        each = zip(found[::3], found[1::3], found[2::3], strict=True)
        holdings = [
            Holding(field[1:].decode(), max(0.0, (float(ends) - now) / 1e6), amounts)
            for field, ends, packed in each
            if (amounts := held_in(packed))
        ]
        return holdings, max(0, count - most)

    async def announce(self, worker: str) -> Census:
        self._announced = worker
        self._undo()
        silent = int(SILENT_SECONDS * 1_000_000)
        place, workers = await self._run(
            "announce", self._workers(), [worker, "lives", silent, _WORKERS_KEPT_MS]
        )
        await self._name_schema()
        return Census(place, workers)

    async def withdraw(self) -> None:
        await self._leave()
        await self._name_schema()

    async def _leave(self) -> None:
        worker, self._announced = self._announced, None
        if worker is not None:
            try:
                await self._run("announce", self._workers(), [worker, "leaves"])
            except StoreUnavailable:
                pass  # silence says the same, a little later

    def health(self) -> Mapping[str, bool]:
        return self._wire.health()

    async def quiet(self) -> None:
        while self._steps or self._turns:
            if self._steps:
                self._send()
                continue
            self._quiet = asyncio.get_running_loop().create_future()
            await self._quiet

    def doubts(self) -> int:
        return len(self._doubts) + self._undone_soon

    async def close(self) -> None:
        await self.quiet()
        self._undo()
        await self.quiet()
        if self._waits is not None:
            self._waits.cancel()
        await self._leave()
        await self._wire.close()

    def _waited(self) -> None:
        """Nobody else has come: what waits makes a call of its own."""
        self._waits = None
        if self._steps and not self._leaves:
            self._send()

    def _send(self) -> None:
        self._leaves = False
        steps, self._steps = self._steps, []
        script = self._scripts["turn"]
        head = self._head_now()
        for some in self._by_place(steps):
            for at in range(0, len(some), MOST_STEPS):
                turn = Turn(
                    script, some[at : at + MOST_STEPS], self._ended, self._prefix, head, self._receipts
                )
                self._turns.add(turn)
                self._wire.call(turn, self._prefix + some[at].charges.quotas.quotas[0].key)
        self._wire.flush()

    def _head_now(self) -> bytes:
        return self._head if self._clock is None else head_of(self._lease(), self._now() or 0)

    def _by_place(self, steps: list[Step]) -> Iterable[list[Step]]:
        """The steps by where their keys are: all accounts of an exchange are in one place."""
        if not self._wire.has_places:
            return (steps,)
        places: dict[int, list[Step]] = {}
        for step in steps:
            place = self._wire.place_of(self._prefix + step.charges.quotas.quotas[0].key)
            places.setdefault(place, []).append(step)
        return places.values()

    def _ended(self, turn: Call, unheard: Sequence[Step] | None, undoing: Undoing | None) -> None:
        self._turns.discard(turn)
        if undoing is not None:
            self._doubts.append(undoing)
        if unheard is not None and self._doubts:
            self._undo()
        for step in unheard or ():
            self.give_back(step)
        if self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    def _undo(self) -> None:
        """Undo what was taken for good without anybody hearing of it."""
        doubts, self._doubts = self._doubts, []
        for undoing in doubts:
            call = _Undo(self._scripts["turn"], undoing, self._head_now(), self._undo_ended)
            self._turns.add(call)
            self._undone_soon += 1
            self._wire.call(call, undoing.key)
        if doubts:
            self._wire.flush()

    def _undo_ended(self, call: _Undo, done: bool) -> None:
        self._undone_soon -= 1
        self._ended(call, None, None if done else call.undoing)

    async def _run(self, script: str, keys: Sequence[Argument], arguments: Sequence[Argument]) -> Reply:
        try:
            return await self._wire.run(self._scripts[script], keys, arguments)
        except RedisUnavailable as error:
            raise StoreUnavailable(str(error), sent=error.sent) from error

    async def _name_schema(self) -> None:
        """Let other versions know, for as long as this one runs, with whom they would share."""
        try:
            await self._wire.run(schema_script(), [schema_key(self._prefix)], schema_arguments(enters=True))
        except RedisUnavailable:
            pass  # it is said again with the next census

    def _workers(self) -> tuple[str]:
        return (f"{self._prefix}workers",)

    def _lease(self) -> int:
        return int(self.lease_seconds * 1_000_000)

    def _now(self) -> int | None:
        return int(self._clock() * 1_000_000) if self._clock else None


class Holding(NamedTuple):
    """What an open exchange holds of one account."""

    exchange_id: str
    lease_seconds: float
    """How long it is its own, unless its worker renews it."""

    permits: Mapping[Dimension, int]


class _Undo(Call):
    """An attempt to undo something."""

    __slots__ = ("_ended", "_head", "undoing")

    def __init__(
        self, script: Script, undoing: Undoing, head: bytes, ended: Callable[[_Undo, bool], None]
    ) -> None:
        super().__init__(script)
        self.undoing = undoing
        self._head = head
        self._ended = ended

    def words(self) -> Sequence[Argument]:
        """What turn.lua takes."""
        return self.undoing.words(self._head)

    def answered(self, reply: Reply) -> None:  # noqa: ARG002
        """It is done, or what it was about is broken."""
        self._ended(self, True)

    def failed(self, unavailable: RedisUnavailable) -> None:  # noqa: ARG002
        """It is tried again."""
        self._ended(self, False)


def _account_of(lease: tuple[str, str]) -> str:
    return lease[1]
