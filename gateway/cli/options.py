"""Options that several commands share, and how flags become settings."""

from __future__ import annotations

import argparse
import re
import tomllib
from pathlib import Path
from typing import Any

from gateway.settings import Problem, Settings, SettingsInvalid, load

_DURATION = re.compile(r"([1-9][0-9]*)([smhdw])")
_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


def add_settings(command: argparse.ArgumentParser) -> None:
    """The options by which every command finds its configuration."""
    command.add_argument("--config", type=Path, metavar="FILE", help="configuration file (TOML)")
    command.add_argument("--listen", metavar="HOST:PORT", help="public listener")
    command.add_argument("--admin-listen", metavar="HOST:PORT", help="private listener: metrics and health")
    command.add_argument("--upstream", metavar="URL", help="base URL of the API behind the gateway")
    command.add_argument("--keys-dir", metavar="DIR", help="where the signing keys are")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, such as edge.keepalive_seconds=30; may be repeated",
    )


def settings_from(options: argparse.Namespace) -> Settings:
    """The settings in force for a command. Raises SettingsInvalid."""
    flags: dict[str, Any] = {}
    for key, value in (
        ("listen", options.listen),
        ("admin_listen", options.admin_listen),
        ("upstream.base_url", options.upstream),
        ("keys_dir", options.keys_dir),
    ):
        if value is not None:
            _put(flags, key, value)
    for assignment in options.set:
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise SettingsInvalid([Problem(f"--set {assignment}", "expected KEY=VALUE")])
        _put(flags, key.strip(), _value(text))
    return load(options.config, flags=flags)


def duration_seconds(text: str) -> int:
    """`45s`, `15m`, `12h`, `30d` or `2w` in seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 45s, 15m, 12h, 30d or 2w")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def _put(flags: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        flags = flags.setdefault(parent, {})
    flags[last] = value


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
