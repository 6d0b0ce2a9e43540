"""What the servers behind a Redis URL say of themselves: every one, replicas and Sentinels among them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import MovedError, ReadOnlyError, RedisError, ResponseError

from gateway.redis.schemes import Topology
from gateway.redis.servers import Address, RedisServers, ask

PATIENCE_SECONDS = 3.0
"""A person waits; Redis may be far away from their machine."""


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """One server. What it did not say, or this login may not ask, is not there."""

    name: str
    trouble: str | None = None
    """Why it could not be asked."""

    facts: Mapping[str, str] = field(default_factory=dict)
    """As INFO has them."""

    snapshots: bool | None = None
    """Whether it writes them by itself; None where CONFIG may not be asked."""

    refused: str | None = None
    """What this login may not do that every script does."""

    seconds_ahead: float = 0.0
    """Of the clock here."""


async def survey(servers: RedisServers, prefix: str) -> list[ServerSeen]:
    """Ask every server there is, and change nothing below the prefix. Raises RedisError or OSError where nobody says
    which servers there are."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        addresses = await _addresses(servers)
    return await asyncio.gather(*(_seen(servers, address, prefix) for address in addresses))


async def silent_sentinels(servers: RedisServers) -> dict[str, str]:
    """Those of the URL that do not answer, and why."""
    silent = {}
    for address in servers.addresses if servers.topology is Topology.SENTINEL else ():
        try:
            await servers.ask_sentinel(address, "MASTER")
        except (RedisError, OSError, TimeoutError) as error:
            silent[_name(address)] = _said(error)
    return silent


async def nodes_of(servers: RedisServers) -> list[list[Address]]:
    """The nodes of a cluster, by ranges of slots, the master first."""
    asked = servers.addresses[0]
    connection = await servers.connector(asked)()
    try:
        ranges = await ask(connection, "CLUSTER", "SLOTS")
    finally:
        await connection.disconnect(nowait=True)
    return [
        [((node[0] or b"").decode() or asked[0], int(node[1])) for node in nodes] for _, _, *nodes in ranges
    ]


async def _addresses(servers: RedisServers) -> list[Address | None]:
    match servers.topology:
        case Topology.SINGLE:
            return [servers.addresses[0] if servers.addresses else None]
        case Topology.CLUSTER:
            return list(dict.fromkeys(node for nodes in await nodes_of(servers) for node in nodes))
        case Topology.SENTINEL:
            return [await servers.find_master(), *await _replicas(servers)]


async def _replicas(servers: RedisServers) -> list[Address]:
    for address in servers.addresses:
        try:
            replies = await servers.ask_sentinel(address, "REPLICAS")
        except (RedisError, OSError, TimeoutError):
            continue
        told = [dict(zip(reply[::2], reply[1::2], strict=True)) for reply in replies]
        return [(replica[b"ip"].decode(), int(replica[b"port"])) for replica in told]
    return []


async def _seen(servers: RedisServers, address: Address | None, prefix: str) -> ServerSeen:
    name = servers.name if address is None else _name(address)
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            connection = await servers.connector(address)()
            try:
                return await _asked(connection, name, prefix)
            finally:
                await connection.disconnect(nowait=True)
    except (RedisError, OSError, TimeoutError) as error:
        return ServerSeen(name, trouble=_said(error))


async def _asked(connection: AbstractConnection, name: str, prefix: str) -> ServerSeen:
    before = time.time()
    seconds, microseconds = await ask(connection, "TIME")
    here = (before + time.time()) / 2
    return ServerSeen(
        name,
        facts=await _facts(connection),
        snapshots=await _snapshots(connection),
        refused=await _refused(connection, prefix),
        seconds_ahead=int(seconds) + int(microseconds) / 1e6 - here,
    )


async def _facts(connection: AbstractConnection) -> dict[str, str]:
    try:
        told = (await ask(connection, "INFO")).decode("utf-8", "replace")
    except ResponseError:
        return {}
    lines = (line.partition(":") for line in told.splitlines())
    return {fact: value for fact, separator, value in lines if separator}


async def _snapshots(connection: AbstractConnection) -> bool | None:
    try:
        told = await ask(connection, "CONFIG", "GET", "save")
    except ResponseError:
        return None
    return bool(told[1]) if len(told) == 2 else None


async def _refused(connection: AbstractConnection, prefix: str) -> str | None:
    """Why no script could change what is kept below the prefix; a replica and another's slot are no reason."""
    try:
        await ask(connection, "EVAL", "return redis.call('UNLINK', KEYS[1])", 1, f"{prefix}nothing")
    except MovedError:
        return None
    except ResponseError as error:
        return None if isinstance(error, ReadOnlyError) or "READONLY" in str(error) else str(error)
    return None


def _name(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
