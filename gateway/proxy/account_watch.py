"""Notices that two tenants which count as apart have one upstream account: answers say whose they are.

It is asked about every answer, so what it has seen of a tenant lately costs one look-up. What upstreams say is
bounded: a few accounts of each tenant are kept, and the oldest go first.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

from gateway.policy.accounts import Account, account_said
from gateway.policy.tenants import TenantBook, TenantPolicy

ACCOUNT_FIELDS = (b"openai-project", b"openai-organization")
"""The header fields of answers that say whose account it is; clients never see them."""

_LOOK_SECONDS = 60.0
"""How long what one tenant was told is not looked at again."""

_SAY_SECONDS = 3600.0
"""Between two lines about one tenant."""

_HOLDS_SECONDS = 86400.0
"""How long a tenant is believed to have the account that it was told of last."""

_MOST_OF_A_TENANT = 8
_MOST_LOOKED_AT = 4096

_log = logging.getLogger("gateway.accounts")

_Answer = tuple[str, bytes | None, bytes | None]


class _Sighting(NamedTuple):
    account: Account
    at: float


class AccountWatch:
    """What the upstreams' answers say of the accounts of tenants. Times are of `time.monotonic`."""

    def __init__(self, tenants: TenantBook) -> None:
        self._tenants = tenants
        self._looked: dict[_Answer, float] = {}
        self._said: dict[str, float] = {}
        self._seen: dict[str, dict[str, _Sighting]] = {}
        """By what the upstream calls an account: who was told of it."""

        self._of_tenant: dict[str, list[str]] = {}

    def saw(self, tenant: TenantPolicy, fields: Mapping[bytes, bytes], now: float) -> None:
        """An answer to this tenant has these of the ACCOUNT_FIELDS."""
        answer = (tenant.id, fields.get(ACCOUNT_FIELDS[0]), fields.get(ACCOUNT_FIELDS[1]))
        if self._looked.get(answer, 0.0) > now:
            return
        if len(self._looked) >= _MOST_LOOKED_AT:
            self._looked.clear()
        self._looked[answer] = now + _LOOK_SECONDS
        named = account_said(tenant.account, *answer[1:])
        if named is not None:
            self._note(tenant, named, now)

    def mistaken(self, now: float) -> int:
        """How many tenants are on an account which one of them was said to have alone."""
        mistaken: set[str] = set()
        for seen in tuple(self._seen.values()):  # asked by another thread
            tenants = [policy for one in tuple(seen.items()) if (policy := self._holder(*one, now))]
            if len(tenants) > 1 and any(policy.apart for policy in tenants):
                mistaken.update(policy.id for policy in tenants)
        return len(mistaken)

    def _note(self, tenant: TenantPolicy, named: str, now: float) -> None:
        names = self._of_tenant.setdefault(tenant.id, [])
        if named not in names:
            names.append(named)
            if len(names) > _MOST_OF_A_TENANT:
                self._forget(tenant.id, names.pop(0))
        tenants = self._seen.setdefault(named, {})
        tenants[tenant.id] = _Sighting(tenant.account, now)
        # Who is not apart says nothing: who is and comes later, or comes again, will find it.
        if not tenant.apart or self._said.get(tenant.id, -_SAY_SECONDS) + _SAY_SECONDS > now:
            return
        for other, sighting in tuple(tenants.items()):
            if self._holder(other, sighting, now) is None:
                del tenants[other]
            elif other != tenant.id:
                self._said[tenant.id] = now
                _log.warning(
                    "the tenant %s counts as having an upstream account of its own, but the upstream names %s to the "
                    "tenant %s too: each may reach what the other has stored. Give one of them a project of its "
                    'own, or take back stored_objects = "own"',
                    *(tenant.id, named, other),
                )
                return

    def _holder(self, tenant: str, sighting: _Sighting, now: float) -> TenantPolicy | None:
        """The tenant, if it was told of an account lately, and as it is configured now."""
        policy = self._tenants.get(tenant)
        current = sighting.account == policy.account and sighting.at + _HOLDS_SECONDS >= now
        return policy if current else None

    def _forget(self, tenant: str, named: str) -> None:
        seen = self._seen.get(named, {})
        seen.pop(tenant, None)
        if not seen:
            self._seen.pop(named, None)
