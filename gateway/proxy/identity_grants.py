"""What endpoints grant to workload identities, asked once for all who want it: a process, or all workers of a machine.

However many workers and tenants have one identity, its endpoint is asked once in two thirds of the time for which it
grants something, and seldom while it grants nothing. What it has granted counts until it expires, whatever happens.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, Protocol

from gateway.proxy.identity_endpoint import MOST_SECONDS, NothingGranted, WayOut, ask_endpoint
from gateway.settings.workload_identity import WorkloadIdentity
from gateway.wire.token_exchange import Granted

_AT_ONCE = 32
"""Identities for which one endpoint is asked at the same time; one that hangs keeps no other waiting."""

_RENEWED_AFTER = 2 / 3
"""Of the time for which something is granted."""

_EARLIER = 0.05
"""At most by that part of it, so that many gateways that were started together do not ask together for ever."""

_SHORTEST_SECONDS = 1.0
"""Between two grants, however short they are."""

_FORGET_SECONDS = 900.0
"""After which what nobody has asked for is let go, once it has expired."""

_BEHIND_SECONDS = 1.0
"""For how much longer than an endpoint may take somebody waits for its turn to be asked."""

_SLACK_SECONDS = 3.0
"""By which another process may be later than the endpoint that it asks."""

_log = logging.getLogger("gateway.identities")


class Grant(NamedTuple):
    """What opens an upstream. Times are of `time.monotonic`, which all processes of a machine share."""

    key: str
    expires_at: float
    renew_at: float


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an identity."""

    grant: Grant | None = field(repr=False)
    """The last that was granted; it may have expired."""

    trouble: str | None
    """Why there is no newer one; None: there is no need for any."""

    again_at: float
    """When to ask again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How soon an endpoint is asked again that granted nothing, or something that the upstream refuses; that doubles
    with each time."""

    first_seconds: float = 1.0
    most_seconds: float = 60.0
    refused_seconds: float = 30.0
    most_refused_seconds: float = 600.0


class Grants(Protocol):
    """How what an identity is granted is asked for."""

    async def __call__(
        self, name: str, identity: WorkloadIdentity, way: WayOut, *, refused: str | None
    ) -> Known:
        """What is known, once the endpoint has been asked if it is time to.

        `name` is the upstream's, for log and metrics; `refused`: the upstream refuses this key. Never fails, and takes
        a little longer than the endpoint may at most: of one that is not asked by then nothing new is known.
        """

    async def close(self) -> None:
        """Let everything go."""


@dataclass(slots=True)
class _Asked:
    asked_at: float
    grant: Grant | None = field(default=None, repr=False)
    trouble: str | None = None
    due_at: float = 0.0
    pause_seconds: float = 0.0
    refusals_until: float = 0.0
    """Before which it does not count that the upstream refuses what was granted."""

    refusal_seconds: float = 0.0
    asking: asyncio.Task[None] | None = field(default=None, repr=False)


