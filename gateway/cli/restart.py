"""`gateway restart`: have the gateway on this machine replace all its workers, and say what came of it."""

from __future__ import annotations

import argparse
import json  # noqa: TID251 (what probe reads it with)
import os
import signal
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from gateway.cli.drawing import complain, say
from gateway.cli.probe import add_address, address_from, ask

_LOOK_SECONDS = 0.2
_FIRST_SECONDS = 5.0
"""For the gateway to begin."""


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser(
        "restart",
        help="replace the workers of the running gateway one by one",
        description="Have the gateway that runs on this machine replace all its workers, one by one, with what is "
        "installed and configured now; what is being served is finished. Exit code 1: they are as they were, and why.",
    )
    add_address(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Ask for it, and wait. Raises OSError and ValueError where there is nobody to ask."""
    address = address_from(options, guess=False)  # which might be another gateway's
    before = _document(address)
    if "restart" not in before:
        complain(
            "one process serves, and there is none that could replace it: run it with --workers 2 or more, "
            "or restart its service"
        )
        return 1
    number = before["restart"]["number"]
    _signal(before["pid"], address)
    began = monotonic()
    while True:
        sleep(_LOOK_SECONDS)
        now = _document(address)
        if now["pid"] != before["pid"]:
            raise ValueError(f"the gateway on {address} was stopped, and another one started")
        restart = now["restart"]
        if restart["number"] == number:
            if restart["outcome"] != "running" and monotonic() - began > _FIRST_SECONDS:
                complain("it does not begin; see what it says")
                return 1
        elif restart["outcome"] == "done":
            say("all workers have been replaced")
            return 0
        elif restart["outcome"] == "failed":
            complain(restart["reason"])
            return 1


def _signal(pid: int, address: str) -> None:
    """Ask the supervisor, and nobody else: SIGUSR2 ends most programs. Raises OSError and ValueError."""
    if not _serves(pid):
        raise ValueError(
            f"the gateway on {address} is in a container or on another machine: its process {pid} is not one of those "
            "here; run gateway restart there"
        )
    try:
        os.kill(pid, signal.SIGUSR2)
    except PermissionError:
        raise PermissionError(f"process {pid} is another user's: run gateway restart as that one") from None


def _serves(pid: int) -> bool:
    """Whether a process of this machine is some `gateway serve`; where the system does not show it, it is believed."""
    if not Path("/proc/self/cmdline").exists():
        return True
    try:
        return b"serve" in Path("/proc", str(pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _document(address: str) -> Any:
    """What the gateway says of itself. Raises OSError, and ValueError where it is none."""
    _, body = ask(address, "/livez")
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if not isinstance(document, dict) or "pid" not in document:
        raise ValueError(f"what listens on {address} is no private listener of a gateway (admin_listen)")
    return document
