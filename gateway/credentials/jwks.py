"""Keys of other issuers, kept fresh in the background: no request ever waits for one.

A set is confirmed every five minutes. While its URL fails, lies or is slow, the last good set counts, for as
long as the operator allows. A credential with an unknown kid is refused at once and asks for a fetch, of which
there is at most one in thirty seconds, whatever anybody sends, however many processes are asked.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from gateway.credentials.key_fetch import KeySource
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.key_sets import Fetch, KeySet, Pace
from gateway.credentials.keys import Key
from gateway.credentials.principal import CredentialUndecided
from gateway.wire.strict_json import strict_object

_log = logging.getLogger(__name__)


class JwksUrl:
    """The keys of one issuer, from a URL. `get` is for the hot path and never waits.

    `changed` is called when another set, or none, is in force. A set that was not confirmed for `stale_seconds` no
    longer counts.
    """

    def __init__(
        self,
        issuer: str,
        source: KeySource,
        *,
        fetch: Fetch,
        stale_seconds: float,
        changed: Callable[[], None],
        pace: Pace,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self.source = source
        self.stale_seconds = stale_seconds
        self._fetch = fetch
        self._changed = changed
        self._pace = pace
        self._clock = clock
        self._ring: KeyRing | None = None
        self._document: bytes | None = None
        self._confirmed_at = -math.inf
        self._tries_at = -math.inf
        self._missed = asyncio.Event()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def get(self, kid: str) -> Key | None:
        """Return a key of the set in force. A kid that is not there is looked for soon, for the next one.

        Raises CredentialUndecided while there is no set: none was ever fetched, or the last one is too old to count.
        """
        if self._ring is None:
            raise CredentialUndecided(
                f"there are no keys of issuer {self.issuer}, for {self.source.url} could not be fetched",
                retry_after_seconds=max(0.0, self._tries_at - self._clock()),
            )
        key = self._ring.get(kid)
        if key is None:
            self._missed.set()
        return key

    def age_seconds(self) -> float:
        """Return how long ago the set was last confirmed; infinite when it never was."""
        return self._clock() - self._confirmed_at

    def start(self) -> None:
        """Keep the set fresh from now on."""
        self._task = asyncio.create_task(self._keep_fresh())

    async def tried(self) -> None:
        """Return when the first attempt has been made, whatever came of it: that takes one fetch at most."""
        await self._tried.wait()

    def stop(self) -> None:
        """Make no further attempt."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Stop, and return when nothing runs any more."""
        self.stop()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _keep_fresh(self) -> None:
        pace = self._pace
        # For a beginning, what others were told will do, and nobody waits for a fetch that is under way.
        old_enough = 2 * pace.refresh_seconds
        while True:
            was_missed = self._missed.is_set()
            self._missed.clear()
            asked_at = self._clock()
            known = await self._fetch(self.issuer, self.source, max_age_seconds=old_enough)
            is_new = self._take(known)
            self._tried.set()
            if was_missed and not is_new and known.tried_seconds_ago > self._clock() - asked_at:
                self._missed.set()  # a fetch of before says nothing of what was missed since
            old_enough = pace.pause_seconds
            pause_seconds = pace.pause_seconds - known.tried_seconds_ago
            self._tries_at = self._clock() + pause_seconds
            await asyncio.sleep(pause_seconds)
            if not known.failed:
                try:
                    async with asyncio.timeout(pace.refresh_seconds - self.age_seconds()):
                        await self._missed.wait()
                except TimeoutError:
                    pass

    def _take(self, known: KeySet) -> bool:
        """Put in force what is known, as long as it counts; whether that is another set."""
        if known.document is not None:
            self._confirmed_at = self._clock() - known.age_seconds
        if self.age_seconds() > self.stale_seconds:
            if self._ring is not None:
                self._ring, self._document = None, None
                _log.error(
                    "keys of issuer %s are too old to count; its credentials are answered 503", self.issuer
                )
                self._changed()
            return False
        if known.document is None or known.document == self._document:
            return False
        self._ring, self._document = KeyRing.published(strict_object(known.document)), known.document
        self._changed()
        return True
