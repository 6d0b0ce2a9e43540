"""The `gateway` command: one module per group of verbs.

Asked by nobody but the interpreter: it stands above all. A verb reads its options, asks a room and prints; what it
asks about is decided there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gateway import __version__
from gateway.cli import check, credential, demo, explain, keys, limits, routes, serve, usage
from gateway.credentials.keys import KeyProblem
from gateway.operations.scopes import ScopeProblem
from gateway.settings.section import SettingsInvalid


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="gateway", description="An OpenAI-compatible streaming gateway.", allow_abbrev=False
    )
    top.add_argument("--version", action="version", version=f"gateway {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for module in (serve, demo, check, explain, credential, keys, routes, limits, usage):
        module.register(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 could not be done, 2 wrong usage."""
    options, rest = (top := parser()).parse_known_args(arguments)
    if rest:
        # argparse does not find a credential's @FILE behind an option; what it did not find is not repeated,
        # for it may be a credential.
        if hasattr(options, "credential") and not any(word.startswith("--") for word in rest):
            options.credential += rest
        else:
            top.error("unrecognized arguments; see --help")
    try:
        return int(options.run(options))
    except SettingsInvalid as invalid:
        for problem in invalid.problems:
            print(f"gateway: {problem}", file=sys.stderr)
    except (KeyProblem, ScopeProblem) as problem:
        for text in problem.problems:
            print(f"gateway: {text}", file=sys.stderr)
    except BrokenPipeError:
        pass
    except (OSError, ValueError) as error:
        print(f"gateway: {error}", file=sys.stderr)
    return 1
