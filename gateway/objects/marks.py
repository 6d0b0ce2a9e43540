"""What is remembered of the store's marks, so that a store that has lost its data is noticed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

import orjson

from gateway.credentials.private_files import locked, read_at_most, write_private
from gateway.objects.store import Scope

FILE_NAME: Final = "objects-marks.jsonl"
_MOST_BYTES: Final = 64 * 2**20
_log = logging.getLogger("gateway.objects")


class Marks:
    """The mark of each tenant's entries, kept beside the keys too. `load` and `keep` wait for the disk."""

    def __init__(self, keys_dir: Path | None) -> None:
        self._path = None if keys_dir is None else keys_dir / FILE_NAME
        self._known: dict[Scope, str] = {}
        self._written: dict[Scope, str] = {}
        self._has_said = False

    def get(self, scope: Scope) -> str:
        """What is remembered; empty: nothing."""
        return self._known.get(scope if scope.others is None else scope._replace(others=None), "")

    def load(self) -> None:
        """Begin with what was known here last."""
        if self._path is not None:
            self._written = self._read(self._path)
            self._known = {**self._written, **self._known}

    def follow(self, scope: Scope, mark: str) -> bool:
        """Remember a mark in this process if it only says that more has come; whether it is known now."""
        place = scope._replace(others=None)
        known = self._known.get(place, "")
        if mark == known:
            return True
        word, made = _parts(known)
        word_now, made_now = _parts(mark)
        if not known or word != word_now or made_now < made:
            return False
        self._known[place] = mark
        return True

    def is_kept(self, scope: Scope) -> bool:
        """Whether what is remembered outlives this process, as well as can be."""
        return self._known.get(scope) == self._written.get(scope)

    def keep(self, marks: dict[Scope, str]) -> None:
        """Remember these from now on."""
        self._known |= marks
        self._written |= marks
        if self._path is None:
            return
        try:
            with locked(self._path.parent):
                kept = self._read(self._path) | marks
                lines = [orjson.dumps([*scope[:2], mark]) + b"\n" for scope, mark in sorted(kept.items())]
                write_private(self._path, b"".join(lines))
        except OSError as error:
            if not self._has_said:
                _log.info(
                    "the marks of the registry of stored objects are kept in this process alone: %s", error
                )
            self._has_said = True

    def _read(self, path: Path) -> dict[Scope, str]:
        try:
            document = read_at_most(path, _MOST_BYTES) or b""
            rows = [orjson.loads(line) for line in document.splitlines()]
            return {Scope(str(storage), str(tenant)): str(mark) for storage, tenant, mark in rows}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            _log.error(
                "%s cannot be read: a registry that lost its data would not be noticed: %s", path, error
            )
            return {}


def _parts(mark: str) -> tuple[str, int]:
    """The word of a mark, and how many objects had been recorded."""
    word, _, made = mark.rpartition("-")
    return (word, int(made)) if word and made.isdecimal() else (mark, 0)
