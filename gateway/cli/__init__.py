"""The `gateway` command: one module per group of verbs.

Asked by nobody but the interpreter: it stands above all. A verb reads its options, asks a room and prints; what it
asks about is decided there.

Exit codes, of every verb: 0 done, and nothing is wrong; 1 it could not be done, or something is wrong; 2 the command
line is not understood; 130 Ctrl-C; 141 whoever read what it printed has left.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from io import TextIOWrapper
from typing import Any

from gateway import __version__
from gateway.cli.command_line import CommandLine
from gateway.cli.drawing import complain

_VERBS = (
    "serve",
    "restart",
    "demo",
    "check",
    "explain",
    "credential",
    "keys",
    "routes",
    "limits",
    "usage",
    "objects",
    "upstream",
    "top",
    "bench",
    "probe",
    "completion",
)
_INTERRUPTED = 128 + signal.SIGINT
_UNREAD = 128 + signal.SIGPIPE


def parser(verb: str | None = None) -> CommandLine:
    """The whole command line, or as much of it as one verb needs."""
    top = CommandLine(prog="gateway", description="An OpenAI-compatible streaming gateway.")
    top.add_argument("--version", action="version", version=f"gateway {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for name in (verb,) if verb in _VERBS else _VERBS:
        _registers(name)(verbs)
    return top


def _registers(verb: str) -> Callable[[Any], None]:
    """What adds a verb to the command line. Imported by who asks for it: to import all of them takes half a second."""
    match verb:
        case "serve":
            from gateway.cli.serve import register
        case "restart":
            from gateway.cli.restart import register
        case "demo":
            from gateway.cli.demo import register
        case "check":
            from gateway.cli.check import register
        case "explain":
            from gateway.cli.explain import register
        case "credential":
            from gateway.cli.credential import register
        case "keys":
            from gateway.cli.keys import register
        case "routes":
            from gateway.cli.routes import register
        case "limits":
            from gateway.cli.limits import register
        case "objects":
            from gateway.cli.objects.verb import register
        case "upstream":
            from gateway.cli.upstream.verb import register
        case "probe":
            from gateway.cli.probe import register
        case "top":
            from gateway.cli.top.verb import register
        case "bench":
            from gateway.cli.bench.verb import register
        case "completion":
            from gateway.cli.completion import register as add_completion

            return partial(add_completion, whole=parser)
        case _:
            from gateway.cli.usage import register
    return register


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if os.getpid() == 1:  # of a container: what nobody has asked for never ends that, not even SIGTERM
        signal.signal(signal.SIGTERM, _end)
    _open_standard_files()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal of another alphabet is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["serve"]:  # there is nothing to read again yet, nor anybody to replace
        for number in (signal.SIGHUP, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
    thresholds = gc.get_threshold()
    # What is imported stays: looking through it for garbage, again and again, takes a sixth of the start.
    gc.set_threshold(0)
    try:
        return _printed(arguments)
    except KeyboardInterrupt:
        return _INTERRUPTED
    finally:
        gc.set_threshold(*thresholds)


def _printed(arguments: Sequence[str]) -> int:
    """Run it, and see to it that what it printed has arrived: the interpreter would only complain that it has not."""
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is left of it
        if isinstance(error, BrokenPipeError):
            return _UNREAD
        complain(_said(error))
        return 1


def _open_standard_files() -> None:
    """Open what was closed of standard input, output and error: else sockets get their numbers, and are written to."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 (as below)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (it is open for as long as the process is)
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 (as above)


def _end(number: int, _: object) -> None:
    """End as by that signal, whoever is told: until a verb that serves listens for itself."""
    sys.exit(128 + number)


def _import_aiohttp() -> None:
    """Import it while OpenSSL finds no authorities: it would read the system's, twice, in a tenth of the start.

    Nothing uses what it makes of them: who connects says whom to believe, `gateway/settings/certificates.py`; who did
    not would believe nobody.
    """
    import ssl

    paths = ssl.get_default_verify_paths()
    names = paths.openssl_cafile_env, paths.openssl_capath_env
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        import aiohttp  # noqa: F401 (that it is imported here is all)
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)


def _run(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["probe"]:  # asked every few seconds: it goes without what takes long to import
        options, rest = parser("probe").parse_known_args(arguments)
        if rest:
            options.command_line.refuse(rest)
        return int(options.run(options))
    _import_aiohttp()
    from gateway.credentials.keys import KeyProblem
    from gateway.operations.scopes import ScopeProblem
    from gateway.settings.section import SettingsInvalid

    options, rest = parser(next(iter(arguments), None)).parse_known_args(arguments)
    if rest:
        # argparse does not find a credential's @FILE behind an option.
        if hasattr(options, "credential") and not any(word.startswith("--") for word in rest):
            options.credential += rest
        else:
            options.command_line.refuse(rest)
    say: Callable[..., None] = getattr(options, "complain", complain)
    try:
        return int(options.run(options))
    except SettingsInvalid as invalid:
        from gateway.cli.places import Places

        places = Places(options, os.environ)
        say(*map(places.said, invalid.problems))
    except (KeyProblem, ScopeProblem) as problem:
        say(*problem.problems)
    except BrokenPipeError:
        raise
    except OSError as error:
        say(_said(error))
    except ValueError as error:
        say(str(error))
    return 1


def _said(error: OSError) -> str:
    """Which file it is about, and what is wrong with it."""
    said = error.strerror or str(error)
    return said if error.filename is None else f"{error.filename}: {said}"
