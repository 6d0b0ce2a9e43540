"""Lua that Redis runs as one step. It stands in files, in the folder `lua` beside the module that calls it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, run by its digest and sent as text only to servers that do not know it."""

    text: bytes
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", hashlib.sha1(self.text, usedforsecurity=False).hexdigest())

    @classmethod
    def load(cls, package: str, *names: str) -> Script:
        """The script that these files of a package make, one after another."""
        folder = resources.files(package) / "lua"
        return cls(b"\n".join((folder / f"{name}.lua").read_bytes() for name in names))
