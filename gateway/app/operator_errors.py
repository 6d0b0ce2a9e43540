"""What is said to who may not look at what operators look at.

These answer requests to the private listener, which are no exchanges: they stand beside the tree of `errors.py`, in the
same shape.
"""

from __future__ import annotations

from gateway.errors import CredentialMissing, CredentialRefused, PermissionFault

_BEARER = ("WWW-Authenticate", 'Bearer realm="gateway"')
_CHALLENGES = (("WWW-Authenticate", 'Basic realm="gateway", charset="UTF-8"'), _BEARER)


def for_script(error: KeyMissing | KeyWrong) -> None:
    """Have no browser ask its user for a password: the page's own script says what is wrong."""
    error.fields = (_BEARER,)


class KeyMissing(CredentialMissing):
    """The operator's key opens this, and was not shown."""

    code = "missing_admin_key"
    fields: tuple[tuple[str, str], ...] = _CHALLENGES


class KeyWrong(CredentialRefused):
    """What was shown is not the operator's key."""

    code = "invalid_admin_key"
    fields: tuple[tuple[str, str], ...] = _CHALLENGES


class Elsewhere(PermissionFault):
    """This is shown on the gateway's machine alone, as long as there is no key."""

    code = "no_admin_key"


class CausedBySite(PermissionFault):
    """The page of another site had a browser ask."""

    code = "cross_site"
