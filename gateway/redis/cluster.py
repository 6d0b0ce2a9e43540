"""Scripts on a Redis Cluster: each goes to the master of its keys' slot, and each master has its own breaker.

A master that fails takes only its own slots with it. Whenever one fails or sends a call elsewhere, the cluster
is asked anew who serves what. A call that was redirected was not run, so it is made once more where it belongs.
While a slot is being moved its calls fail: that takes moments, and the limits' failure policy bridges them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from redis.crc import key_slot
from redis.exceptions import MovedError

from gateway.redis.breaker import Breaker
from gateway.redis.line import Argument, RedisUnavailable, Reply
from gateway.redis.script import Script
from gateway.redis.servers import Address, RedisServers, Topology
from gateway.redis.wire import Wire

REFRESH_SECONDS = 0.25
"""The pause between two questions about the slots."""


def open_wire(servers: RedisServers, *, deadline_seconds: float) -> Wire | ClusterWire:
    """What runs scripts on these servers; nothing is connected before the first call."""
    if servers.topology is Topology.CLUSTER:
        return ClusterWire(servers, deadline_seconds=deadline_seconds)
    return Wire(servers.connector(), Breaker(servers.name), deadline_seconds=deadline_seconds)


class ClusterWire:
    """Runs scripts like a Wire, on whichever master serves their keys."""

    def __init__(self, servers: RedisServers, *, deadline_seconds: float = 0.1) -> None:
        self._servers = servers
        self._deadline_seconds = deadline_seconds
        self._wires: dict[Address, Wire] = {}
        self._retired: list[Wire] = []
        self._masters: list[tuple[int, int, Address]] = []
        self._refresh: asyncio.Task[None] | None = None
        self._known = asyncio.Event()
        self._lost = False
        """Whether no node at all answered when they were last asked."""

    def health(self) -> Mapping[str, bool]:
        """Whether each master that was ever needed answers, by its address."""
        if not self._masters:
            return {self._servers.name: not self._lost}
        masters = {address for _, _, address in self._masters}
        known = [wire.health() for address, wire in self._wires.items() if address in masters]
        return {server: answers for health in known for server, answers in health.items()}

    async def run(
        self,
        script: Script,
        keys: Sequence[Argument],
        arguments: Sequence[Argument],
        abandoned: Callable[[Reply], None] | None = None,
        *,
        writes: bool = True,
    ) -> Reply:
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        wire = self._wire(await self._master_of(key_slot(str(keys[0]).encode()), deadline))
        try:
            return await wire.run(script, keys, arguments, abandoned, writes=writes, deadline=deadline)
        except RedisUnavailable as unavailable:
            self._refresh_soon()
            moved = unavailable.__cause__
            if not isinstance(moved, MovedError):
                raise
            wire = self._wire((moved.host or "", int(moved.port)))
            return await wire.run(script, keys, arguments, abandoned, writes=writes, deadline=deadline)

    async def close(self) -> None:
        if self._refresh:
            self._refresh.cancel()
            await asyncio.wait({self._refresh})
        for wire in [*self._wires.values(), *self._retired]:
            await wire.close()

    async def _master_of(self, slot: int, deadline: float) -> Address:
        if not self._masters:
            self._refresh_soon()
            try:
                async with asyncio.timeout_at(0 if self._lost else deadline):
                    await self._known.wait()
            except TimeoutError:
                raise RedisUnavailable("no node says who serves the slots", sent=False) from None
        for first, last, address in self._masters:
            if first <= slot <= last:
                return address
        self._refresh_soon()
        raise RedisUnavailable(f"no master serves slot {slot}", sent=False)

    def _wire(self, address: Address) -> Wire:
        if address not in self._wires:
            host, port = address
            self._wires[address] = Wire(
                self._servers.connector(address),
                Breaker(f"{host}:{port}"),
                deadline_seconds=self._deadline_seconds,
                redirects=True,
            )
        return self._wires[address]

    def _refresh_soon(self) -> None:
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._ask_who_serves())

    async def _ask_who_serves(self) -> None:
        """Ask one node after another until one knows; masters first, they are most likely alive."""
        known = [address for _, _, address in self._masters]
        for address in dict.fromkeys([*known, *self._wires, *self._servers.addresses]):
            try:
                ranges = await self._wire(address).ask("CLUSTER", "SLOTS")
            except RedisUnavailable:
                continue
            masters = [(first, last, _address(master, address)) for first, last, master, *_ in ranges]
            if masters:
                self._masters, self._lost = masters, False
                self._known.set()
                self._retire_others()
                break
        else:
            self._lost = True
        await asyncio.sleep(REFRESH_SECONDS)

    def _retire_others(self) -> None:
        masters = {address for _, _, address in self._masters}
        for address in self._wires.keys() - masters:
            self._retired.append(self._wires.pop(address))
            self._retired[-1].hang_up()


def _address(node: Sequence[Reply], asked: Address) -> Address:
    """A node without a name is the one that was asked."""
    host = node[0].decode() if node[0] else ""
    return (host if host not in ("", "?") else asked[0], int(node[1]))
