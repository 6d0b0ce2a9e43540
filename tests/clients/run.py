"""Run every client whose runtime is on this machine against `gateway demo`, and print what worked.

    python -m tests.clients.run [NAME ...] [--list] [--work DIR]

A NAME is the beginning of a client's name (node, java/http, docs/). README.md beside this file says the rest.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.clients.clients import CLIENTS, FETCHES, RUNTIMES, Client, Command, Runtime
from tests.clients.elsewhere import Elsewhere
from tests.clients.examples import DOCUMENT, IDENTITY, examples
from tests.clients.gateways import gateways

_HERE = Path(__file__).parent
_WORK = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gateway-clients"
_PREPARE_SECONDS = 900
_RUN_SECONDS = 180
_SAID = re.compile(r"^(ok|failed) ([^:\n]+)(?:: (.*))?$", re.MULTILINE)
_ANSWERED = "Simulated answer"
# Where an installer that is no package puts it.
_PLACES = ("/usr/local/go/bin",)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one thing that was tried."""

    client: str
    tried: str
    state: str
    """ok, failed, or not here."""

    why: str = ""


@dataclass(slots=True)
class Place:
    """Where the work is done: a copy of each runtime's folder, and what became of preparing it."""

    work: Path
    environ: Mapping[str, str]
    prepared: dict[str, str]
    """By folder, why it could not be prepared; empty if it was."""

    copied: set[Path]

    def folder(self, runtime: Runtime) -> Path:
        """The runtime's folder, with our own files copied into it, once."""
        folder = self.work / runtime.folder
        if folder not in self.copied:
            folder.mkdir(parents=True, exist_ok=True)
            if (_HERE / runtime.folder).is_dir():
                shutil.copytree(_HERE / runtime.folder, folder, dirs_exist_ok=True)
            self.copied.add(folder)
        return folder

    def prepare(self, runtime: Runtime) -> str:
        """Fetch what it requires, once; why that failed, or nothing."""
        if runtime.folder not in self.prepared:
            self.prepared[runtime.folder] = ""
            for command in runtime.prepare:
                done = self.start(command, self.folder(runtime), _PREPARE_SECONDS)
                if done.returncode:
                    self.prepared[runtime.folder] = (
                        f"{' '.join(command)}: {_last_line(done.stderr or done.stdout)}"
                    )
                    break
        return self.prepared[runtime.folder]

    def start(
        self, command: Command, folder: Path, seconds: float, more: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, or to the end of its time, with more in its environment."""
        try:
            return subprocess.run(
                command,
                cwd=folder,
                env={**self.environ, **(more or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            said = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else ""
            return subprocess.CompletedProcess(command, 124, said, f"was not done in {seconds} s")


def run_client(client: Client, place: Place) -> Iterator[Result]:
    """Run one client; a result for each thing that it tried."""
    [runtime] = [runtime for runtime in RUNTIMES if runtime.folder == client.runtime]
    missing = _missing((*runtime.needs, *client.needs))
    if client.tls and "TLS_BASE_URL" not in place.environ:
        missing = "a gateway that speaks TLS"
    if missing:
        yield Result(client.name, "", "not here", f"needs {missing}")
        return
    why = "" if client.unprepared else place.prepare(runtime)
    if why:
        yield Result(client.name, "", "failed", why)
        return
    done = place.start(client.run, place.folder(runtime), _RUN_SECONDS)
    said = _SAID.findall(done.stdout)
    yield from (Result(client.name, tried, state, why) for state, tried, why in said)
    if not said or (done.returncode and not any(state == "failed" for state, *_ in said)):
        why = f"ended with {done.returncode}: {_last_line(done.stderr or done.stdout)}"
        yield Result(client.name, "as a whole", "failed", why)


def run_examples(names: Iterable[str], place: Place) -> Iterator[Result]:
    """Run the examples of the documents that can be run here, each as it stands there."""
    elsewhere = Elsewhere()
    runtimes = {runtime.language: runtime for runtime in RUNTIMES if runtime.language}
    for example in (*examples(DOCUMENT), *examples(IDENTITY)):
        name = f"docs/{example.file}"
        if not _chosen(name, names):
            continue
        runtime = runtimes[example.language]
        missing = _missing(runtime.needs)
        if missing:
            yield Result(name, "", "not here", f"needs {missing}")
            continue
        why = place.prepare(runtime)
        if not why:
            folder = place.folder(runtime)
            file = folder / "examples" / example.file
            file.parent.mkdir(exist_ok=True)
            file.write_text(example.code, "utf-8")
            command = tuple(
                word.format(file=f"examples/{example.file}", name=file.stem) for word in runtime.example
            )
            done = place.start(command, folder, _RUN_SECONDS, elsewhere.environ)
            asked = elsewhere.taken()
            if done.returncode:
                why = f"ended with {done.returncode}: {_last_line(done.stderr or done.stdout)}"
            elif asked and example.file not in FETCHES:
                why = f"asked beside the gateway: {', '.join(asked)}"
            elif _ANSWERED not in done.stdout:
                why = f"printed no answer: {_last_line(done.stdout)}"
        yield Result(name, "", "failed" if why else "ok", why)


def main() -> int:
    arguments = argparse.ArgumentParser(prog="python -m tests.clients.run", description=__doc__)
    arguments.add_argument("names", nargs="*", metavar="NAME")
    arguments.add_argument("--list", action="store_true", help="say what there is and what it needs")
    arguments.add_argument("--work", type=Path, default=_WORK, metavar="DIR", help="default: %(default)s")
    options = arguments.parse_args()
    # Before anything looks for a program: what was installed without a package is found too.
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *filter(os.path.isdir, _PLACES)])
    chosen = [client for client in CLIENTS if _chosen(client.name, options.names)]
    if options.list:
        for client in chosen:
            [runtime] = [runtime for runtime in RUNTIMES if runtime.folder == client.runtime]
            missing = _missing((*runtime.needs, *client.needs))
            print(f"{client.name:24} {'needs ' + missing if missing else 'can run here'}")
        for example in (*examples(DOCUMENT), *examples(IDENTITY)):
            print(f"docs/{example.file}")
        return 0
    options.work.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    with gateways(options.work) as theirs:
        place = Place(options.work, {**_environ(options.work), **theirs}, {}, set())
        for client in chosen:
            results += _shown(run_client(client, place))
        results += _shown(run_examples(options.names, place))
    counts = {
        state: sum(result.state == state for result in results) for state in ("ok", "failed", "not here")
    }
    print(f"\n{counts['ok']} worked, {counts['failed']} failed, {counts['not here']} cannot run here")
    if not results:
        print(f"no client is called {' or '.join(options.names)}: see --list", file=sys.stderr)
    return 1 if counts["failed"] or not results else 0


def _environ(work: Path) -> dict[str, str]:
    """What every command is given: nothing that speaks of another gateway, and the programs that npm brings."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "GATEWAY_", "VIRTUAL_ENV", "PYTHON"))
    }
    kept["PATH"] = os.pathsep.join([str(work / "commands" / "node_modules" / ".bin"), kept["PATH"]])
    return kept


def _shown(results: Iterable[Result]) -> Iterator[Result]:
    """The same, each printed when it is there."""
    for result in results:
        print(f"{result.client:28} {result.tried:28} {result.state:9} {result.why}".rstrip(), flush=True)
        yield result


def _missing(programs: Iterable[str]) -> str:
    return ", ".join(program for program in programs if shutil.which(program) is None)


def _chosen(name: str, beginnings: Iterable[str]) -> bool:
    beginnings = tuple(beginnings)
    return not beginnings or name.startswith(beginnings)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "without a word")


if __name__ == "__main__":
    sys.exit(main())
