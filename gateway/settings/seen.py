"""What was seen while the settings were read: which files to follow, and what an operator should know of secrets."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_State = tuple[object, ...]

SECRETS = frozenset({"admin_api_key", "admin_key", "api_key", "http_proxy", "redis_url"})
"""Settings that are secrets wherever they stand; by reference, `env:NAME` or `file:/path`, or as they are."""

_REFERENCES = ("env:", "file:")
_URLS = frozenset({"http_proxy", "redis_url"})


@dataclass
class Seen:
    """What one reading has looked at."""

    files: dict[Path, _State] = field(default_factory=dict)
    """Every file and folder, as it was before it was read."""

    warnings: list[str] = field(default_factory=list)

    references: dict[str, str] = field(default_factory=dict)
    """By setting, where each secret is that is given by reference."""

    def refer(self, key: str, value: str) -> None:
        """This setting is a secret, here or elsewhere; what stands here as it is, is not kept."""
        if value.strip().startswith(_REFERENCES):
            self.references[key] = value.strip()

    def note(self, path: Path) -> None:
        """This file or folder is about to be read."""
        self.files.setdefault(path, _state(path))

    def changed(self) -> bool:
        """Whether any of it is no longer as it was; a link that leads elsewhere is a change, too."""
        return any(_state(path) != state for path, state in self.files.items())

    def warn_of_literals(self, values: Mapping[str, Any], file: Path | None) -> None:
        """Warn of secrets that stand where others can read them: in an open file, or on the command line (None)."""
        keys = ", ".join(_literals(values))
        if not keys:
            return
        if file is None:
            self.warnings.append(
                f"{keys}: a secret on the command line can be read by everybody on this machine; "
                "write env:NAME or file:/path instead"
            )
        elif _is_open(file):
            self.warnings.append(
                f"{keys}: a secret stands in {file}, which everybody on this machine can read; "
                f"write env:NAME or file:/path instead, or: chmod o-r {file}"
            )

    def warn_of_open(self, key: str, file: Path) -> None:
        """Warn of a file with a secret that others can read."""
        if _is_open(file):
            self.warnings.append(
                f"{key}: everybody on this machine can read the secret in {file}; chmod o-r {file}"
            )


def _state(path: Path) -> _State:
    try:
        status = path.stat()
        listing = tuple(sorted(path.iterdir())) if stat.S_ISDIR(status.st_mode) else ()
    except (OSError, ValueError):  # no path at all is a ValueError
        return ()
    # A file can be replaced by one of the same size and time.
    return status.st_mtime_ns, status.st_size, status.st_ino, status.st_dev, status.st_ctime_ns, listing


def _is_open(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except (OSError, ValueError):
        return False


def _literals(values: Mapping[str, Any], parents: str = "") -> Iterator[str]:
    """The keys of secrets that stand there as they are; an address without a login is none."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _literals(value, f"{parents}{key}.")
        elif key in SECRETS and isinstance(value, str) and value and not value.startswith(_REFERENCES):
            if key in _URLS and "@" not in value:
                continue  # without a login
            yield parents + key
