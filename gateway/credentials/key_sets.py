"""Key sets of other issuers, fetched once for all who ask: for one process, or for all workers of a machine.

There is at most one fetch of a URL in thirty seconds, whoever asks and however often. A set that was good stays known
while its URL fails, lies or is slow, and whoever comes later gets it as well.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pydantic import SecretStr

from gateway.credentials.key_fetch import FetchFailed, KeySource, fetched
from gateway.credentials.key_ring import KeyRing
from gateway.settings.kept_file import KeptFile
from gateway.wire.strict_json import strict_object

_FORGET_SECONDS = 3600.0
"""After which nobody asks any more: who keeps a set fresh asks every five minutes at least."""

_SLACK_SECONDS = 2.0
"""By which an answer may be later than the fetch that it waits for."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a set is fetched, and how long that may take."""

    refresh_seconds: float = 300.0
    """A set is confirmed so often."""

    pause_seconds: float = 30.0
    """Between the end of one fetch and the next, whoever asks; and before a failed one is repeated."""

    fetch_seconds: float = 5.0


@dataclass(frozen=True, slots=True)
class KeySet:
    """What is known of a URL."""

    document: bytes | None
    """The last good set."""

    age_seconds: float
    """Since it was last confirmed; infinite: never."""

    tried_seconds_ago: float
    """Since the last fetch ended."""

    failed: bool
    """Whether that one failed."""


class Fetch(Protocol):
    """How a key set is asked for."""

    async def __call__(self, issuer: str, source: KeySource, *, max_age_seconds: float) -> KeySet:
        """What is known once a fetch has ended at most so long ago; one that failed counts for thirty seconds.

        `issuer` is its short name. Never fails, and takes a little longer than a fetch at most.
        """

    async def close(self) -> None:
        """Let everything go."""


@dataclass(slots=True)
class _Known:
    asked_at: float
    document: bytes | None = None
    confirmed_at: float = -math.inf
    tried_at: float = -math.inf
    trouble: str | None = None
    fetching: asyncio.Task[None] | None = field(default=None, repr=False)


class SharedFetch:
    """A Fetch by HTTP: who asks while one is under way waits for that one.

    `fetched` hears of every fetch: the issuer's short name, and "new", "same" or "failed".
    """

    def __init__(
        self,
        *,
        fetched: Callable[[str, str], None] = lambda _issuer, _result: None,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetched = fetched
        self._pace = pace or Pace()
        self._clock = clock
        self._known: dict[KeySource, _Known] = {}

    async def __call__(self, issuer: str, source: KeySource, *, max_age_seconds: float) -> KeySet:
        now = self._clock()
        self._forget_others(now)
        known = self._known.setdefault(source, _Known(now))
        known.asked_at = now
        pause = self._pace.pause_seconds
        enough = pause if known.trouble is not None else max(pause, max_age_seconds)
        if now - known.tried_at >= enough:
            if known.fetching is None:
                known.fetching = asyncio.create_task(self._fetch(issuer, source, known))
            await asyncio.shield(known.fetching)  # others may wait for it, too
        now = self._clock()
        return KeySet(
            known.document, now - known.confirmed_at, now - known.tried_at, known.trouble is not None
        )

    async def answer(self, question: Mapping[str, Any]) -> dict[str, object]:
        """What an AskedFetch in another process asks."""
        source = KeySource(question["url"], _ca_file_told(question), _bearer_file_told(question))
        known = await self(question["issuer"], source, max_age_seconds=question["max_age_seconds"])
        return {
            "document": None if known.document is None else known.document.decode(),
            "age_seconds": None if math.isinf(known.age_seconds) else known.age_seconds,
            "tried_seconds_ago": known.tried_seconds_ago,
            "failed": known.failed,
        }

    async def close(self) -> None:
        """End what is under way."""
        running = [known.fetching for known in self._known.values() if known.fetching is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _forget_others(self, now: float) -> None:
        for source, known in tuple(self._known.items()):
            if now - known.asked_at > _FORGET_SECONDS:
                del self._known[source]

    async def _fetch(self, issuer: str, source: KeySource, known: _Known) -> None:
        try:
            async with asyncio.timeout(self._pace.fetch_seconds):
                document = await fetched(source)
            result = "same" if document == known.document else _judged(issuer, document)
        except Exception as error:  # noqa: BLE001 (whatever a stranger's document provokes, fetching goes on)
            result = "failed"
            trouble = _in_words(error)
            if trouble != known.trouble:  # one line per trouble, not per attempt
                known.trouble = trouble
                _log.warning("keys of issuer %s cannot be fetched: %.300r", issuer, trouble)
        else:
            known.document, known.confirmed_at = document, self._clock()
            if known.trouble is not None:
                known.trouble = None
                _log.warning("keys of issuer %s: fetched again", issuer)
        finally:
            known.tried_at, known.fetching = self._clock(), None
        self._fetched(issuer, result)


class AskedFetch:
    """A Fetch that asks another process, which has the SharedFetch."""

    def __init__(
        self, ask: Callable[[Mapping[str, object]], Awaitable[Mapping[str, Any]]], *, pace: Pace | None = None
    ) -> None:
        """`ask` brings what `SharedFetch.answer` answers; it may fail."""
        self._ask = ask
        self._is_alone = False
        self._most_seconds = (pace or Pace()).fetch_seconds + _SLACK_SECONDS

    async def __call__(self, issuer: str, source: KeySource, *, max_age_seconds: float) -> KeySet:
        try:
            async with asyncio.timeout(self._most_seconds):
                asked = {"issuer": issuer, "max_age_seconds": max_age_seconds}
                answer = await self._ask(asked | _told(source))
        except Exception:  # noqa: BLE001 (whoever is asked may be gone: what is known here still holds)
            if not self._is_alone:
                self._is_alone = True
                _log.warning("keys of other issuers: nobody answers who would fetch them")
            return KeySet(None, math.inf, 0.0, failed=True)
        self._is_alone = False
        document, age_seconds = answer["document"], answer["age_seconds"]
        return KeySet(
            None if document is None else document.encode(),
            math.inf if age_seconds is None else age_seconds,
            answer["tried_seconds_ago"],
            answer["failed"],
        )

    async def close(self) -> None:
        """Nothing: who fetches is closed where it is."""


def _told(source: KeySource) -> dict[str, object]:
    """A source in a question: of the bearer its place alone, for who fetches reads it."""
    ca_file, bearer_file = source.ca_file, source.bearer_file
    return {
        "url": source.url,
        "ca_path": None if ca_file is None else str(ca_file.path),
        "ca": None if ca_file is None else ca_file.content.get_secret_value(),
        "bearer_file": None if bearer_file is None else str(bearer_file),
    }


def _ca_file_told(question: Mapping[str, Any]) -> KeptFile | None:
    content = question.get("ca")  # which a worker of an earlier release does not say
    return None if content is None else KeptFile(Path(question["ca_path"]), SecretStr(content))


def _bearer_file_told(question: Mapping[str, Any]) -> Path | None:
    path = question.get("bearer_file")
    return None if path is None else Path(path)


def _in_words(error: Exception) -> str:
    if isinstance(error, FetchFailed):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _judged(issuer: str, document: bytes) -> str:
    """The result of a document that is another; raises ValueError when it is none, or has no usable key."""
    for warning in KeyRing.published(strict_object(document)).warnings:
        _log.info("keys of issuer %s: %s", issuer, warning)
    return "new"
