"""`gateway keys`: the keys that sign and verify credentials."""

from __future__ import annotations

import argparse
from typing import Any

from gateway.cli.options import add_settings, settings_from
from gateway.key_ring import add
from gateway.keys import Algorithm, Key


def register(verbs: Any) -> None:
    """Add the commands."""
    group = verbs.add_parser("keys", help="make signing keys", allow_abbrev=False)
    actions = group.add_subparsers(dest="action", required=True, metavar="ACTION")
    generate = actions.add_parser("generate", help="make a new key; the newest key signs", allow_abbrev=False)
    add_settings(generate)
    generate.add_argument(
        "--algorithm", default=Algorithm.EDDSA.value, choices=[algorithm.value for algorithm in Algorithm]
    )
    generate.add_argument("--kid", help="name of the key (default: a random one)")
    generate.set_defaults(run=_generate)


def _generate(options: argparse.Namespace) -> int:
    settings = settings_from(options)
    key = Key.generate(options.algorithm, options.kid)
    path = add(settings.keys_dir, key)
    print(f"{key.kid} ({key.algorithm}) in {path}")
    return 0
