"""The command line as argparse reads it, with words for what it does not understand."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from gateway.cli.drawing import complain, shown

_CHOICE = re.compile(
    r"(?P<where>argument .+?: )?invalid choice: '(?P<given>.*)' \(choose from (?P<known>.*)\)"
)
_SHOWN_CHARACTERS = 32


class CommandLine(argparse.ArgumentParser):
    """One command, or all of them. What is wrong with its arguments is said in a line, with what was probably meant."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})
        self._given: list[str] = []
        self.set_defaults(command_line=self)  # the innermost one stays: it knows what its verb understands

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """The same, and remember what was given, for `error` to look at."""
        self._given = list(args or ())
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say it and exit with 2. What is missing may be there, misspelt."""
        misspelt = []
        if message.endswith(("required: COMMAND", "required: ACTION")) and not self._given:
            self.print_help(sys.stderr)
            self.exit(2)
        if "are required" in message:
            misspelt = [
                _unknown(word, self._options())
                for word in self._given
                if word.startswith("-") and word.partition("=")[0] not in self._option_string_actions
            ]
        if message.startswith(("argument COMMAND: invalid", "argument ACTION: invalid")):
            misspelt = [
                f"{shown(word)} has to stand behind what is to be done"
                for word in self._given[:1]
                if word.startswith("-")
            ]
        complain(*misspelt, _nearer(message), f"`{self.prog} --help` says what there is")
        self.exit(2)

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Exit with 2 for arguments that this command does not know; what may be a secret is not repeated."""
        misspelt = [word for word in unknown if word.startswith("-")]  # what follows belongs to these
        *others, last = [_unknown(word, self._options()) for word in misspelt or unknown]
        complain(*others)
        self.error(last)

    def _options(self) -> list[str]:
        return [option for option in self._option_string_actions if option.startswith("--")]


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean …?`, or nothing where nothing is near."""
    from difflib import get_close_matches  # probe, which is asked all the time, does without

    near = get_close_matches(word, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _unknown(word: str, options: Iterable[str]) -> str:
    name, assigned, _ = word.partition("=")
    if name.startswith("-") and len(name) <= _SHOWN_CHARACTERS:
        return f"there is no option {shown(name)} here{nearest(name, options)}"
    if not assigned and len(word) <= _SHOWN_CHARACTERS and not word.startswith(("eyJ", "sk-")):
        return f"{shown(word)!r} is one argument too many"
    return "there is one argument too many"


def _nearer(message: str) -> str:
    found = _CHOICE.fullmatch(message)
    if found is None:
        return message
    known = [name.strip(" '") for name in found["known"].split(",")]
    near = nearest(found["given"], known)
    return f"{found['where'] or ''}{found['given']!r} is none of {', '.join(known)}{near}"
