"""Connections to what gateways of neighbouring schemas share, and to nothing else.

Each is asked for it when it is made. So a Redis that was away at the start, lost its data, or is another one after a
failover is no more used by a gateway that would misread it than at the start: for that one it fails.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Sequence
from functools import cache

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AskError, MovedError, RedisError, ResponseError

from gateway.redis.schema import SCHEMA, SILENT_SECONDS, schema_key, sentence_of
from gateway.redis.script import Script
from gateway.redis.servers import Address, Connect, RedisServers

ELSEWHERE_SECONDS = 0.3
"""How long the master of a cluster that knows the schemas may take to say them."""


class SchemaApart(ResponseError):
    """What is kept there is of a schema that this version does not share."""


@cache
def client_name() -> str:
    """Whose a connection is, as CLIENT LIST shows it: the machine and the process."""
    return f"gateway-{socket.gethostname()}-{os.getpid()}"


@cache
def schema_script() -> Script:
    """Replies with the schema that is not shared, else with ours."""
    return Script.load(__package__, "schema")


def schema_arguments(*, enters: bool) -> Sequence[str | int]:
    """Of that script: whether it is to say that we are here."""
    return (SCHEMA, SILENT_SECONDS, "enters" if enters else "looks")


def sharing(servers: RedisServers, prefix: str, address: Address | None = None) -> Connect:
    """How to reach a server as `servers` does; raises SchemaApart where what is under the prefix is not shared."""
    connect = servers.connector(address)

    async def connect_to_shared() -> AbstractConnection:
        connection = await connect()
        try:
            other = await _schema_there(servers, connection, prefix, address)
            if other != SCHEMA:
                raise SchemaApart(sentence_of(prefix, other))
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    return connect_to_shared


async def _schema_there(
    servers: RedisServers, connection: AbstractConnection, prefix: str, address: Address | None
) -> int:
    try:
        return await _ask(connection, prefix)
    except (MovedError, AskError) as elsewhere:
        # Who fails takes only what it has itself along: what that one cannot say now is asked of it when it can.
        # A node that names none has the address of the one that was asked.
        host = elsewhere.host or (address or servers.addresses[0])[0]
        try:
            async with asyncio.timeout(ELSEWHERE_SECONDS):
                other = await servers.connector((host, int(elsewhere.port)))()
                try:
                    return await _ask(other, prefix)
                finally:
                    await other.disconnect(nowait=True)
        except (RedisError, OSError, TimeoutError):
            return SCHEMA


async def _ask(connection: AbstractConnection, prefix: str) -> int:
    question = ("EVAL", schema_script().text, 1, schema_key(prefix), *schema_arguments(enters=False))
    # In one write, so that the name costs no round trip. A login that may not have one does without.
    packed = connection.pack_commands([("CLIENT", "SETNAME", client_name()), question])
    await connection.send_packed_command(packed)
    try:
        await connection.read_response()
    except ResponseError:
        pass
    return int(await connection.read_response())
