"""`gateway probe`: whether the gateway on this machine lives, for containers and whoever else runs a command to know.

It is run every few seconds, so it imports next to nothing, and it finds the private listener without judging the
configuration: that is broken while somebody edits it, and the gateway serves on.
"""

from __future__ import annotations

import argparse
import json  # noqa: TID251 - orjson takes five times as long to import, and this is all there is to read
import os
import re
import socket
from pathlib import Path
from time import monotonic
from typing import Any

from gateway.cli.drawing import complain, say

DEADLINE_SECONDS = 2.0
_DEFAULT_ADDRESS = "127.0.0.1:9090"
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
_ASSIGNED = re.compile(r"""^[ \t]*admin_listen[ \t]*=[ \t]*["']([^"'\n]*)["']""", re.MULTILINE)
_TABLE = re.compile(r"^[ \t]*\[", re.MULTILINE)
_MOST_BYTES = 2**20
_MOST_PORT = 65535


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser(
        "probe",
        help="ask the running gateway whether it lives",
        description="Ask the gateway that runs on this machine, over its private listener, whether it lives. "
        f"Exit code 0: it does; 1: it does not, or has not said so within {DEADLINE_SECONDS:g} seconds.",
    )
    command.add_argument("--ready", action="store_true", help="whether it should be sent new work, instead")
    add_address(command)
    command.set_defaults(run=run)


def add_address(command: argparse.ArgumentParser) -> None:
    """The options that say where the private listener is."""
    command.add_argument(
        "--config", type=Path, metavar="FILE", help="configuration file (TOML), for its admin_listen"
    )
    command.add_argument(
        "--admin-listen",
        metavar="HOST:PORT",
        help="the private listener (default: GATEWAY_ADMIN_LISTEN, else what the file says, "
        f"else {_DEFAULT_ADDRESS})",
    )


def address_from(options: argparse.Namespace, *, guess: bool = True) -> str:
    """Where the private listener is. `guess`: where it usually is, if the file that says so cannot be read; else that
    raises OSError.
    """
    address: str | None = options.admin_listen or _from_environment()
    if address is None and options.config is not None:
        try:
            address = _from_file(options.config)
        except OSError as error:
            unread = f"{options.config} cannot be read: {error.strerror}"
            if not guess:
                raise OSError(unread) from None
            complain(unread)
    return address or _DEFAULT_ADDRESS


def run(options: argparse.Namespace) -> int:
    """Ask, and say in one line what was answered."""
    address = address_from(options)
    path = "/readyz" if options.ready else "/livez"
    try:
        status, body = ask(address, path)
    except (OSError, ValueError) as error:
        complain(str(error))
        return 1
    said = _line(body)
    line = said or f"{address}: {path} answered {status}, and not as the private listener of a gateway does"
    if status == 200 and said:
        say(line)
        return 0
    complain(line)
    return 1


def _from_environment() -> str | None:
    named = (value.strip() for name, value in os.environ.items() if name.lower() == "gateway_admin_listen")
    return next(named, None)


def _from_file(file: Path) -> str | None:
    """What the file says, read no further than that needs. Raises OSError."""
    text = file.read_text(encoding="utf-8", errors="replace")
    found = _ASSIGNED.search(_TABLE.split(text, maxsplit=1)[0])
    return None if found is None else found[1]


def ask(address: str, path: str) -> tuple[int, bytes]:
    """The status and the body of what a private listener answers. Raises OSError and ValueError, which name it."""
    try:
        return _asked(address, path)
    except ConnectionRefusedError:
        raise OSError(
            f"{address}: nobody listens there; is it the gateway's admin_listen, and does it run?"
        ) from None
    except OSError as error:
        raise OSError(f"{address}: {error.strerror or error}") from None
    except ValueError as error:
        raise ValueError(f"{address}: {error}") from None


def connected_to(address: str) -> tuple[str, int]:
    """Host and port to connect to, to reach who listens there. Raises ValueError."""
    host, separator, port = address.rpartition(":")
    host = host.strip("[]")
    if not separator or not port.isdigit() or int(port) > _MOST_PORT:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:9090 or [::1]:9090")
    return _ANYWHERE.get(host, host), int(port)


def _asked(address: str, path: str) -> tuple[int, bytes]:
    deadline = monotonic() + DEADLINE_SECONDS
    to = connected_to(address)
    try:
        with socket.create_connection(to, DEADLINE_SECONDS) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            answer = b""
            while len(answer) < _MOST_BYTES:
                left_seconds = deadline - monotonic()
                if left_seconds <= 0:
                    raise TimeoutError
                connection.settimeout(left_seconds)
                if not (piece := connection.recv(65536)):
                    break
                answer += piece
    except TimeoutError:
        raise TimeoutError(f"no answer within {DEADLINE_SECONDS:g} seconds") from None
    head, _, body = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError("what listens there does not speak HTTP")
    return int(words[1]), body


def _line(body: bytes) -> str:
    """What the answer says, in words; empty where it is not a gateway's."""
    try:
        said = json.loads(body)
        reasons = [reason["message"] for reason in said["reasons"]]
        ready = sum(worker["ready"] for worker in said["workers"])
        return f"{said['status']}: " + (
            " ".join(reasons) or f"{ready} of {len(said['workers'])} workers are ready"
        )
    except (ValueError, LookupError, TypeError):
        return ""
