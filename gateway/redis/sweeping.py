"""Taking away what was kept for a while: every key that begins alike, on every master."""

from __future__ import annotations

from gateway.redis.schemes import Topology
from gateway.redis.servers import Address, RedisServers, ask
from gateway.redis.survey import nodes_of

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
            cursor, keys = await ask(
                connection, "SCAN", cursor or "0", "MATCH", f"{_literal(prefix)}*", "COUNT", _KEYS_LOOKED_AT
            )
            # One by one: keys of one command must share a slot of a cluster.
            for key in keys:
                found += await ask(connection, "UNLINK", key)
    finally:
        await connection.disconnect(nowait=True)
    return found


async def _masters(servers: RedisServers) -> list[Address]:
    return list(dict.fromkeys(nodes[0] for nodes in await nodes_of(servers)))


def _literal(prefix: str) -> str:
    """As a pattern that matches itself."""
    return "".join(f"\\{sign}" if sign in "*?[]\\" else sign for sign in prefix)
