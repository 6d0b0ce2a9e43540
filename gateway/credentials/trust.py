"""Whom this process believes, kept current while it runs: its own keys, other issuers' keys, revocations.

Nothing here is on the path of a request: the verifier and the list of revocations are read there, and changed
from here. When a source fails, what it said last holds.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.credentials.configured_issuers import other_issuers
from gateway.credentials.deployment import Deployment
from gateway.credentials.issue import IssuedCredential
from gateway.credentials.issuers import Issuer, Keys
from gateway.credentials.jwks import JwksUrl
from gateway.credentials.key_fetch import KeySource
from gateway.credentials.key_ring import Fingerprint, KeyRing, fingerprint
from gateway.credentials.key_sets import Fetch, Pace, SharedFetch
from gateway.credentials.keys import KeyProblem
from gateway.credentials.revocation_file import RevocationFile
from gateway.credentials.revocations import RevocationList, RevocationStore, RevocationsUnavailable
from gateway.credentials.shared_keys import SharedKeys, gateway_name
from gateway.credentials.verifier import Verifier
from gateway.operations.scopes import Vocabulary
from gateway.redis.observer import NOBODY, Observer
from gateway.redis.schema import DEFAULT_PREFIX
from gateway.settings.issuer import IssuerSettings
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.settings import Credentials

if TYPE_CHECKING:
    from gateway.credentials.redis_credentials import RedisCredentials

POLL_SECONDS = 1.0
"""Between two looks at the key directory and at the revocations."""

_PAGES = 5
"""Of the register that are looked at for those that are not revoked."""

_log = logging.getLogger(__name__)


class Trust:
    """The verifier of one process and all that it rests on. Raises SettingsInvalid with every problem.

    `keys_dir` is where `ring` came from and is followed; None for a ring that exists in memory only. `start`
    and `close` go around serving. `fetch` is how other issuers' keys are asked for, and is closed with the rest; None:
    by this process for itself. For metrics: `ring_loaded` ("loaded" | "failed"). With `tells_keys` others on the same
    Redis are told which keys are here, as by who serves.
    """

    def __init__(
        self,
        accepted: Credentials,
        issuers: Mapping[str, IssuerSettings],
        *,
        ring: KeyRing,
        vocabulary: Vocabulary,
        keys_dir: Path | None = None,
        redis_url: str | None = None,
        redis_prefix: str = DEFAULT_PREFIX,
        redis_observer: Observer = NOBODY,
        fetch: Fetch | None = None,
        pace: Pace | None = None,
        ring_loaded: Callable[[str], None] = lambda _result: None,
        clock: Callable[[], float] = time.time,
        poll_seconds: float = POLL_SECONDS,
        tells_keys: bool = False,
    ) -> None:
        self.ring = ring
        """Our own keys in force."""

        self.deployment = Deployment(ring)

        self.revocations = RevocationList()
        self.verifier = Verifier(
            ring, accepted, vocabulary=vocabulary, revoked=self.revocations.check, clock=clock
        )
        self.vocabulary = vocabulary
        """What scopes, patterns and groups mean."""

        self._keys_dir = keys_dir
        self._pace = pace or Pace()
        self._fetch = fetch or SharedFetch(pace=self._pace)
        self._ring_loaded = ring_loaded
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._fingerprint: Fingerprint | None = None  # nobody has looked; an empty folder is something to see
        self._started = False
        self._follower: asyncio.Task[None] | None = None
        self._file = None if keys_dir is None else RevocationFile(keys_dir, clock=clock)
        self._redis = _shared(redis_url, redis_prefix, clock, redis_observer) if redis_url else None
        self._store: RevocationStore | None = self._redis or self._file
        self._shared_keys = None
        if tells_keys and self._redis is not None and keys_dir is not None:
            self._shared_keys = SharedKeys(self._redis, ring, name=gateway_name(keys_dir))
        self._confirmed_at = -math.inf
        self._trouble: str | None = None
        self._jwks: dict[str, JwksUrl] = {}
        self._changed: Callable[[], None] = _nothing
        self._believe(accepted, *self._resolve(accepted, issuers))

    def tell(self, changed: Callable[[], None]) -> None:
        """Have `changed` called whenever somebody may be believed less than before, but for what was prepared."""
        self._changed = changed

    async def settled(self) -> None:
        """Return when the keys of every issuer have been asked for."""
        await asyncio.gather(*(source.tried() for source in self._jwks.values()))

    async def start(self) -> None:
        """Get what can be had of keys and revocations, in a few seconds at most, and follow it from then on.

        Raises SettingsInvalid where revocations stand in a file that cannot be read, and nobody else knows them: what
        has been revoked would be accepted again.
        """
        await self._remember_revocations()
        await self._look_at_others()
        self._started = True
        for source in self._jwks.values():
            source.start()
        await self.settled()
        self._follower = asyncio.create_task(self._follow())

    def prepare(self, accepted: Credentials, issuers: Mapping[str, IssuerSettings]) -> Callable[[], None]:
        """Judge new settings, and change nothing; returns what puts them in force. Raises SettingsInvalid.

        Key sets of URLs that stay are kept: a reload while an issuer is down cuts nobody off.
        """
        return partial(self._replace, accepted, *self._resolve(accepted, issuers))

    def _replace(self, accepted: Credentials, others: list[Issuer], jwks: dict[str, JwksUrl]) -> None:
        before = self._jwks
        self._believe(accepted, others, jwks)
        for name, source in before.items():
            if source is not self._jwks.get(name):
                source.stop()
        for name, source in self._jwks.items():
            if source is not before.get(name) and self._started:
                source.start()

    async def close(self) -> None:
        """Stop following."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait({self._follower})
        await asyncio.gather(*(source.close() for source in self._jwks.values()))
        await self._fetch.close()
        if self._redis is not None:
            await self._redis.close()

    @property
    def missing_keys(self) -> tuple[str, ...]:
        """The kids of keys that others on the same Redis have, and whose credentials would be refused here."""
        return () if self._shared_keys is None else self._shared_keys.missing

    async def next_to_expire(self, most: int) -> tuple[list[IssuedCredential], bool] | None:
        """Those on the register that are neither expired nor revoked, and whether there may be more.

        None where there is no register. Raises RevocationsUnavailable.
        """
        if self._redis is None:
            return None
        found: list[IssuedCredential] = []
        for page in range(_PAGES):
            some = await self._redis.issued(skip=page * most, most=most)
            found += (one for one in some if not self.revocations.check(one.principal))
            if len(some) < most:
                return found[:most], len(found) > most
            if len(found) > most:
                break
        return found[:most], True

    def jwks_ages(self) -> dict[str, float]:
        """Return, by short name, how many seconds ago each issuer's key set was confirmed; infinite: never."""
        return {name: source.age_seconds() for name, source in self._jwks.items()}

    def jwks_stale_in(self) -> dict[str, float]:
        """Return, by short name, in how many seconds each issuer's key set counts no more; 0: it does not."""
        return {
            name: max(0.0, source.stale_seconds - source.age_seconds()) for name, source in self._jwks.items()
        }

    def revocations_age_seconds(self) -> float:
        """Return how long ago the store last confirmed the revocations; infinite: never; 0: there is none."""
        return 0.0 if self._store is None else time.monotonic() - self._confirmed_at

    def _resolve(
        self, accepted: Credentials, issuers: Mapping[str, IssuerSettings]
    ) -> tuple[list[Issuer], dict[str, JwksUrl]]:
        """Return the other issuers and their sources of keys, those in use among them; changes nothing."""
        jwks: dict[str, JwksUrl] = {}

        def keys_from_url(name: str, settings: IssuerSettings) -> Keys:
            source, stale_seconds = KeySource.of(settings), settings.jwks_stale_seconds
            present = self._jwks.get(name)
            if present is None or (present.source, present.stale_seconds) != (source, stale_seconds):
                present = JwksUrl(
                    name,
                    source,
                    fetch=self._fetch,
                    stale_seconds=stale_seconds,
                    changed=self._forget,
                    pace=self._pace,
                )
            jwks[name] = present
            return present

        others = other_issuers(
            issuers, own_name=accepted.issuer, vocabulary=self.vocabulary, keys_from_url=keys_from_url
        )
        return others, jwks

    def _forget(self) -> None:
        self.verifier.forget()
        self._changed()

    def _believe(self, accepted: Credentials, others: list[Issuer], jwks: dict[str, JwksUrl]) -> None:
        self._jwks = jwks
        self.verifier.trust(self.ring, accepted, others)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._poll_seconds)
            try:
                await self._look_at_keys()
                await self._look_at_revocations()
                await self._look_at_others()
            except Exception:  # noqa: BLE001 (what is known holds; without further looks nothing would ever be revoked)
                _log.exception("looking for changes of keys and revocations failed")

    async def _look_at_keys(self) -> None:
        if self._keys_dir is None:
            return
        seen = await asyncio.to_thread(fingerprint, self._keys_dir)
        if seen == self._fingerprint:
            return
        self._fingerprint = seen
        try:
            ring = await asyncio.to_thread(KeyRing.load, self._keys_dir)
        except KeyProblem as problem:
            _log.error(
                "the keys in %s changed and cannot be used; those before hold: %s", self._keys_dir, problem
            )
            self._ring_loaded("failed")
            return
        self.ring = ring
        self.deployment = Deployment(ring)
        self.verifier.use(ring)
        if self._shared_keys is not None:
            self._shared_keys.use(ring)
        self._changed()
        self._ring_loaded("loaded")

    async def _look_at_others(self) -> None:
        if self._shared_keys is not None:
            await self._shared_keys.look(self.verifier.used)

    async def _remember_revocations(self) -> None:
        """Begin with what was known here last, which holds even when Redis is gone or has lost it."""
        unread: str | None = None
        if self._redis is not None and self._file is not None:
            try:
                entries = await self._file.changed() or frozenset()
            except RevocationsUnavailable as unavailable:
                unread = str(unavailable)
                _log.error("revocations: %s", unavailable)
            else:
                self._redis.remember(entries)
                self.revocations.replace(entries, self._clock())
        await self._look_at_revocations()
        if self._redis is None:
            unread = self._trouble
        if unread is not None and math.isinf(self._confirmed_at):
            raise SettingsInvalid([unreadable(unread)])

    async def _look_at_revocations(self) -> None:
        if self._store is None:
            return
        self.revocations.expire(self._clock())
        try:
            entries = await self._store.changed()
        except RevocationsUnavailable as unavailable:
            if self._trouble is None:
                _log.error("revocations cannot be read; those known hold: %s", unavailable)
            self._trouble = str(unavailable)
            return
        if self._trouble is not None:
            _log.warning("revocations can be read again")
            self._trouble = None
        self._confirmed_at = time.monotonic()
        if entries is None:
            return
        before = self.revocations.entries
        self.revocations.replace(entries, self._clock())
        if self.revocations.entries != before:
            self._changed()
        if self._redis is not None and self._file is not None:
            try:
                await self._file.merge(self.revocations.entries)
            except RevocationsUnavailable as unavailable:
                _log.info("revocations are not kept beside the keys: %s", unavailable)


def unreadable(why: str) -> Problem:
    """What is wrong where nobody can tell what is revoked."""
    return Problem(
        "keys_dir",
        f"what has been revoked cannot be read, and would be accepted again: {why}. "
        "Put the file right, or move it away to have nothing revoked",
    )


def _nothing() -> None:
    """Nobody watches."""


def _shared(redis_url: str, prefix: str, clock: Callable[[], float], observer: Observer) -> RedisCredentials:
    from gateway.credentials.redis_credentials import RedisCredentials

    return RedisCredentials(redis_url, prefix=prefix, clock=clock, observer=observer)
