"""Where settings come from, and everything that is wrong with them at once.

Sources, strongest first: command-line flags, the environment (`GATEWAY_…`, nested with `__`), the
configuration file. `load()` reports every problem at once; unknown keys are problems. Secrets are
given by reference (`env:NAME` or `file:/path`), resolved here and nowhere else, and masked wherever they are
printed. What `[upstream]` leaves unset is taken from OPENAI_BASE_URL and OPENAI_API_KEY.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from gateway.settings.judging import judged, judgement
from gateway.settings.kept_file import (
    CONTENT,
    MOST_AUTHORITIES_BYTES,
    MOST_CERTIFICATES_BYTES,
    MOST_KEYS_BYTES,
    kept,
)
from gateway.settings.section import Problem, SettingsInvalid, normal_base_url
from gateway.settings.seen import SECRETS, Seen
from gateway.settings.settings import Settings, default_keys_dir
from gateway.settings.variables import from_variables

_URLS = frozenset({"http_proxy", "redis_url"})
_PATHS = frozenset(
    {
        *("ca_file", "jwks_bearer_token_file", "jwks_ca_file", "jwks_file", "key_files_dir"),
        *("keys_dir", "tls_certificate", "tls_key", "token_file"),
    }
)
_GUARDED = frozenset({"jwks_ca_file", "jwks_file"})
"""Who could write these would be believed."""


def load(
    file: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    seen: Seen | None = None,
) -> Settings:
    """Gather the settings and judge them. Raises SettingsInvalid with every problem found."""
    return judged(gathered(file, flags=flags, environ=environ, seen=seen))


def gathered(
    file: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    seen: Seen | None = None,
) -> dict[str, Any]:
    """Everything that flags, environment and files say, in this order of strength, with secrets in place of references.

    Whoever judges it needs nothing else of this machine. `flags` is nested like the file; `seen` is told what was
    looked at, and what an operator should know.

    Raises SettingsInvalid where something cannot be had, then with every problem of what it says as well.
    """
    merged, problems = looked_up(file, flags=flags, environ=environ, seen=seen)
    if problems:
        raise SettingsInvalid(with_judgement(judgement(merged)[1], problems))
    return merged


def with_judgement(wrong: Iterable[Problem], missing: Sequence[Problem]) -> list[Problem]:
    """Both, but nothing of what stands in the place of something that cannot be had."""
    keys = {problem.key for problem in missing}
    return [*(problem for problem in wrong if problem.key not in keys), *missing]


def looked_up(
    file: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    seen: Seen | None = None,
) -> tuple[dict[str, Any], list[Problem]]:
    """The same as far as it can be had, and what cannot. Raises SettingsInvalid where a file cannot be read at all."""
    environ = os.environ if environ is None else environ
    seen = Seen() if seen is None else seen
    problems: list[Problem] = []
    from_file = _read(file, problems, seen) if file is not None else {}
    seen.warn_of_literals(flags or {}, None)
    if problems:
        raise SettingsInvalid(problems)
    from_environ = from_variables(environ, problems, seen)
    merged = _merge(_merge(from_file, from_environ), dict(flags or {}))
    if merged.get("tenants_path"):
        _read_tenants(merged, file, problems, seen)
    merged = _resolved(merged, environ, problems, seen)
    _take_over_sdk_variables(merged, environ, problems)
    if "keys_dir" not in merged:  # else no home is needed, and the user of a container may have none
        try:
            merged["keys_dir"] = str(default_keys_dir(environ))
        except RuntimeError:
            problems.append(Problem("keys_dir", "is not set, and this user has no home for it"))
            merged["keys_dir"] = "keys"
    _keep_files(merged, problems, seen)
    return merged, problems


def _keep_files(values: dict[str, Any], problems: list[Problem], seen: Seen) -> None:
    """Put what they hold in the place of files of certificates and of keys."""
    upstream, issuers = values.get("upstream"), values.get("issuers")
    _keep(values, "tls_certificate", "", MOST_CERTIFICATES_BYTES, problems, seen)
    key_path = _keep(values, "tls_key", "", MOST_CERTIFICATES_BYTES, problems, seen)
    if key_path is not None:
        seen.warn_of_open("tls_key", key_path)
    if isinstance(upstream, dict):
        _keep(upstream, "ca_file", "upstream.", MOST_CERTIFICATES_BYTES, problems, seen)
    for name, issuer in issuers.items() if isinstance(issuers, dict) else ():
        if not isinstance(issuer, dict):
            continue
        _keep(issuer, "jwks_ca_file", f"issuers.{name}.", MOST_AUTHORITIES_BYTES, problems, seen)
        bearer = issuer.get("jwks_bearer_token_file")
        if isinstance(bearer, str):
            seen.warn_of_open(f"issuers.{name}.jwks_bearer_token_file", Path(bearer))
        path = _keep(issuer, "jwks_file", f"issuers.{name}.", MOST_KEYS_BYTES, problems, seen)
        algorithms = issuer.get("algorithms")
        if path is not None and isinstance(algorithms, list | tuple) and "HS256" in algorithms:
            seen.warn_of_open(f"issuers.{name}.jwks_file", path)


def _keep(
    table: dict[str, Any], key: str, parents: str, most_bytes: int, problems: list[Problem], seen: Seen
) -> Path | None:
    """Take over the file that a key names, if it does."""
    named = table.get(key)
    if named is None:
        return None
    if not isinstance(named, str):
        problems.append(Problem(f"{parents}{key}", "expected the path of a file"))
        table[key] = {"path": "", CONTENT: ""}
        return None
    path = Path(named)
    seen.note(path)
    try:
        table[key] = kept(path, most_bytes=most_bytes, guarded=key in _GUARDED)
    except ValueError as wrong:
        problems.append(Problem(f"{parents}{key}", f"{path}: {wrong}"))
        table[key] = {"path": named, CONTENT: ""}
    return path


def _read(file: Path, problems: list[Problem], seen: Seen) -> dict[str, Any]:
    seen.note(file)
    try:
        with file.open("rb") as stream:
            document = tomllib.load(stream)
        seen.warn_of_literals(document, file)
        return document
    except OSError as error:
        problems.append(Problem(str(file), f"cannot be read: {error.strerror}"))
    except ValueError as error:  # tomllib.TOMLDecodeError is one
        problems.append(Problem(str(file), f"is not TOML: {error}"))
    return {}


def _tenant_files(place: Path) -> list[Path]:
    """The files that a `tenants_path` names. Raises OSError when it cannot be read."""
    return sorted(place.glob("*.toml")) if place.is_dir() else [place]


def _read_tenants(merged: dict[str, Any], file: Path | None, problems: list[Problem], seen: Seen) -> None:
    """Add the tenants of further files; a tenant is described in one place only."""
    try:
        place = at_home(str(merged["tenants_path"]))
    except ValueError as wrong:
        problems.append(Problem("tenants_path", str(wrong)))
        return
    place = file.parent / place if file is not None else place
    merged["tenants_path"] = str(place)
    tenants = merged.setdefault("tenants", {})
    if not isinstance(tenants, dict):
        return  # said when the whole is judged
    where = dict.fromkeys(tenants, "the configuration")
    seen.note(place)
    for path in _tenant_files(place):
        document = _read(path, problems, seen)
        problems += [
            Problem(f"{path}: {key}", "only [tenants.ID] tables belong here")
            for key in document
            if key != "tenants"
        ]
        found = document.get("tenants", {})
        if not isinstance(found, dict):
            problems.append(Problem(f"{path}: tenants", "expected [tenants.ID] tables"))
            continue
        for tenant_id in found:
            if tenant_id in where:
                problems.append(Problem(f"tenants.{tenant_id}", f"is in {where[tenant_id]} and in {path}"))
            where[tenant_id] = str(path)
            tenants[tenant_id] = found[tenant_id]


def _merge(weak: dict[str, Any], strong: dict[str, Any]) -> dict[str, Any]:
    merged = dict(weak)
    for key, value in strong.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _resolved(
    values: Mapping[str, Any],
    environ: Mapping[str, str],
    problems: list[Problem],
    seen: Seen,
    parents: str = "",
) -> dict[str, Any]:
    """The same values with every secret in place of its reference, and every path without `~`, valid or not."""
    resolved: dict[str, Any] = {}
    for key, value in values.items():
        resolved[key] = value
        if key in _PATHS and value == "":  # which to Path is the folder where somebody happens to stand
            problems.append(Problem(parents + key, "is empty; expected a path"))
        elif key in _PATHS and isinstance(value, str | Path):
            try:
                resolved[key] = str(at_home(value))
            except ValueError as wrong:
                problems.append(Problem(parents + key, f"{value}: {wrong}"))
        elif isinstance(value, dict):
            resolved[key] = _resolved(value, environ, problems, seen, f"{parents}{key}.")
        elif key in SECRETS and isinstance(value, str):
            seen.refer(parents + key, value)
            try:
                resolved[key] = _secret(value, environ, seen, is_url=key in _URLS)
            except ValueError as wrong:
                shown = f"{value}: " if value.startswith(("env:", "file:")) else ""
                problems.append(Problem(parents + key, f"{shown}{wrong}"))
    return resolved


def _secret(reference: str, environ: Mapping[str, str], seen: Seen, *, is_url: bool) -> SecretStr:
    """The secret behind `env:NAME` or `file:/path`, without white space around it; any other text is the secret.

    ValueError when the reference leads nowhere, or to what no header and no URL can hold.
    """
    return _sound(_referred(reference.strip(), environ, seen), is_url=is_url)


def _sound(secret: str, *, is_url: bool) -> SecretStr:
    secret = secret.strip()
    if not all(
        "!" <= letter <= "~" or (is_url and letter > "~" and letter.isprintable()) for letter in secret
    ):
        raise ValueError(
            "holds a space, a control character or another that cannot be sent; was more than the secret copied?"
        )
    return SecretStr(secret)


def _referred(reference: str, environ: Mapping[str, str], seen: Seen) -> str:
    if reference.startswith("env:"):
        value = environ.get(reference[4:], "").strip()
        if not value:
            raise ValueError("this environment variable is not set")
        return value
    if reference.startswith("file:"):
        path = at_home(reference[5:])
        seen.note(path)
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise ValueError(f"cannot be read: {error}") from None
        if not value:  # as while it is being written: no reason to go on without it, or with another
            raise ValueError("this file is empty")
        return value
    return reference


def at_home(path: str | Path) -> Path:
    """A path, with the home that `~` stands for; ValueError where that is nobody's."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError("nobody has this home") from None


def _take_over_sdk_variables(
    values: dict[str, Any], environ: Mapping[str, str], problems: list[Problem]
) -> None:
    """Let OPENAI_BASE_URL and OPENAI_API_KEY say what `[upstream]` leaves unset."""
    upstream = values.setdefault("upstream", {})
    if not isinstance(upstream, dict):
        return  # said when the whole is judged
    base_url, api_key = environ.get("OPENAI_BASE_URL", "").strip(), environ.get("OPENAI_API_KEY")
    identity = upstream.get("workload_identity")
    if upstream.get("base_url") is None:
        upstream.pop("base_url", None)
        # What another provider grants goes to no host that only a shell has named.
        if base_url and not (isinstance(identity, dict) and "token_endpoint" in identity):
            try:
                upstream["base_url"] = normal_base_url(base_url)
            except ValueError as error:
                problems.append(Problem("OPENAI_BASE_URL", str(error)))
    if api_key and not upstream.get("api_key") and identity is None:
        try:
            upstream["api_key"] = _sound(api_key, is_url=False)
        except ValueError as error:
            problems.append(Problem("OPENAI_API_KEY", str(error)))
