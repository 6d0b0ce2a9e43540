"""Where a setting was written: an option, a variable, or a line of a file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping

from gateway.settings.section import Problem
from gateway.settings.seen import Seen

_OPTIONS = {
    "listen": "--listen",
    "admin_listen": "--admin-listen",
    "upstream.base_url": "--upstream",
    "keys_dir": "--keys-dir",
    "workers": "--workers",
    "redis_url": "--redis",
}
_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"({_NAME}(?:\s*\.\s*{_NAME})*)"
_TABLE = re.compile(rf"\s*\[\[?\s*{_DOTTED}\s*\]")
_ASSIGNED = re.compile(rf"\s*{_DOTTED}\s*=")


class Places:
    """The places of everything that one command was told. Files are read when somebody asks, as they are then."""

    def __init__(self, options: argparse.Namespace, environ: Mapping[str, str]) -> None:
        self._given = {
            key: option
            for key, option in _OPTIONS.items()
            if getattr(options, option.strip("-").replace("-", "_"), None) is not None
        }
        for assignment in getattr(options, "set", ()):
            self._given.setdefault(assignment.partition("=")[0].strip(), "--set")
        for name in environ:
            if name.upper().startswith("GATEWAY_"):
                self._given.setdefault(name[len("GATEWAY_") :].lower().replace("__", "."), name)
        seen: Seen = getattr(options, "seen", None) or Seen()
        self._files = [file for file in seen.files if file.suffix == ".toml"]
        if (config := getattr(options, "config", None)) is not None and config not in self._files:
            self._files.append(config)

    def of(self, key: str) -> str | None:
        """Where a setting stands, or the table that it is missing from; None where nobody has written it."""
        parts = key.split(".")
        lines = dict(self._lines())
        while parts:
            name = ".".join(parts)
            if place := self._given.get(name) or lines.get(name):
                return place
            parts.pop()
        return None

    def said(self, problem: Problem) -> str:
        """A problem with its place."""
        place = self.of(problem.key)
        return str(problem) if place is None else f"{problem} ({place})"

    def _lines(self) -> Iterator[tuple[str, str]]:
        for file in self._files:
            try:
                if not file.is_file():  # a pipe has nothing to say a second time, and a terminal would wait
                    continue
                text = file.read_text(encoding="utf-8")
            except (OSError, ValueError):
                continue
            for key, line in reversed([*_keys(text)]):  # of two, the first stays
                yield key, f"{file}:{line}"


def _keys(text: str) -> Iterator[tuple[str, int]]:
    """Every key and table of a TOML file, and its line."""
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _TABLE.match(line):
            table = _plain(header[1]) + "."
            yield table[:-1], number
        elif assigned := _ASSIGNED.match(line):
            yield table + _plain(assigned[1]), number


def _plain(dotted: str) -> str:
    return ".".join(name.strip("\"'") for name in re.findall(_NAME, dotted))
