"""Whose the stored objects are that a client names in the events of a realtime session.

What is not its own goes no further: the client hears what the API would say, and the session goes on.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.errors import GatewayError
from gateway.exchange.observers import SessionGate, SessionVoice
from gateway.middleware.ownership import check_owned
from gateway.middleware.session_permits import SessionPermits
from gateway.objects.registry import Registry
from gateway.policy.caller import Caller
from gateway.wire.body_facts import AskedResponse, Reference


class SessionReferences(SessionGate):
    """Asks the registry for one session; by itself it admits whatever else there is."""

    admits = False

    def __init__(self, registry: Registry | None, caller: Caller, permits: SessionPermits) -> None:
        self._registry = registry
        self._caller = caller
        self._permits = permits

    def begin(self, voice: SessionVoice) -> None:
        """The session is open."""
        self._permits.begin(voice)

    def added(self, prompt: int) -> None:
        """Nobody counts it."""

    async def admit(self, asked: AskedResponse) -> bytes | None:  # noqa: ARG002 (no limit counts what it uses)
        """Any response may be asked for."""
        return None

    async def look_up(self, references: Sequence[Reference], event_id: str | None) -> bytes | None:
        """Wait until it is known whose these are; or what the client is told in place of its event."""
        try:
            await check_owned(self._registry, self._caller, references)
        except GatewayError as refusal:
            return self._permits.error_event(refusal, event_id)
        return None

    def end(self) -> None:
        """The session is no longer open."""
        self._permits.end()
