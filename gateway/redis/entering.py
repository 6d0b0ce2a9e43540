"""To say before a start, or a question, whether this version can share what others keep in a Redis."""

from __future__ import annotations

from gateway.redis.cluster import open_wire
from gateway.redis.line import RedisUnavailable
from gateway.redis.schema import SCHEMA, schema_key, sentence_of
from gateway.redis.servers import RedisServers
from gateway.redis.sharing import schema_arguments, schema_script

ENTERING_SECONDS = 1.0


async def enter(servers: RedisServers, prefix: str, *, enters: bool = True) -> str | None:
    """Say that a gateway of our schema is here, or only look; return why it cannot share what is there.

    A Redis that cannot be asked holds up nobody: its connections are judged when they are made.
    """
    wire = open_wire(servers, None, deadline_seconds=ENTERING_SECONDS)
    try:
        found = await wire.run(
            schema_script(), [schema_key(prefix)], schema_arguments(enters=enters), writes=enters
        )
    except RedisUnavailable:
        return None
    finally:
        await wire.close()
    return None if found == SCHEMA else sentence_of(prefix, found)
