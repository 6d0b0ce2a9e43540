"""Who sends an exchange, by what is believed now: for `authenticate`, and whoever asks the same again later."""

from __future__ import annotations

import time
from collections.abc import Callable

from gateway.credentials import principal as credentials
from gateway.credentials import realtime_secrets
from gateway.credentials.principal import Check, CredentialError, CredentialNotAccepted, Principal
from gateway.credentials.trust import Trust
from gateway.credentials.verifier import bearer_from
from gateway.errors import (
    CredentialLapsed,
    CredentialMissing,
    CredentialRefused,
    CredentialWithdrawn,
    GatewayError,
    IssuerUnavailable,
    TenantDisabled,
    TenantUnknown,
)
from gateway.exchange.exchange import Exchange
from gateway.policy.caller import Caller
from gateway.policy.tenants import UNKNOWN_TENANT, TenantBook, TenantPolicy
from gateway.wire.headers import SUBPROTOCOL_CREDENTIAL, RequestHead


def caller_of(
    exchange: Exchange,
    trust: Trust,
    tenants: TenantBook,
    *,
    at: float | None = None,
    refused: Callable[[Check], None] | None = None,
) -> Caller:
    """Who sends this exchange, by what is believed now. Raises the refusal of a credential that does not count.

    `at`: when the credential was shown, in unix seconds; None: now. `refused` is told which check it failed.
    """
    upstream_secret = None
    try:
        presented = _presented(exchange.head)
        if presented.startswith(realtime_secrets.PREFIX):
            principal, upstream_secret = _unsealed(exchange, presented, trust, at)
        else:
            principal = trust.verifier.verify(presented, at=at)
    except CredentialError as error:
        if refused is not None:
            refused(error.check)
        raise credential_refusal(error, exchange.id) from None
    return Caller(principal, tenants.get(principal.tenant), upstream_secret)


def _unsealed(exchange: Exchange, presented: str, trust: Trust, at: float | None) -> tuple[Principal, str]:
    if not exchange.operation.is_session or exchange.operation.over_http is not None:
        raise CredentialNotAccepted("a realtime secret, and this is no realtime WebSocket", Check.NO_SESSION)
    minted = realtime_secrets.unseal(presented, trust.ring, now=time.time() if at is None else at)
    return trust.verifier.remaining(minted.principal), minted.upstream_secret


def _presented(head: RequestHead) -> str:
    """The credential as it was sent. Raises a CredentialError when there is none, or more than one."""
    values = [value.decode("latin-1") for value in head.authorization]
    if head.is_socket and head.subprotocols:
        values += [
            "Bearer " + offered.removeprefix(SUBPROTOCOL_CREDENTIAL).decode("latin-1")
            for offered in head.subprotocols
            if offered.startswith(SUBPROTOCOL_CREDENTIAL)
        ]
    return bearer_from(values)


def check_tenant(tenant: TenantPolicy) -> None:
    """Raise TenantUnknown or TenantDisabled for the tenant that a credential names, if it is one of those."""
    if tenant is UNKNOWN_TENANT:
        raise TenantUnknown(
            "This credential is genuine, but its tenant is not known here. "
            "Ask the gateway's operator to add it, or for a credential of another tenant."
        )
    if not tenant.settings.enabled:
        raise TenantDisabled("This tenant is switched off. Ask the gateway's operator.")


def credential_refusal(error: CredentialError, request_id: str) -> GatewayError:
    """One of four things is said, or that nobody can tell now; which check failed stands in the log only."""
    match error:
        case credentials.CredentialMissing():
            return CredentialMissing(
                "No credential was sent. Send one as 'Authorization: Bearer …'; "
                "with an official SDK, set it as the API key.",
                detail=error.reason,
            )
        case credentials.CredentialTooLong():
            return CredentialRefused(
                f"The credential has {error.has_bytes:,} bytes, and {error.most_bytes:,} are read at most "
                "(credentials.max_bytes). Have its issuer put less into it, such as groups in the place of scopes or "
                "fewer roles, or ask the gateway's operator for a higher limit.",
                detail=error.reason,
            )
        case credentials.CredentialMalformed():
            return CredentialRefused(
                "The credential is malformed. Send exactly one Authorization header, 'Bearer' and a credential "
                "issued for this gateway; keys of the API behind it are not accepted here.",
                detail=error.reason,
            )
        case credentials.CredentialUndecided():
            return IssuerUnavailable(
                "The keys of the issuer that this credential names could not be had yet, so it can neither be accepted "
                "nor refused. Try again; if that goes on, tell the gateway's operator.",
                detail=error.reason,
                retry_after_seconds=error.retry_after_seconds,
            )
        case credentials.CredentialExpired():
            return CredentialLapsed(
                "The credential has expired. Ask the gateway's operator for a new one.", detail=error.reason
            )
        case credentials.CredentialRevoked():
            return CredentialWithdrawn(
                "The credential has been revoked. Ask the gateway's operator for a new one.",
                detail=error.reason,
            )
        case _:
            return CredentialRefused(
                f"The credential is not accepted. Quote the request id {request_id} to the gateway's operator, "
                "who can see why.",
                detail=error.reason,
            )
