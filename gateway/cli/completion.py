"""`gateway completion`: the script by which a shell completes commands, options and their values."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

_PLACES = {
    "bash": 'eval "$(gateway completion bash)" in ~/.bashrc',
    "zsh": "gateway completion zsh > ~/.zfunc/_gateway, in a folder of $fpath",
    "fish": "gateway completion fish > ~/.config/fish/completions/gateway.fish",
}
_FILES = {"config", "jwks"}
_FOLDERS = {"keys_dir"}


def register(verbs: Any, *, whole: Callable[[], argparse.ArgumentParser]) -> None:
    """Add the command; `whole` makes all that is to be completed."""
    command = verbs.add_parser(
        "completion",
        help="print the script by which a shell completes these commands",
        description="Print the script by which a shell completes these commands: "
        f"{'; '.join(_PLACES.values())}.",
    )
    command.add_argument("shell", metavar="SHELL", choices=list(_PLACES), help=", ".join(_PLACES))
    command.set_defaults(run=run, whole=whole)


def run(options: argparse.Namespace) -> int:
    """Print it."""
    import shtab

    whole = options.whole()
    _mark(whole, files=shtab.FILE, folders=shtab.DIRECTORY)
    print(shtab.complete(whole, options.shell))
    return 0


def _mark(command: argparse.ArgumentParser, *, files: object, folders: object) -> None:
    """Say which values are paths."""
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                _mark(verb, files=files, folders=folders)
        elif action.dest in _FILES:
            action.complete = files  # type: ignore[attr-defined]  # what shtab looks for
        elif action.dest in _FOLDERS:
            action.complete = folders  # type: ignore[attr-defined]  # what shtab looks for
