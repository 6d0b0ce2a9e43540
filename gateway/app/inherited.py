"""What a worker is given by its supervisor at its birth, by the environment: which it is, and its sockets."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass

import orjson

from gateway.app.messages import PROTOCOL
from gateway.app.place import Place
from gateway.exchange.process_log import speaks_as

_VARIABLE = "GATEWAY_INHERITED"


@dataclass(frozen=True, slots=True)
class Inherited:
    """The inheritance of one worker."""

    place: Place
    control: socket.socket
    """Its end of the pair of sockets between it and its supervisor."""

    sockets: tuple[tuple[socket.socket, ...], ...]
    """What listens, by slot: its own is that of its place."""

    log_format: str
    """In which form it says things, until it knows its settings."""


def bequeath(place: Place, control: int, slots: Iterable[Iterable[socket.socket]]) -> dict[str, str]:
    """The variables that tell a worker, which inherits these files by the same numbers."""
    told = {
        "protocol": PROTOCOL,
        "index": place.index,
        "workers": place.workers,
        "control": control,
        "log_format": speaks_as().form,
        "sockets": [[one.fileno() for one in sockets] for sockets in slots],
    }
    return {_VARIABLE: orjson.dumps(told).decode()}


def is_worker(environ: Mapping[str, str]) -> bool:
    """Whether this process is meant to be one."""
    return _VARIABLE in environ


def inherit(environ: MutableMapping[str, str]) -> Inherited:
    """Take what was left to this worker; nobody whom it starts hears of it. Raises ValueError where the supervisor
    is of a release that this one cannot work under."""
    told = orjson.loads(environ.pop(_VARIABLE))
    if told["protocol"] != PROTOCOL:
        raise ValueError(
            "this release cannot work under a supervisor of the one that runs: stop the gateway and start it"
        )
    sockets = tuple(tuple(map(_socket, numbers)) for numbers in told["sockets"])
    return Inherited(
        Place(told["index"], told["workers"]),
        _socket(told["control"]),
        sockets,
        told.get("log_format", "json"),
    )


def _socket(number: int) -> socket.socket:
    os.set_inheritable(number, False)
    return socket.socket(fileno=number)
