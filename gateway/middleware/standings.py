"""The standings in force: made once for each credential and operation, and looked up from then on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gateway.credentials.trust import Trust
from gateway.exchange.exchange import Exchange
from gateway.exchange.metrics import Metrics
from gateway.exchange.standing import Standing
from gateway.middleware.caller import caller_of, check_tenant
from gateway.middleware.expiring import LOOKED_AT_SECONDS, ExpiringCredentials, notice_of
from gateway.policy.tenants import TenantBook

_MOST = 2048
"""Standings that are kept for sure; as many more are, until others take their place."""

_Key = tuple[bytes, int]


class Standings:
    """Keeps a standing for as long as nothing has changed on which one may rest.

    That is looked at every time: keys, issuers and settings of credentials, revocations, tenants, administration,
    whether the credential has expired, and whether it is time to say that it will. Nobody has to be told, so nobody can
    forget it. What is refused is not kept.
    """

    def __init__(
        self, *, trust: Trust, tenants: TenantBook, administration: Callable[[], bool], metrics: Metrics
    ) -> None:
        self._trust = trust
        self._tenants = tenants
        self._administration = administration
        self._metrics = metrics
        self._expiring = ExpiringCredentials(metrics.credential_expires)
        self._ground: tuple[object, ...] = ()
        self._kept: dict[_Key, Standing] = {}
        self._older: dict[_Key, Standing] = {}

    def of(self, exchange: Exchange) -> Standing:
        """The standing of who sends this exchange. Raises the refusal of a credential, or of a tenant."""
        presented = exchange.head.authorization
        if len(presented) != 1 or exchange.is_socket:
            return self._made(exchange)
        trust, ground = self._trust, self._ground
        if (
            not ground
            or ground[0] is not trust.verifier.beliefs
            or ground[1] is not trust.revocations.entries
            or ground[2] is not self._tenants.policies
            or ground[3] is not self._administration()
        ):
            self._forget()
        # A standing knows its operation, so that no other takes its place in memory.
        key = presented[0], id(exchange.operation)
        standing = self._kept.get(key)
        if standing is not None and exchange.started_time < standing.until:
            return standing
        standing = self._older.pop(key, None)
        if standing is None or exchange.started_time >= standing.until:
            standing = self._made(exchange)
        if standing.caller.upstream_secret is None:
            self._keep(key, standing)
        return standing

    def _keep(self, key: _Key, standing: Standing) -> None:
        if len(self._kept) >= _MOST:
            self._older, self._kept = self._kept, {}
        self._kept[key] = standing

    def _forget(self) -> None:
        trust = self._trust
        self._kept, self._older = {}, {}
        self._ground = (
            trust.verifier.beliefs,
            trust.revocations.entries,
            self._tenants.policies,
            self._administration(),
        )

    def _made(self, exchange: Exchange) -> Standing:
        caller = caller_of(
            exchange, self._trust, self._tenants, refused=self._metrics.faults.credential_refused
        )
        exchange.caller = caller  # whose it is, is told of a refusal too
        check_tenant(caller.tenant)
        verifier, expires_at, now = self._trust.verifier, caller.principal.expires_at, exchange.started_time
        until, told_from = verifier.until(caller.principal), verifier.told_from(caller.principal)
        if now < told_from:
            until = min(until, told_from)
        else:
            until = min(until, now + LOOKED_AT_SECONDS)
            self._expiring.shown(caller.tenant.id, expires_at)
            caller = replace(caller, notice=notice_of(expires_at))
        return Standing(
            caller,
            exchange.operation,
            until=until,
            tallies=self._metrics.of(caller.tenant.id, exchange.operation.id),
        )
