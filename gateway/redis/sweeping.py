"""Taking away what was kept for a while: every key that begins alike, on every master."""

from __future__ import annotations

from typing import Any

from redis.asyncio.connection import AbstractConnection

from gateway.redis.servers import Address, RedisServers, Topology

_KEYS_LOOKED_AT = 1000
"""In one step: Redis serves everybody, and does nothing else meanwhile."""


async def sweep(servers: RedisServers, prefix: str) -> int:
    """Delete all keys with this prefix; how many there were. Raises RedisError or OSError.

    It looks at every key of the servers, a few at a time.
    """
    if servers.topology is not Topology.CLUSTER:
        return await _sweep(servers, None, prefix)
    return sum([await _sweep(servers, address, prefix) for address in await _masters(servers)])


async def _sweep(servers: RedisServers, address: Address | None, prefix: str) -> int:
    connection = await servers.connector(address)()
    found, cursor = 0, b""
    try:
        while cursor != b"0":
            cursor, keys = await _ask(
                connection, "SCAN", cursor or "0", "MATCH", f"{_literal(prefix)}*", "COUNT", _KEYS_LOOKED_AT
            )
            # One by one: keys of one command must share a slot of a cluster.
            for key in keys:
                found += await _ask(connection, "UNLINK", key)
    finally:
        await connection.disconnect(nowait=True)
    return found


async def _masters(servers: RedisServers) -> list[Address]:
    connection = await servers.connector()()
    try:
        ranges = await _ask(connection, "CLUSTER", "SLOTS")
    finally:
        await connection.disconnect(nowait=True)
    asked = servers.addresses[0]
    return list(
        dict.fromkeys(
            ((master[0] or b"").decode() or asked[0], int(master[1])) for _, _, master, *_ in ranges
        )
    )


async def _ask(connection: AbstractConnection, *words: str | bytes | int) -> Any:
    await connection.send_command(*words)
    return await connection.read_response()


def _literal(prefix: str) -> str:
    """As a pattern that matches itself."""
    return "".join(f"\\{sign}" if sign in "*?[]\\" else sign for sign in prefix)