class SharedGrants:
    """Grants from the endpoints themselves: who asks while one is being asked waits for that.

    `asked` hears of every time: the upstream's name, and "granted", "refused", "failed" or "no_subject".
    """

    def __init__(
        self,
        *,
        asked: Callable[[str, str], None] = lambda _name, _result: None,
        patience: Patience | None = None,
    ) -> None:
        self._tell_asked = asked
        self._patience = patience or Patience()
        self._known: dict[WorkloadIdentity, _Asked] = {}
        self._turns: defaultdict[str, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, _AT_ONCE))
        """By endpoint."""

    async def __call__(
        self, name: str, identity: WorkloadIdentity, way: WayOut, *, refused: str | None
    ) -> Known:
        now = monotonic()
        self._forget_others(now)
        known = self._known.setdefault(identity, _Asked(now))
        known.asked_at = now
        is_refused = known.grant is not None and known.grant.key == refused
        if is_refused and known.trouble is None and now >= known.refusals_until:
            known.due_at = 0.0
            patience = self._patience
            seconds = known.refusal_seconds or patience.refused_seconds
            known.refusals_until = now + seconds
            known.refusal_seconds = min(2 * seconds, patience.most_refused_seconds)
        if now >= known.due_at:
            if known.asking is None:
                known.asking = asyncio.create_task(self._ask(name, identity, way, known))
            await asyncio.wait(
                {known.asking}, timeout=MOST_SECONDS + _BEHIND_SECONDS
            )  # it goes on for others, too
        again_at = known.due_at
        if known.grant is not None and known.grant.key == refused:
            again_at = min(again_at, max(known.refusals_until, monotonic()))
        return Known(known.grant, known.trouble, again_at)

    async def answer(self, question: Mapping[str, Any]) -> dict[str, object]:
        """What an AskedGrants in another process asks."""
        identity = WorkloadIdentity.model_validate(question["identity"])
        way = WayOut.told(question["way"])
        known = await self(question["name"], identity, way, refused=question["refused"])
        return {"grant": known.grant and [*known.grant], "trouble": known.trouble, "again_at": known.again_at}

    async def close(self) -> None:
        """End what is under way."""
        running = [known.asking for known in self._known.values() if known.asking is not None]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _forget_others(self, now: float) -> None:
        for identity, known in tuple(self._known.items()):
            counts = known.grant is not None and known.grant.expires_at > now
            if not counts and known.asking is None and now - known.asked_at > _FORGET_SECONDS:
                del self._known[identity]

    async def _ask(self, name: str, identity: WorkloadIdentity, way: WayOut, known: _Asked) -> None:
        try:
            async with self._turns[identity.token_endpoint]:
                began = monotonic()
                granted = await ask_endpoint(identity, way)
        except NothingGranted as nothing:
            self._failed(name, nothing.result, str(nothing), known)
        except Exception as error:  # noqa: BLE001 (whatever ails the way there, it is asked again)
            self._failed(name, "failed", type(error).__name__, known)
        else:
            self._granted(name, granted, known, began)
        finally:
            known.asking = None

    def _granted(self, name: str, granted: Granted, known: _Asked, began: float) -> None:
        seconds = granted.seconds
        early = random.uniform(1 - _EARLIER, 1)  # noqa: S311 (nothing is kept secret by it)
        known.due_at = began + max(_SHORTEST_SECONDS, seconds * _RENEWED_AFTER * early)
        is_first = known.grant is None
        known.grant = Grant(granted.key, began + seconds, known.due_at)
        if known.trouble is not None or is_first:
            _log.info(
                "upstream %s: its workload identity opens it for %.0f seconds, and is renewed", name, seconds
            )
        known.trouble, known.pause_seconds = None, 0.0
        if monotonic() - known.refusals_until > self._patience.most_refused_seconds:
            known.refusal_seconds = 0.0
        self._tell_asked(name, "granted")

    def _failed(self, name: str, result: str, why: str, known: _Asked) -> None:
        patience = self._patience
        pause = known.pause_seconds or patience.first_seconds
        known.pause_seconds = min(2 * pause, patience.most_seconds)
        known.due_at = monotonic() + pause * random.uniform(0.8, 1)  # noqa: S311 (nothing is kept secret by it)
        if why != known.trouble:  # one line per trouble, not per attempt
            known.trouble = why
            _log.warning("upstream %s: its workload identity cannot be renewed: %s", name, why)
        self._tell_asked(name, result)


AskGrants = Callable[[Mapping[str, object]], Awaitable[Mapping[str, Any]]]
"""Brings what `SharedGrants.answer` answers from another process. It may fail, as where that is of an older release."""


class AskedGrants:
    """Grants that another process asks for, which has the SharedGrants; while nobody answers there, our own."""

    def __init__(self, ask: AskGrants, *, own: SharedGrants) -> None:
        self._ask = ask
        self._own = own

    async def __call__(
        self, name: str, identity: WorkloadIdentity, way: WayOut, *, refused: str | None
    ) -> Known:
        question = {
            "name": name,
            "identity": identity.model_dump(mode="json"),
            "way": way.document(),
            "refused": refused,
        }
        try:
            async with asyncio.timeout(MOST_SECONDS + _SLACK_SECONDS):
                answer = await self._ask(question)
            grant = answer["grant"]
            return Known(None if grant is None else Grant(*grant), answer["trouble"], answer["again_at"])
        except Exception:  # noqa: BLE001 (whoever is asked may be gone)
            _log.warning(
                "upstream %s: nobody answers who would renew its workload identity; doing it here", name
            )
            return await self._own(name, identity, way, refused=refused)

    async def close(self) -> None:
        """End what is under way here."""
        await self._own.close()
