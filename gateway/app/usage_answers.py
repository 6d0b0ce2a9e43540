"""GET /gateway/usage: what the caller, or for who may see that its whole tenant, has used."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

import orjson

from gateway.errors import BadRequest, LimitsUnavailable
from gateway.exchange.exchange import Exchange
from gateway.limits.store import StoreUnavailable
from gateway.usage.counters import Period, named
from gateway.usage.ledger import UsageLedger
from gateway.usage.report import DEFAULT_BY, DEFAULT_SINCE, Question, Report, TooManyRows, document

_ASKED = {"since": DEFAULT_SINCE, "by": DEFAULT_BY}
"""What the query may have, with its defaults."""

_MOST_SHOWN = 1000
_MOST_ADDED_UP = 20_000
_MOST_SECONDS = 10.0
_PAUSE_SECONDS = 0.002
"""Between two bites of rows: who asks for a great deal waits, and nobody else."""

_SMALL = 25
"""Rows after which nobody has to be let through."""

_AT_ONCE = 4
"""Questions of different tenants that are answered side by side."""


class UsageAnswers:
    """Answers questions about usage, of one tenant one at a time."""

    def __init__(self, ledger: UsageLedger) -> None:
        self._ledger = ledger
        self._tenants: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._room = asyncio.Semaphore(_AT_ONCE)

    async def answer(self, exchange: Exchange, query: str) -> bytes:
        """The document. Raises BadRequest, or LimitsUnavailable when nobody can say."""
        question = _question(query)
        caller, now = exchange.caller, time.time()
        tenant = caller.tenant.id
        subject = None if caller.sees_usage_of_others else caller.principal.subject
        periods = question.periods(now)
        whose = self._tenants.setdefault(tenant, asyncio.Lock())
        async with whose, self._room:
            report = await self._read(tenant, periods, question.by, subject)
            found = partial(
                document,
                *(question, report),
                tenant=tenant,
                subject=subject,
                now=now,
                counts_since=self._ledger.counts_since,
            )
            said = await asyncio.to_thread(found, largest=_MOST_SHOWN)  # sorting many takes a while
        return orjson.dumps(said)

    async def _read(
        self, tenant: str, periods: Sequence[Period], by: Sequence[str], subject: str | None
    ) -> Report:
        report = Report(by, most=_MOST_ADDED_UP)
        try:
            async with (
                asyncio.timeout(_MOST_SECONDS),
                aclosing(
                    self._ledger.read(tenant, periods, subject=None if subject is None else named(subject))
                ) as bites,
            ):
                async for rows in bites:
                    report.add(rows)
                    await asyncio.sleep(_PAUSE_SECONDS if len(rows) > _SMALL else 0)
        except (TooManyRows, TimeoutError):
            raise BadRequest(
                "That is more than is added up here. Ask for a shorter time, or tell less apart."
            ) from None
        except StoreUnavailable as error:
            raise LimitsUnavailable(
                "This gateway keeps no usage: several processes serve it, and nothing adds up what each has counted."
                if error.for_good
                else "The usage counters cannot be read at the moment. Try again shortly.",
                detail=str(error),
            ) from error
        return report


def _question(query: str) -> Question:
    asked = {**_ASKED, **dict(parse_qsl(query, keep_blank_values=True))}
    unknown = asked.keys() - _ASKED.keys()
    if unknown:
        raise BadRequest(f"The query has {min(unknown)!r}; known are {', '.join(_ASKED)}.")
    try:
        return Question.read(asked["since"], asked["by"])
    except ValueError as error:
        raise BadRequest(f"The query cannot be answered: {error}.") from None
