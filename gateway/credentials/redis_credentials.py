"""What all gateways share about credentials in Redis: revocations, a register of what was issued, who has which keys.

Revocations are a sorted set by the end of each, with a version that is new after every change: asking whether
anything changed is one small question, and the answer brings all of it. The version is random, not counted:
a Redis that lost its data would count to the same number again. Whoever finds that revocations got lost writes
them back.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict

import orjson

from gateway.credentials.issue import IssuedCredential
from gateway.credentials.revocations import Revocation, RevocationsUnavailable
from gateway.redis.cluster import open_wire
from gateway.redis.line import Argument, RedisUnavailable, Reply
from gateway.redis.observer import NOBODY, Observer
from gateway.redis.schema import DEFAULT_PREFIX
from gateway.redis.script import Script
from gateway.redis.servers import RedisServers

DEADLINE_SECONDS = 0.5
KEPT_AFTER_END_SECONDS = 60
"""Ended revocations stay this long, so that clocks which differ do not write them back in turns."""
_ENTRIES_PER_CALL = 1000
_KEYS_HOLD_SECONDS = 30
"""For how long a gateway's word on its keys holds: it may be gone."""

_SCRIPTS = ("changed", "add", "register", "issued", "keys", "key_retired")


_log = logging.getLogger(__name__)


class RedisCredentials:
    """A RevocationStore that all replicas share, and the register of issued credentials.

    redis/servers.py says what `url` may be. Nothing is connected before the first call, and no call takes
    longer than `deadline_seconds`.
    """

    def __init__(
        self,
        url: str,
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        prefix: str = DEFAULT_PREFIX,
        clock: Callable[[], float] = time.time,
        observer: Observer = NOBODY,
    ) -> None:
        servers = RedisServers.parse(url)
        self.server = servers.name
        self._wire = open_wire(servers, prefix, deadline_seconds=deadline_seconds, observer=observer)
        self._scripts = {name: Script.load(__package__, name) for name in _SCRIPTS}
        # The braces put all of them into one slot of a cluster.
        self._revocations = (f"{prefix}{{credentials}}:revoked:version", f"{prefix}{{credentials}}:revoked")
        self._register = (f"{prefix}{{credentials}}:issued",)
        self._keys = (f"{prefix}{{credentials}}:keys", f"{prefix}{{credentials}}:keys:used")
        self._clock = clock
        self._known: frozenset[Revocation] = frozenset()
        self._version = b"not yet read"

    def remember(self, known: Iterable[Revocation]) -> None:
        """Let these hold too, whether Redis knows of them or not; it will be told."""
        self._known |= frozenset(known)

    async def changed(self) -> frozenset[Revocation] | None:
        """Return all revocations, unless nothing changed since the last call."""
        version, *members = await self._run("changed", self._revocations, [self._version])
        if not members:
            return None
        stored = frozenset(_readable(members[0]))
        now = self._clock()
        lost = {entry for entry in self._known - stored if entry.until > now}
        self._known = stored | lost
        if not lost:
            self._version = version
            return self._known
        _log.warning("Redis %s has lost %d revocations; writing them back", self.server, len(lost))
        try:
            await self._write(lost)
        except RevocationsUnavailable as unavailable:
            _log.warning("%s", unavailable)  # the version is still unread, so this is tried again
        return self._known

    async def add(self, revocation: Revocation) -> None:
        await self._write({revocation})

    async def register(self, issued: IssuedCredential) -> None:
        """Remember what was issued until it expires."""
        member = orjson.dumps(asdict(issued))
        await self._run("register", self._register, [int(self._clock()), issued.expires_at, member])

    async def issued(self, *, skip: int = 0, most: int = -1) -> list[IssuedCredential]:
        """Return what was issued and has not expired, first to expire first: all, or so many behind the first ones."""
        members = await self._run("issued", self._register, [int(self._clock()), skip, most])
        return [issued for member in members if (issued := _issued(member)) is not None]

    async def tell_keys(
        self, gateway: str, keys: Iterable[str], used: Mapping[str, int]
    ) -> tuple[Sequence[frozenset[str]], frozenset[str]]:
        """Say which keys a gateway has, and until when some are in use; returns what each has, and all in use.

        With no keys it only asks.
        """
        pairs = [word for key, until in used.items() for word in (until, key)]
        held, in_use = await self._run(
            "keys", self._keys, [gateway, _KEYS_HOLD_SECONDS, ",".join(keys), *pairs]
        )
        everybody = [frozenset(names.decode(errors="replace").split(",")) for names in held]
        return everybody, frozenset(key.decode(errors="replace") for key in in_use)

    async def key_retired(self, kid: str) -> bool:
        """Have no gateway miss the keys of this kid any more; whether there are any."""
        return bool(await self._run("key_retired", self._keys, [kid]))

    async def close(self) -> None:
        await self._wire.close()

    async def _write(self, revocations: Iterable[Revocation]) -> None:
        ended = int(self._clock()) - KEPT_AFTER_END_SECONDS
        pairs: list[Argument] = []
        for revocation in revocations:
            pairs += (revocation.until, revocation.encode())
        for start in range(0, len(pairs), 2 * _ENTRIES_PER_CALL):
            some = pairs[start : start + 2 * _ENTRIES_PER_CALL]
            await self._run("add", self._revocations, [secrets.token_hex(8), ended, *some])

    async def _run(self, script: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Reply:
        try:
            return await self._wire.run(self._scripts[script], keys, arguments)
        except RedisUnavailable as error:
            raise RevocationsUnavailable(f"Redis {self.server}: {error}") from error


def _readable(members: Iterable[bytes]) -> Iterable[Revocation]:
    """Read what can be read: one member that cannot must not take the others' effect away."""
    for member in members:
        try:
            yield Revocation.read(orjson.loads(member))
        except ValueError as error:
            _log.error("a revocation in Redis cannot be read and has no effect: %s", error)


def _issued(member: bytes) -> IssuedCredential | None:
    """Read an entry of the register; None for one that another version wrote."""
    try:
        members = orjson.loads(member)
        return IssuedCredential(
            **{
                **members,
                "scopes": tuple(members["scopes"]),
                "models": members["models"] and tuple(members["models"]),
            }
        )
    except (ValueError, TypeError, KeyError):
        return None
