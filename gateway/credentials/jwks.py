"""Key sets of other issuers, fetched in the background: no request ever waits for one.

A set is confirmed every five minutes. While its URL fails, lies or is slow, the last good set counts, for as
long as the operator allows. A credential with an unknown kid is refused at once and asks for a fetch, of which
there is at most one in thirty seconds, whatever anybody sends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

import aiohttp

from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import Key
from gateway.settings.certificates import trusted_certificates
from gateway.wire.strict_json import strict_object

MAX_DOCUMENT_BYTES = 64 * 1024
FETCH_SECONDS = 5.0
REFRESH_SECONDS = 300.0
PAUSE_SECONDS = 30.0
"""Between the end of one fetch and the next, whoever asks; and before a failed one is repeated."""

_log = logging.getLogger(__name__)


class FetchFailed(Exception):
    """A key set that could not be fetched or used. The message is for the log."""


class JwksUrl:
    """The keys of one issuer, from a URL. `get` is for the hot path and never waits.

    `changed` is called when another set, or none, is in force. `fetched` hears of every attempt: "new", "same"
    or "failed". A set that was not confirmed for `stale_seconds` no longer counts.
    """

    def __init__(
        self,
        issuer: str,
        url: str,
        *,
        stale_seconds: float,
        changed: Callable[[], None],
        fetched: Callable[[str], None] = lambda _: None,
        refresh_seconds: float = REFRESH_SECONDS,
        pause_seconds: float = PAUSE_SECONDS,
        fetch_seconds: float = FETCH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self.url = url
        self.stale_seconds = stale_seconds
        self._changed = changed
        self._fetched = fetched
        self._refresh_seconds = refresh_seconds
        self._pause_seconds = pause_seconds
        self._fetch_seconds = fetch_seconds
        self._clock = clock
        self._ring: KeyRing | None = None
        self._document: bytes | None = None
        self._confirmed_at = -math.inf
        self._trouble: str | None = None
        self._missed = asyncio.Event()
        self._tried = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def get(self, kid: str) -> Key | None:
        """Return a key of the set in force. A kid that is not there is looked for soon, for the next one."""
        key = None if self._ring is None else self._ring.get(kid)
        if key is None:
            self._missed.set()
        return key

    def age_seconds(self) -> float:
        """Return how long ago the set was last confirmed; infinite when it never was."""
        return self._clock() - self._confirmed_at

    def start(self, session: aiohttp.ClientSession) -> None:
        """Keep the set fresh from now on."""
        self._task = asyncio.create_task(self._keep_fresh(session))

    async def tried(self) -> None:
        """Return when the first attempt has been made, whatever came of it: in `fetch_seconds` at most."""
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

    async def _keep_fresh(self, session: aiohttp.ClientSession) -> None:
        while True:
            self._missed.clear()
            succeeded = await self._refresh(session)
            self._tried.set()
            await asyncio.sleep(self._pause_seconds)
            if succeeded:
                try:
                    async with asyncio.timeout(self._refresh_seconds - self._pause_seconds):
                        await self._missed.wait()
                except TimeoutError:
                    pass

    async def _refresh(self, session: aiohttp.ClientSession) -> bool:
        """Make one attempt; whatever comes of it, the set in force is one that was good."""
        try:
            async with asyncio.timeout(self._fetch_seconds):
                document = await _fetch(session, self.url)
            result = "same" if document == self._document else self._take(document)
        except Exception as error:  # noqa: BLE001 (whatever a stranger's document provokes, fetching goes on)
            self._fail(error)
            return False
        self._confirmed_at = self._clock()
        if self._trouble is not None:
            self._trouble = None
            _log.warning("keys of issuer %s: fetched again", self.issuer)
        self._fetched(result)
        return True

    def _take(self, document: bytes) -> str:
        """Put a set in force; raises ValueError, and changes nothing, when it is none or has no usable key."""
        ring = KeyRing.published(strict_object(document))
        for warning in ring.warnings:
            _log.info("keys of issuer %s: %s", self.issuer, warning)
        self._ring, self._document = ring, document
        self._changed()
        return "new"

    def _fail(self, error: Exception) -> None:
        trouble = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if trouble != self._trouble:  # one line per trouble, not per attempt
            self._trouble = trouble
            _log.warning("keys of issuer %s cannot be fetched: %.300r", self.issuer, trouble)
        if self._ring is not None and self.age_seconds() > self.stale_seconds:
            self._ring, self._document = None, None
            _log.error("keys of issuer %s are too old to count; its credentials are refused", self.issuer)
            self._changed()
        self._fetched("failed")


def open_session() -> aiohttp.ClientSession:
    """Make the session that key sets are fetched with: one connection a fetch, nothing kept, nothing followed.

    Proxies and logins of the environment are not used. A compressed answer stays so, and is no key set then.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        headers={"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(total=None),
    )


async def _fetch(session: aiohttp.ClientSession, url: str) -> bytes:
    """Return the document behind a URL; the caller sets the deadline."""
    trusted = await asyncio.to_thread(trusted_certificates, None)
    async with session.get(url, allow_redirects=False, ssl=trusted) as answer:
        if answer.status != 200:
            raise FetchFailed(f"answered with status {answer.status}")
        document = bytearray()
        async for piece in answer.content.iter_any():
            document += piece
            if len(document) > MAX_DOCUMENT_BYTES:
                raise FetchFailed(f"answered with more than {MAX_DOCUMENT_BYTES} bytes")
        return bytes(document)
