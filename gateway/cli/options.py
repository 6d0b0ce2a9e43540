"""Options that several commands share, and how flags become settings."""

from __future__ import annotations

import argparse
import sys
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gateway.cli.command_line import nearest
from gateway.policy.accounts import listed
from gateway.settings.judging import judged, judgement
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings
from gateway.settings.sources import gathered, looked_up, with_judgement
from gateway.settings.upstream import DEFAULT_BASE_URL
from gateway.usage.report import duration_seconds

_MOST_CREDENTIAL_BYTES = 2**20
_FORMATS = ("json", "text")


def add_settings(command: argparse.ArgumentParser) -> None:
    """The options by which every command finds its configuration."""
    command.add_argument("--config", type=Path, metavar="FILE", help="configuration file (TOML)")
    command.add_argument("--listen", metavar="HOST:PORT", help="public listener")
    command.add_argument("--admin-listen", metavar="HOST:PORT", help="private listener: metrics and health")
    command.add_argument("--upstream", metavar="URL", help="base URL of the API behind the gateway")
    command.add_argument("--keys-dir", metavar="DIR", help="where the signing keys are")
    add_set(command)


def add_set(command: argparse.ArgumentParser) -> None:
    """The option by which any setting can be given on the command line."""
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting, such as edge.keepalive_seconds=30; may be repeated",
    )


def add_workers(command: argparse.ArgumentParser) -> None:
    """The option that says how many processes a gateway has, for commands that are about that."""
    command.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that serve, one for each core; by default as many as there are cores where redis_url is set "
        "and no container is seen, else 1",
    )


def add_log_format(command: argparse.ArgumentParser) -> None:
    """The option that says how the log is written, for commands that serve."""
    command.add_argument(
        "--log-format",
        choices=_FORMATS,
        help="lines of JSON, for programs, or text, for people: of exchanges and of all else that is said",
    )


