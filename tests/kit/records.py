"""Records made by hand, for tests of rules and instruments that need no socket."""

from __future__ import annotations

from typing import Any

from gateway.credentials.principal import Principal
from gateway.exchange.exchange import Exchange
from gateway.operations.table import UNLISTED_READ, OperationTable
from gateway.policy.caller import Caller
from gateway.policy.tenants import tenant_policies
from gateway.settings.sources import load


def principal(**changes: Any) -> Principal:
    """Alice of the tenant acme, who may do nothing yet."""
    members: dict[str, Any] = {"tenant": "acme", "subject": "alice", "scopes": frozenset()}
    members |= {"credential_id": "jti-1", "issued_at": 0.0, "expires_at": 1.0}
    return Principal(**{**members, **changes})


def caller(*, models: list[str] | None = None, own: tuple[str, ...] | None = None) -> Caller:
    """Alice, where the tenant may use some `models` and her credential its `own`; None: all."""
    settings = load(flags={"tenants": {"acme": {"models": models}}}, environ={})
    return Caller(principal(models=own), tenant_policies(settings, OperationTable.load())["acme"])


def exchange(**changes: Any) -> Exchange:
    """An exchange that began at second 100, and whatever happened to it since."""
    made = Exchange("req_gw_1", "POST", UNLISTED_READ, 100.0, 1_800_000_000.5)
    for name, value in changes.items():
        setattr(made, name, value)
    return made
