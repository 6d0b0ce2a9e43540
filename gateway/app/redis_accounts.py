"""Which tenants have had which upstream account, as all replicas note it in Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from gateway.app.account_store import DEADLINE_SECONDS, AccountsUnavailable, read, written
from gateway.policy.accounts import Uses
from gateway.redis.cluster import open_wire
from gateway.redis.line import Argument, RedisUnavailable, Reply
from gateway.redis.observer import NOBODY, Observer
from gateway.redis.schema import DEFAULT_PREFIX
from gateway.redis.script import Script
from gateway.redis.servers import RedisServers

_USES_PER_CALL = 1000
_SCRIPTS = ("changed", "add")


class RedisAccounts:
    """What all replicas share. Nothing is connected before the first call, none takes longer than the deadline."""

    def __init__(
        self,
        url: str,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        prefix: str = DEFAULT_PREFIX,
        observer: Observer = NOBODY,
    ) -> None:
        servers = RedisServers.parse(url)
        self._name = servers.name
        self._wire = open_wire(servers, prefix, deadline_seconds=deadline_seconds, observer=observer)
        self._scripts = {name: Script.load(__package__, f"accounts_{name}") for name in _SCRIPTS}
        # The braces put both into one slot of a cluster.
        self._keys = (f"{prefix}{{accounts}}:version", f"{prefix}{{accounts}}")
        self._version = b"not yet read"

    async def changed(self) -> Uses | None:
        version, *found = await self._run("changed", [self._version])
        if not found:
            return None
        (members,) = found
        entries = zip(members[::2], members[1::2], strict=True)
        uses = await asyncio.to_thread(lambda: dict(read(entries, f"Redis {self._name}")))
        self._version = version
        return uses

    async def add(self, uses: Uses) -> None:
        pairs = [argument for use, own in uses.items() for argument in (written(*use), b"1" if own else b"0")]
        for start in range(0, len(pairs), 2 * _USES_PER_CALL):
            # Random, not counted: a Redis that lost its data would count to the same number again.
            await self._run("add", [secrets.token_hex(8), *pairs[start : start + 2 * _USES_PER_CALL]])

    async def try_to_keep(self) -> None:
        """Who can be asked can be told."""

    async def close(self) -> None:
        await self._wire.close()

    async def _run(self, script: str, arguments: Sequence[Argument]) -> Reply:
        try:
            return await self._wire.run(self._scripts[script], self._keys, arguments)
        except RedisUnavailable as error:
            raise AccountsUnavailable(f"Redis {self._name}: {error}") from error
