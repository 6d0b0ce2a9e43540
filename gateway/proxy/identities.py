"""Opens ways upstream by what workload identities were granted: in the background, so that no request waits for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from math import nan
from time import monotonic

from gateway.errors import UpstreamIdentityUnavailable
from gateway.policy.identities import loudly
from gateway.policy.tenants import UpstreamAccess
from gateway.proxy.identity_endpoint import MOST_SECONDS, WayOut
from gateway.proxy.identity_grants import Grant, Grants, Known
from gateway.settings.workload_identity import WorkloadIdentity

_FIRST_SECONDS = MOST_SECONDS + 5.0
"""How long a start waits for what is asked first; then it goes on without."""

_SHORTEST_PAUSE_SECONDS = 0.1

_log = logging.getLogger("gateway.identities")


@dataclass(slots=True)
class _Opening:
    """One identity, and the ways upstream that it opens."""

    name: str
    """An upstream's that it opens, for the log."""

    names: set[str]
    """Those of all."""

    since: float
    grant: Grant | None = field(default=None, repr=False)
    trouble: str | None = None
    refused: str | None = field(default=None, repr=False)
    """A key that the upstream refuses."""

    tried: asyncio.Event = field(default_factory=asyncio.Event)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    keeping: asyncio.Task[None] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A way upstream with what opens it until then."""

    access: UpstreamAccess
    by: _Opening
    opened: UpstreamAccess = field(repr=False)
    expires_at: float


class Identities:
    """The workload identities in force of one process."""

    def __init__(self, grants: Grants, *, ways: Callable[[], Iterable[UpstreamAccess]], way: WayOut) -> None:
        """`ways`: those upstream in force, of all tenants that may use theirs."""
        self._grants = grants
        self._ways = ways
        self._way = way
        self._opens_all = False
        self._opened: dict[int, _Opened] = {}
        """By the identity of the object that is to be opened: to look for its values would take longer."""

        self._openings: dict[WorkloadIdentity, _Opening] = {}
        self._left: dict[WorkloadIdentity, _Opening] = {}
        """Those that are in force no more: what began before may still go up."""

    async def start(self) -> None:
        """Have what opens each way upstream, or wait no longer; then keep it."""
        self._put(self._way, {})
        tried = [asyncio.create_task(opening.tried.wait()) for opening in self._openings.values()]
        if tried:
            await asyncio.wait(tried, timeout=_FIRST_SECONDS)
            for task in tried:
                task.cancel()

    async def close(self) -> None:
        """Keep nothing any more."""
        keeping = {opening.keeping for opening in self._openings.values() if opening.keeping is not None}
        for task in keeping:
            task.cancel()
        if keeping:
            await asyncio.wait(keeping)
        await self._grants.close()

    def opened(self, access: UpstreamAccess) -> UpstreamAccess:
        """The same way with what opens it now. Raises UpstreamIdentityUnavailable.

        Waits for nobody, and returns the same object until another key is there.
        """
        identity = access.identity
        if identity is None:
            return access
        kept = self._opened.get(id(access))
        if kept is None or kept.access is not access or kept.expires_at <= monotonic():
            opening = self._openings.get(identity) or self._left.get(identity)
            grant = None if opening is None else opening.grant
            if opening is None or grant is None or grant.expires_at <= monotonic():
                raise _unavailable(opening)
            opened = replace(access, api_key=grant.key)
            kept = self._opened[id(access)] = _Opened(access, opening, opened, grant.expires_at)
        return kept.opened

    def refused(self, access: UpstreamAccess) -> None:
        """The upstream refuses what opened this way: have another key soon. Once for each key."""
        opening = None if access.identity is None else self._openings.get(access.identity)
        if opening is None or opening.grant is None or opening.grant.key != access.api_key:
            return  # another is there already
        if opening.refused != access.api_key:
            opening.refused = access.api_key
            opening.wake.set()

    async def prepare(self, ways: Iterable[UpstreamAccess], way: WayOut) -> Callable[[], None]:
        """Ask for what new ways upstream need; returns what puts them in force. What is not granted by then keeps
        nothing from being in force: it is asked for again."""
        new = {access.identity: access.name for access in ways if access.identity is not None}
        asked = {identity: name for identity, name in new.items() if identity not in self._openings}
        asking = {
            asyncio.create_task(self._grants(name, identity, way, refused=None)): identity
            for identity, name in asked.items()
        }
        found: dict[WorkloadIdentity, Known] = {}
        if asking:
            done, late = await asyncio.wait(asking, timeout=_FIRST_SECONDS)
            for task in late:
                task.cancel()
            found = {asking[task]: task.result() for task in done}
        return lambda: self._put(way, found)

    def _put(self, way: WayOut, found: dict[WorkloadIdentity, Known]) -> None:
        """Keep those in force, and no others."""
        self._way = way
        opens: dict[WorkloadIdentity, list[UpstreamAccess]] = {}
        ways = tuple(self._ways())
        self._opens_all = all(access.identity is not None for access in ways)
        for access in ways:
            if access.identity is not None:
                opens.setdefault(access.identity, []).append(access)
        now = monotonic()
        self._left = {
            identity: one for identity, one in self._left.items() if one.grant and one.grant.expires_at > now
        }
        for identity in self._openings.keys() - opens.keys():
            left = self._left[identity] = self._openings.pop(identity)
            if left.keeping is not None:
                left.keeping.cancel()
        for identity, opened in opens.items():
            opening = self._openings.get(identity)
            if opening is None:
                for sentence in loudly((access.base_url, identity) for access in opened):
                    _log.warning("%s", sentence)
                opening = self._openings[identity] = _Opening(opened[0].name, set(), now)
                self._left.pop(identity, None)
                if identity in found:
                    self._take(opening, found[identity])
                opening.keeping = asyncio.create_task(self._keep(identity, opening))
            opening.names = {access.name for access in opened}
        self._opened = {}

    async def _keep(self, identity: WorkloadIdentity, opening: _Opening) -> None:
        while True:
            opening.wake.clear()
            known = await self._grants(opening.name, identity, self._way, refused=opening.refused)
            self._take(opening, known)
            pause = max(_SHORTEST_PAUSE_SECONDS, known.again_at - monotonic())
            try:
                async with asyncio.timeout(pause):
                    await opening.wake.wait()
            except TimeoutError:
                pass  # it is time

    def _take(self, opening: _Opening, known: Known) -> None:
        """This is known now: the next request has it."""
        if known.grant is not None and known.grant != opening.grant:
            opening.grant = known.grant
            self._opened = {at: kept for at, kept in self._opened.items() if kept.by is not opening}
        opening.trouble = known.trouble
        if opening.refused is not None and (opening.grant is None or opening.grant.key != opening.refused):
            opening.refused = None
        opening.tried.set()

    # What is shown

    @property
    def names(self) -> set[str]:
        """The upstreams that an identity opens, by name."""
        return {access.name for access in self._ways() if access.identity is not None}

    def missing(self) -> list[str]:
        """Where nobody could be served yet: every upstream, with what keeps it shut. May be asked from any thread.

        One tenant's identity that is wrong keeps no gateway from serving the others.
        """
        openings = tuple(self._openings.values())
        if not self._opens_all or any(opening.grant is not None for opening in openings):
            return []
        return [f"{opening.name} ({opening.trouble or 'it is being asked for'})" for opening in openings]

    def expires_in_seconds(self, name: str) -> float:
        """Until the first key to an upstream of that name expires; below 0: it has, or there never was one. NaN: no
        identity opens it."""
        now = monotonic()
        return min(
            (
                (opening.since if opening.grant is None else opening.grant.expires_at) - now
                for opening in self._named(name)
            ),
            default=nan,
        )

    def overdue_seconds(self, name: str) -> float:
        """Since a key to an upstream of that name should have been renewed; 0: it is not due."""
        now = monotonic()
        return max(
            (
                max(0.0, now - (opening.since if opening.grant is None else opening.grant.renew_at))
                for opening in self._named(name)
            ),
            default=nan,
        )

    def _named(self, name: str) -> list[_Opening]:
        return [opening for opening in tuple(self._openings.values()) if name in opening.names]


def _unavailable(opening: _Opening | None) -> UpstreamIdentityUnavailable:
    return UpstreamIdentityUnavailable(
        "The gateway has nothing to open its upstream with at the moment: its own workload identity could not be "
        "renewed. This is not your credential's fault; try again soon, and tell the gateway's operator.",
        detail="it is in force no more"
        if opening is None
        else (opening.trouble or "none has been granted yet"),
    )
