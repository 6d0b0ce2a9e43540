"""The register of what was issued, which all gateways on one Redis share."""

from __future__ import annotations

from gateway.cli.stores import shared_credentials
from gateway.credentials.issue import Issued, IssuedCredential
from gateway.settings.settings import Settings


async def registered(settings: Settings) -> list[IssuedCredential]:
    """What is on the register and has not expired; nothing where there is none. Raises RevocationsUnavailable."""
    async with shared_credentials(settings) as shared:
        return [] if shared is None else await shared.issued()


async def enter(settings: Settings, issued: Issued) -> None:
    """Enter a new credential, where there is a register. Raises RevocationsUnavailable."""
    principal = issued.principal
    async with shared_credentials(settings) as shared:
        if shared is None:
            return
        await shared.register(
            IssuedCredential(
                id=principal.credential_id,
                tenant=principal.tenant,
                subject=principal.subject,
                scopes=issued.words,
                models=principal.models,
                key=principal.key_id,
                issued_at=int(principal.issued_at),
                expires_at=int(principal.expires_at),
            )
        )