def log_format(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """In which form things are said before the settings have been read, as far as anybody has said so by now."""
    assigned = (text.partition("=")[2] for text in reversed(options.set) if text.startswith("log.format="))
    said = options.log_format or next(assigned, "") or environ.get("GATEWAY_LOG__FORMAT", "")
    return said.strip("\"'") if said.strip("\"'") in _FORMATS else _FORMATS[0]


def settings_from(options: argparse.Namespace, seen: Seen | None = None) -> Settings:
    """The settings in force for a command; `seen` is told what they were read from. Raises SettingsInvalid."""
    return judged(values_from(options, seen))


def values_from(options: argparse.Namespace, seen: Seen | None = None) -> dict[str, Any]:
    """The same before they are judged, for another process to do it. Raises SettingsInvalid."""
    return gathered(options.config, flags=_flags(options), seen=_seen(options, seen))


def examined(options: argparse.Namespace, seen: Seen) -> tuple[Settings | None, list[Problem]]:
    """The same as far as it is sound, and every problem of the rest."""
    try:
        values, problems = looked_up(options.config, flags=_flags(options), seen=_seen(options, seen))
    except SettingsInvalid as invalid:
        return None, invalid.problems
    settings, wrong = judgement(values)
    return settings, with_judgement(wrong, problems)


def _seen(options: argparse.Namespace, seen: Seen | None) -> Seen:
    """Have the options remember it, for whoever says where a problem stands."""
    options.seen = found = Seen() if seen is None else seen
    return found


def _flags(options: argparse.Namespace) -> dict[str, Any]:
    flags: dict[str, Any] = {}
    for key, value in (
        ("listen", options.listen),
        ("admin_listen", options.admin_listen),
        ("upstream.base_url", options.upstream),
        ("keys_dir", options.keys_dir),
        ("workers", getattr(options, "workers", None)),
        ("log.format", getattr(options, "log_format", None)),
    ):
        if value is not None:
            _put(flags, key, value)
    put_assignments(flags, options.set)
    return flags


def put_assignments(flags: dict[str, Any], assignments: Iterable[str]) -> None:
    """Put what `--set KEY=VALUE` says among the flags. Raises SettingsInvalid."""
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key:
            raise SettingsInvalid([Problem(f"--set {assignment}", "expected KEY=VALUE")])
        try:
            _put(flags, key.strip(), _value(text))
        except (TypeError, AttributeError):  # of a number or a text
            raise SettingsInvalid(
                [Problem(f"--set {key}", "another --set says what it would be part of")]
            ) from None


def keyless(settings: Settings) -> list[Problem]:
    """The problem of a gateway that would ask the public API without a key."""
    upstream = settings.upstream
    if upstream.base_url != DEFAULT_BASE_URL or upstream.api_key or upstream.workload_identity:
        return []
    own = [tenant.upstream for tenant in settings.tenants.values()]
    if own and all(way.api_key or way.workload_identity for way in own):
        return []
    return [
        Problem(
            "upstream.api_key",
            'is not set, and the public API needs one; set OPENAI_API_KEY, or api_key = "env:NAME" or '
            '"file:/path" under [upstream]. To look around without a key, run: gateway demo',
        )
    ]


def check_tenant(settings: Settings, tenant: str) -> None:
    """Raise ValueError for a tenant that is not configured, with who is."""
    if tenant not in settings.tenants:
        near = nearest(tenant, settings.tenants)
        there_are = f"; there are {listed(settings.tenants)}" if settings.tenants else ""
        raise ValueError(f"the configuration has no tenant {tenant!r}{near}{there_are}")


def duration(text: str) -> int:
    """An argument that is a duration, in seconds."""
    try:
        return duration_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def in_words(seconds: float) -> str:
    """A duration as `duration` reads it, in the largest unit that has it whole."""
    for unit, unit_seconds in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= unit_seconds and seconds % unit_seconds == 0:
            return f"{seconds / unit_seconds:.0f}{unit}"
    return f"{seconds:g}s"


def date(unix_seconds: float) -> str:
    """A moment as people read it, in UTC."""
    try:
        return f"{datetime.fromtimestamp(unix_seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "no date"


def add_credential(command: argparse.ArgumentParser) -> None:
    """The argument that says where a credential is; never the credential itself."""
    command.add_argument(
        "credential",
        nargs="*",
        default=[],  # or argparse would call it required
        metavar="@FILE",
        help="file that holds the credential; without it, the environment variable GATEWAY_CREDENTIAL, "
        "else standard input",
    )


def credential_from(options: argparse.Namespace, environ: Mapping[str, str]) -> str:
    """The credential that a command is about, not yet verified. ValueError says why there is none."""
    if any(source != "-" and not source.startswith("@") for source in options.credential):
        raise ValueError(
            "a credential on the command line can be read in the process list and stays in the shell's history; "
            "give @FILE, standard input or GATEWAY_CREDENTIAL instead (and revoke it, if it was a real one)"
        )
    try:
        match options.credential:
            case []:
                text = environ.get("GATEWAY_CREDENTIAL") or _standard_input()
            case ["-"]:
                text = _standard_input()
            case [source]:
                with Path(source[1:]).expanduser().open("rb") as file:
                    text = file.read(_MOST_CREDENTIAL_BYTES).decode("ascii")
            case _:
                raise ValueError("one credential at a time")
    except UnicodeError:
        raise ValueError("what was given is no credential: it is not even text") from None
    credential = text.strip().removeprefix("Bearer ").strip()
    if not credential:
        raise ValueError("no credential was given: expected @FILE, standard input or GATEWAY_CREDENTIAL")
    return credential


def _standard_input() -> str:
    if sys.stdin.isatty():
        print("Paste the credential, then Ctrl-D:", file=sys.stderr)
    return sys.stdin.read(_MOST_CREDENTIAL_BYTES)


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
