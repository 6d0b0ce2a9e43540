"""Taking away what was kept for a while: every key that begins alike, on every master."""

from __future__ import annotations

from gateway.redis.connection import Address
from gateway.redis.replies import addresses_of
from gateway.redis.servers import RedisServers, Topology

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
            cursor, keys = await connection.ask(
                "SCAN", cursor or "0", "MATCH", f"{_literal(prefix)}*", "COUNT", _KEYS_LOOKED_AT
            )
            # One by one: keys of one command must share a slot of a cluster.
            for key in keys:
                found += await connection.ask("UNLINK", key)
    finally:
        connection.close()
    return found


async def _masters(servers: RedisServers) -> list[Address]:
    connection = await servers.connector()()
    try:
        ranges = await connection.ask("CLUSTER", "SLOTS")
    finally:
        connection.close()
    asked = servers.addresses[0]
    return list(dict.fromkeys(address for _, _, address in addresses_of(ranges, asked)))


def _literal(prefix: str) -> str:
    """As a pattern that matches itself."""
    return "".join(f"\\{sign}" if sign in "*?[]\\" else sign for sign in prefix)
