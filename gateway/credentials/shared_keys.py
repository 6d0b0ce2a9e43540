"""Which keys the gateways on one Redis have, and which of them are needed: who lacks one refuses what others accept.

A key is needed until the credentials of it that have been verified somewhere have expired, and while at least half of
the gateways have it: one that has just come into a folder, or has left most of them, is on its way. A gateway has a say
in that once it has found that it lacks none: however many start with wrong keys, they do not outvote those that serve.
If no gateway has all that are needed, nobody is told to lack any, for somebody has to serve. What a gateway had, and
has no more, was taken away from it. Callers decide none of this: only what our own keys signed counts.
"""

from __future__ import annotations

import logging
import math
import secrets
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import Protocol

from gateway.credentials.deployment import public_name
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.revocations import RevocationsUnavailable

TOLD_EVERY_SECONDS = 5.0
GRACE_SECONDS = 120.0
"""In which a key that has come into one folder comes into the others."""

_log = logging.getLogger(__name__)


class Told(Protocol):
    """Where gateways tell each other."""

    async def tell_keys(
        self, gateway: str, keys: Iterable[str], used: Mapping[str, int]
    ) -> tuple[Sequence[frozenset[str]], frozenset[str]]:
        """Say which keys a gateway has, if it has a say, and until when some are in use; returns what each has that
        has a say, and all that are in use. Raises RevocationsUnavailable.
        """


def needed(everybody: Sequence[frozenset[str]], used: Iterable[str]) -> frozenset[str]:
    """Which keys every gateway should have, by what each has and what is in use."""
    wanted = frozenset(key for key in used if 2 * sum(key in held for held in everybody) >= len(everybody))
    return wanted if any(wanted <= held for held in everybody) else frozenset()


def gateway_name(keys_dir: Path) -> str:
    """By what the processes that read this folder are known, and no others: they have one voice."""
    try:
        place = keys_dir.stat()
    except OSError:
        return secrets.token_hex(8)
    told = f"{socket.gethostname()} {keys_dir.resolve()} {place.st_dev} {place.st_ino}"
    return sha256(told.encode("utf-8", "surrogateescape")).hexdigest()[:16]


class SharedKeys:
    """What one process tells the others of its keys, and which of theirs it lacks."""

    def __init__(
        self,
        others: Told,
        ring: KeyRing,
        *,
        name: str,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.missing: tuple[str, ...] = ()
        """The kids of keys that are needed, and have been lacking for longer than is anybody's due."""

        self._others = others
        self._name = name
        self._clock = clock
        self._names: Mapping[str, str] = {}
        """What the keys that are here are called among gateways, by their kids."""

        self._had: set[str] = set()
        self._needed: frozenset[str] | None = None
        self._lacking_since: dict[str, float] = {}
        self._tell_at = -math.inf
        self.use(ring)

    def use(self, ring: KeyRing) -> None:
        """These are the keys here from now on."""
        self._names = {key.kid: f"{public_name(key)}:{key.kid}" for key in ring}
        self._had.update(self._names.values())
        if self._needed is not None:
            self._judge(self._needed, since=self._clock())

    async def look(self, used: Mapping[str, float]) -> None:
        """Tell the others, unless that was done a moment ago. `used`: by kid, until when credentials of it count."""
        now = self._clock()
        if now < self._tell_at:
            return
        self._tell_at = now + TOLD_EVERY_SECONDS
        names = self._names
        has_say = self._needed is not None and not self.missing
        until = {names[kid]: math.ceil(ends) for kid, ends in used.items() if kid in names}
        try:
            everybody, in_use = await self._others.tell_keys(
                self._name, names.values() if has_say else (), until
            )
        except RevocationsUnavailable as unavailable:
            _log.debug("which keys other gateways have is not known: %s", unavailable)
            return  # what is known holds
        # Who begins without a key had no part in its coming late.
        self._judge(needed(everybody, in_use), since=-math.inf if self._needed is None else now)

    def _judge(self, keys: frozenset[str], *, since: float) -> None:
        self._needed = keys
        lacking = self._lacking_since
        self._lacking_since = {key: lacking.get(key, since) for key in sorted(keys - self._had)}
        overdue = self._clock() - GRACE_SECONDS
        missing = tuple(
            key.partition(":")[2] for key, began in self._lacking_since.items() if began <= overdue
        )
        if missing != self.missing:
            if missing:
                _log.error(
                    "not ready: keys that other gateways' credentials need are not here: %s",
                    ", ".join(missing),
                )
            else:
                _log.warning("all keys that other gateways' credentials need are here, or needed no more")
            self.missing = missing
