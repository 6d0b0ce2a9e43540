"""SPIFFE ids, as JWT-SVIDs have them for their subject. Pure."""

import re

# What the standard allows, and no more: nothing is percent-encoded, and no part leads up.
_WORKLOAD = re.compile(r"spiffe://([a-z0-9._-]{1,255})(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._-]+)+")


def trust_domain_of(subject: object) -> str | None:
    """The trust domain in which a workload has this id; None: it is no workload's SPIFFE id."""
    found = _WORKLOAD.fullmatch(subject) if isinstance(subject, str) else None
    return None if found is None else found[1]
