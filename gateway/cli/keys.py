"""`gateway keys`: the keys that sign and verify credentials."""

from __future__ import annotations

import argparse
import asyncio
import time
from typing import Any

from gateway.cli.drawing import complain, document, listing, say
from gateway.cli.options import add_settings, date, settings_from
from gateway.cli.stores import shared_credentials
from gateway.credentials.issue import IssuedCredential
from gateway.credentials.key_ring import KeyRing, add, retire, rotate
from gateway.credentials.keys import Algorithm, Key
from gateway.credentials.revocations import RevocationsUnavailable
from gateway.settings.settings import Settings


def register(verbs: Any) -> None:
    """Add the commands."""
    group = verbs.add_parser("keys", help="make, list, rotate and retire signing keys")
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    generate = actions.add_parser("generate", help="make a new key; the newest key signs")
    _add_new_key(generate, default=Algorithm.EDDSA)
    generate.set_defaults(run=_generate)
    listing = actions.add_parser("list", help="print the keys of the ring")
    add_settings(listing)
    listing.add_argument("--json", action="store_true", help="for programs")
    listing.set_defaults(run=_list)
    rotation = actions.add_parser("rotate", help="let a new key sign; those before it go on verifying")
    _add_new_key(rotation, default=None)
    rotation.set_defaults(run=_rotate)
    retirement = actions.add_parser("retire", help="delete a key: what it signed is refused from then on")
    add_settings(retirement)
    retirement.add_argument("kid", metavar="KID")
    retirement.set_defaults(run=_retire)


def _add_new_key(command: argparse.ArgumentParser, *, default: Algorithm | None) -> None:
    add_settings(command)
    command.add_argument(
        "--algorithm",
        default=default,
        choices=[algorithm.value for algorithm in Algorithm],
        help=f"default: {default or 'that of the key that signs now'}",
    )
    command.add_argument("--kid", help="name of the key (default: a random one)")


def _generate(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    key = Key.generate(options.algorithm, options.kid)
    path = add(settings.keys_dir, key)
    say(f"{key.kid} ({key.algorithm}) in {path}")
    return 0


def _list(options: argparse.Namespace) -> int:
    ring = KeyRing.load(settings_from(options).keys_dir)
    if options.json:
        document(
            [
                {
                    "kid": key.kid,
                    "algorithm": key.algorithm.value,
                    "created_at": key.created_at or None,
                    "signs": key is ring.signing_key,
                    "secret": key.is_secret,
                }
                for key in ring
            ]
        )
        return 0
    rows = []
    for key in ring:
        created = date(key.created_at) if key.created_at else "unknown"
        rows.append((key.kid, key.algorithm.value, created, _use(key, ring)))
    listing(("KID", "ALGORITHM", "CREATED", "USE"), rows)
    return 0


def _use(key: Key, ring: KeyRing) -> str:
    if key is ring.signing_key:
        return "signs"
    return "verifies" if key.is_secret else "verifies (public part only)"


def _rotate(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    key = rotate(settings.keys_dir, options.algorithm, kid=options.kid)
    say(f"{key.kid} ({key.algorithm}) signs from now on; running gateways accept it within two seconds")
    older = [other.kid for other in KeyRing.load(settings.keys_dir) if other.kid != key.kid]
    if older:
        last = date(time.time() + settings.credentials.max_lifetime_seconds)
        say(f"still verifying: {', '.join(older)}; what they signed has expired by {last} at the latest")
    return 0


def _retire(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    if KeyRing.load(settings.keys_dir).get(options.kid) is None and asyncio.run(
        _retired_elsewhere(settings, options.kid)
    ):
        say(f"{options.kid} is not in {settings.keys_dir}; no gateway misses it any more")
        return 0
    retire(settings.keys_dir, options.kid)
    say(
        f"{options.kid} is deleted; running gateways refuse what it signed within two seconds, "
        "and nothing can bring it back"
    )
    try:
        cut_off = asyncio.run(_signed_by(settings, options.kid))
    except RevocationsUnavailable as unavailable:
        complain(f"which credentials that cuts off is not known: {unavailable}")
        return 0
    if cut_off is None:
        complain("which credentials that cuts off is not known without Redis")
        return 0
    say(f"{len(cut_off)} credentials that had not expired are cut off")
    for one in cut_off:
        say(f"  {one.id}  {one.subject} (tenant {one.tenant}), was valid until {date(one.expires_at)}")
    return 0


async def _signed_by(settings: Settings, kid: str) -> list[IssuedCredential] | None:
    """The unexpired credentials that a key signed, as far as they were entered in the register.

    Running gateways are told that none of them should have it any more.
    """
    async with shared_credentials(settings) as shared:
        if shared is None:
            return None
        await shared.key_retired(kid)
        return [one for one in await shared.issued() if one.key == kid]


async def _retired_elsewhere(settings: Settings, kid: str) -> bool:
    """Tell running gateways that none of them should have a key; whether any has it, or credentials of it."""
    async with shared_credentials(settings) as shared:
        try:
            return shared is not None and await shared.key_retired(kid)
        except RevocationsUnavailable:
            return False
