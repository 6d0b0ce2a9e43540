"""Which entry of its issuer's subjects a credential was accepted by, or why by none, in words."""

from __future__ import annotations

from gateway.credentials.claims import claim_at
from gateway.credentials.issuers import Issuer
from gateway.credentials.principal import Check
from gateway.credentials.verifier import Inspection
from gateway.settings.settings import Settings


def short_name(issuer: Issuer, settings: Settings) -> str | None:
    """What the configuration calls an issuer; None: it is the gateway itself."""
    return next((short for short, other in settings.issuers.items() if other.name == issuer.name), None)


def entry_in_words(found: Inspection, settings: Settings) -> str | None:
    """The entry that decides, or the one that comes closest; None where the issuer tells no subjects apart."""
    issuer = found.issuer
    if issuer is None or issuer.subjects is None:
        return None
    where = f"issuers.{short_name(issuer, settings)}.subjects"
    if found.principal is not None:
        return f'{where}."{issuer.grant(found.principal.subject).pattern}" decides'
    if found.refusal is None or found.refusal.check is not Check.SUBJECT:
        return None
    subject = claim_at(found.claims or {}, issuer.claims.subject)
    nearest = issuer.subjects.nearest(subject) if isinstance(subject, str) else None
    if nearest is None:
        return None
    pattern, part = nearest
    differs = f"from its {part!r} on" if part else "in that more follows"
    return f'none of {where} matches {subject}; "{pattern}" comes closest, and differs {differs}'
