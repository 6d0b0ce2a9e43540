"""Ends what runs when what it runs on is taken away.

Whenever somebody may be believed or allowed less than before, every running exchange is asked once more what
`authenticate`, `authorize` and `limit` asked when it began, by what is in force now: a revoked credential, a
retired key, an issuer that may say less, a tenant that is disabled, a scope, a model or a rule that was narrowed.
Who would be refused now, is. Only the time is that at which it began: what was admitted before its credential
expired runs to its end, and a WebSocket knows by itself when it is over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from time import monotonic

from gateway.credentials.trust import Trust
from gateway.errors import CredentialRefused, GatewayError
from gateway.exchange.exchange import Exchange
from gateway.middleware.caller import caller_of, check_tenant
from gateway.operations.table import OperationTable
from gateway.policy import requests as policy
from gateway.policy.caller import Caller, lost
from gateway.policy.tenants import TenantBook
from gateway.proxy.lifecycle import Lifecycle

_TURN_SECONDS = 0.005
"""How long the loop is kept at a time: verifying thousands of credentials afresh takes longer."""

_SETTLING_SECONDS = 0.5
"""How long keys may take to come that are elsewhere since a reload."""

_AGAIN_SECONDS = 1.0
"""How soon those are looked at again whose bodies have not been judged yet."""

_log = logging.getLogger(__name__)


class Withdrawal:
    """Looks at the running exchanges of one process after every change; they notice nothing of it otherwise."""

    def __init__(
        self,
        *,
        trust: Trust,
        tenants: TenantBook,
        table: OperationTable,
        lifecycle: Lifecycle,
        check_head: Callable[[Exchange, Caller], object],
    ) -> None:
        """`check_head` raises what `authorize` would refuse a caller with."""
        self._trust = trust
        self._tenants = tenants
        self._table = table
        self._lifecycle = lifecycle
        self._check_head = check_head
        self._due = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def look_soon(self) -> None:
        """Somebody may be allowed less than before."""
        self._due.set()

    async def start(self) -> None:
        """Look whenever it is due, from now on."""
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _follow(self) -> None:
        postponed: list[Exchange] = []
        while True:
            due = await self._is_due(_AGAIN_SECONDS if postponed else None)
            # Nothing here may know an exchange for longer than a look takes.
            postponed = await self._look(self._running() if due else postponed)

    def _running(self) -> list[Exchange]:
        return [running.exchange for running in self._lifecycle.running.values()]

    async def _is_due(self, within_seconds: float | None) -> bool:
        try:
            async with asyncio.timeout(within_seconds):
                await self._due.wait()
        except TimeoutError:
            return False
        self._due.clear()
        try:
            async with asyncio.timeout(_SETTLING_SECONDS):
                await self._trust.settled()
        except TimeoutError:
            pass
        return True

    async def _look(self, exchanges: Iterable[Exchange]) -> list[Exchange]:
        """Ask these; return those that cannot be asked yet. Whatever begins meanwhile need not be asked."""
        postponed: list[Exchange] = []
        turn_began = monotonic()
        for exchange in exchanges:
            if monotonic() - turn_began > _TURN_SECONDS:
                await asyncio.sleep(0)
                turn_began = monotonic()
            with self._ending(exchange, postponed):
                caller = self._caller_now(exchange)
                narrowed = lost(exchange.caller, caller, exchange.operation)
                if narrowed is None and not exchange.operation.is_batch:
                    continue
                if exchange.forwarded_at is None:
                    postponed.append(exchange)  # until it has been judged by the rules with which it began
                elif narrowed is not None and exchange.is_socket:
                    raise narrowed  # what it has named is known no more, and its next events would be judged as before
                else:
                    self._check_body(exchange, caller)
        return postponed

    @contextmanager
    def _ending(self, exchange: Exchange, postponed: list[Exchange]) -> Iterator[None]:
        """End the exchange when it is refused, and see that it has ended."""
        try:
            yield
        except GatewayError as refusal:
            if self._lifecycle.withdraw(exchange.id, refusal):
                postponed.append(exchange)
        except Exception:  # noqa: BLE001 (the others have to be asked all the same)
            _log.exception("whether the exchange %s may go on cannot be told", exchange.id)

    def _caller_now(self, exchange: Exchange) -> Caller:
        caller = caller_of(exchange, self._trust, self._tenants, at=exchange.started_time)
        if caller.principal.tenant != exchange.caller.principal.tenant:
            raise CredentialRefused("This credential speaks for another tenant now.")
        check_tenant(caller.tenant)
        if not exchange.operation.is_own:
            self._check_head(exchange, caller)
        return caller

    def _check_body(self, exchange: Exchange, caller: Caller) -> None:
        """Judge what was read in the body; what nobody had to look for then is not looked for now: it has gone up."""
        policy.check_body(caller, exchange.operation, exchange.facts, self._table)
        if exchange.model is not None:
            caller.check_model(exchange.model)  # a form's too
        policy.check_model_of_body(caller, exchange.operation, exchange.model)
