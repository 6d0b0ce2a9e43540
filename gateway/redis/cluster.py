"""Scripts on a Redis Cluster: each goes to the master of its keys' slot, and each master has its own breaker.

A master that fails takes only its own slots with it. Whenever one fails or sends a call elsewhere, the cluster
is asked anew who serves what. A call that was redirected was not run, so it is made once more where it belongs.
While a slot is being moved its calls fail: that takes moments, and the limits' failure policy bridges them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from redis.crc import key_slot
from redis.exceptions import MovedError

from gateway.redis.breaker import Breaker
from gateway.redis.line import Argument, Call, RedisUnavailable, Reply
from gateway.redis.observer import NOBODY, Observer
from gateway.redis.schemes import Topology
from gateway.redis.servers import Address, Connect, RedisServers
from gateway.redis.sharing import sharing
from gateway.redis.wire import Scripts, Wire

_log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25
"""The pause between two questions about the slots."""


def open_wire(
    servers: RedisServers, prefix: str | None, *, deadline_seconds: float, observer: Observer = NOBODY
) -> Scripts:
    """What runs scripts on keys with this prefix; nothing is connected before the first call.

    None: on any, whatever the schema of gateways that share them. `observer` is told how the servers fare.
    """
    connector = servers.connector if prefix is None else partial(sharing, servers, prefix)
    if servers.topology is Topology.CLUSTER:
        return ClusterWire(servers, connector, deadline_seconds=deadline_seconds, observer=observer)
    return Wire(connector(), Breaker(servers.name), deadline_seconds=deadline_seconds, observer=observer)


class ClusterWire(Scripts):
    """Runs scripts like a Wire, on whichever master serves their keys."""

    has_places = True

    def __init__(
        self,
        servers: RedisServers,
        connector: Callable[[Address], Connect],
        *,
        deadline_seconds: float = 0.1,
        observer: Observer = NOBODY,
    ) -> None:
        self._servers = servers
        self._observer = observer
        self._connector = connector
        self._deadline_seconds = deadline_seconds
        self._wires: dict[Address, Wire] = {}
        self._retired: list[Wire] = []
        self._masters: list[tuple[int, int, Address]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._refresh: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._closed = False
        self._lost: str | None = None
        """Why no node at all answered when they were last asked."""

        self._observed = observer.asks(servers.name, self._is_known)

    def health(self) -> Mapping[str, bool]:
        """Whether each master that was ever needed answers, by its address."""
        if not self._masters:
            return {self._servers.name: self._is_known()}
        masters = {address for _, _, address in self._masters}
        known = [wire.health() for address, wire in self._wires.items() if address in masters]
        return {server: answers for health in known for server, answers in health.items()}

    def _is_known(self) -> bool:
        return self._lost is None

    def call(self, call: Call, key: Argument) -> None:
        """Make a call to the master of the key; once it is known who that is."""
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        call.deadline = call.deadline or deadline
        routed = _Routed(call, self._failed)
        if self._masters:
            self._call_master(routed, key)
        else:
            self._keep(self._call_when_known(routed, key))

    def flush(self) -> None:
        """Send the calls that have been made, in one write to each master."""
        for wire in self._wires.values():
            wire.flush()

    def flush_soon(self) -> None:
        """Send them when this turn of the loop ends."""
        for wire in self._wires.values():
            wire.flush_soon()

    def place_of(self, key: str) -> int:
        """Its slot."""
        return key_slot(key.encode())

    async def close(self) -> None:
        """Hang up on every master, and wait until nothing is left."""
        self._closed = True
        self._observed.gone()
        if self._refresh:
            self._refresh.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for wire in [*self._wires.values(), *self._retired]:
            await wire.close()

    async def _call_when_known(self, call: _Routed, key: Argument) -> None:
        self._refresh_soon()
        try:
            async with asyncio.timeout_at(0 if self._lost else call.deadline):
                await self._known.wait()
        except TimeoutError:
            why = "" if self._lost is None else f": {self._lost}"
            call.failed(RedisUnavailable(f"no node says who serves the slots{why}", sent=False))
            return
        self._call_master(call, key)
        self.flush()

    def _call_master(self, call: _Routed, key: Argument) -> None:
        slot = key_slot(str(key).encode())
        for first, last, address in self._masters:
            if first <= slot <= last:
                self._wire(address).call(call, key)
                return
        self._refresh_soon()
        call.failed(RedisUnavailable(f"no master serves slot {slot}", sent=False))

    def _failed(self, call: Call, unavailable: RedisUnavailable) -> None:
        """Make a call that was sent elsewhere, and so not run, once more where it belongs."""
        self._refresh_soon()
        moved = unavailable.__cause__
        if not isinstance(moved, MovedError):
            call.failed(unavailable)
            return
        wire = self._wire((moved.host or "", int(moved.port)))
        wire.call(call, "")
        wire.flush()

    def _wire(self, address: Address) -> Wire:
        if address not in self._wires:
            host, port = address
            self._wires[address] = Wire(
                self._connector(address),
                Breaker(f"{host}:{port}"),
                deadline_seconds=self._deadline_seconds,
                redirects=True,
                observer=self._observer,
            )
        return self._wires[address]

    def _refresh_soon(self) -> None:
        if not self._closed and (self._refresh is None or self._refresh.done()):
            self._refresh = self._keep(self._ask_who_serves())

    async def _ask_who_serves(self) -> None:
        """Ask one node after another until one knows; masters first, they are most likely alive."""
        known = [address for _, _, address in self._masters]
        lost = "none of them knows"
        for address in dict.fromkeys([*known, *self._wires, *self._servers.addresses]):
            try:
                ranges = await self._wire(address).ask("CLUSTER", "SLOTS")
            except RedisUnavailable as unavailable:
                lost = str(unavailable)
                continue
            masters = [(first, last, _address(master, address)) for first, last, master, *_ in ranges]
            if masters:
                if self._lost is not None:
                    _log.warning("Redis cluster %s answers again", self._servers.name)
                self._masters, self._lost = masters, None
                self._known.set()
                self._retire_others()
                break
        else:
            if lost != self._lost:
                _log.warning("Redis cluster %s fails: %s", self._servers.name, lost)
            self._lost = lost
        await asyncio.sleep(REFRESH_SECONDS)

    def _keep(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _retire_others(self) -> None:
        masters = {address for _, _, address in self._masters}
        for address in self._wires.keys() - masters:
            self._retired.append(self._wires.pop(address))
            self._retired[-1].hang_up()


class _Routed(Call):
    """A call to where its keys are supposed to be."""

    __slots__ = ("_call", "_failed")

    def __init__(self, call: Call, failed: Callable[[Call, RedisUnavailable], None]) -> None:
        super().__init__(call.script, writes=call.writes)
        self.deadline = call.deadline
        self._call = call
        self._failed = failed

    def words(self) -> Sequence[Argument] | None:
        """Those of the call."""
        return self._call.words()

    def answered(self, reply: Reply) -> None:
        """It was where they are."""
        self._call.answered(reply)

    def failed(self, unavailable: RedisUnavailable) -> None:
        """Perhaps they are elsewhere."""
        self._failed(self._call, unavailable)


def _address(node: Sequence[Reply], asked: Address) -> Address:
    """A node without a name is the one that was asked."""
    host = node[0].decode() if node[0] else ""
    return (host if host not in ("", "?") else asked[0], int(node[1]))
