"""What happens where there is no key yet: one is made, and with it a first credential, unless somebody has some."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.cli.register import enter, registered
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing, ensure_ring
from gateway.credentials.private_files import write_private
from gateway.credentials.revocations import RevocationsUnavailable
from gateway.exchange.process_log import tell
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.settings import Settings

FIRST_CREDENTIAL_SECONDS = 30 * 86400
FIRST_CREDENTIAL_FILE = "first-credential.jwt"


def ring_of(settings: Settings) -> tuple[KeyRing, bool]:
    """The ring of a gateway, and whether its first key was made just now. Raises KeyProblem.

    Raises SettingsInvalid where there is none and credentials are on the register: a new key would refuse them.
    """
    return ensure_ring(settings.keys_dir, before_making=lambda: check_nobody_has_any(settings))


def check_nobody_has_any(settings: Settings) -> None:
    """Raise SettingsInvalid where credentials are on the register, which a new key would refuse."""
    try:
        issued = asyncio.run(registered(settings))
    except RevocationsUnavailable:
        return  # a gateway starts without Redis, too, and is not ready where it lacks what others have
    if not issued:
        return
    kids = ", ".join(sorted({one.key for one in issued}))
    raise SettingsInvalid(
        [
            Problem(
                "keys_dir",
                f"{settings.keys_dir} holds no key, and on the register in Redis are credentials that have not "
                f"expired: {len(issued)}, signed by {kids}. A new key would refuse them all. Mount or put back the "
                "keys that were there; to begin anew without them, run `gateway keys generate`",
            )
        ]
    )


def give_first_credential(settings: Settings, ring: KeyRing) -> None:
    """Make a credential for whoever starts the gateway for the first time, and say where it is.

    It is shown on a terminal alone: elsewhere standard error is kept, and read by others. There it goes to a file.
    """
    tenant = "default" if "default" in settings.tenants else next(iter(settings.tenants))
    issued = issue(
        ring,
        settings.credentials,
        tenant=tenant,
        subject="first-run",
        scopes=settings.tenants[tenant].scopes,
        ttl_seconds=min(FIRST_CREDENTIAL_SECONDS, int(settings.credentials.max_lifetime_seconds)),
    )
    what = f"a first credential, {issued.principal.credential_id}, for the tenant {tenant}"
    if sys.stderr.isatty():
        print(f"gateway: {what}, shown this once:\n\n{issued.credential}\n", file=sys.stderr, flush=True)
    elif not _keep(settings.keys_dir / FIRST_CREDENTIAL_FILE, issued.credential, what):
        return  # nobody has it
    try:
        asyncio.run(enter(settings, issued))
    except RevocationsUnavailable as unavailable:
        tell(f"`gateway credential list` will not show it: {unavailable}")


def _keep(file: Path, credential: str, what: str) -> bool:
    try:
        write_private(file, f"{credential}\n".encode())
    except OSError as error:
        tell(
            f"{what}, could not be written to {file}: {error.strerror}; it is lost, and "
            "`gateway credential issue` makes another"
        )
        return False
    tell(f"{what}, which only you can read: {file}")
    return True
