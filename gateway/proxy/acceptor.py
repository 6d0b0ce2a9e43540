"""Where connections come in: of those that wait, many are taken in one turn of the loop.

uvloop takes one a turn by itself, so that newcomers wait in the kernel's queue as soon as turns are long.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from math import nan
from typing import Any

from gateway.proxy.bites import UNSENT_BYTES
from gateway.proxy.channel import leave_unsent
from gateway.proxy.reserved_files import ReservedFiles

_MOST_AT_ONCE = 64
"""Newcomers of one socket in one turn: they are cheap, yet whoever is being served waits for them."""

_MOST_IN_QUEUE = 4096
"""Newcomers that are taken before a socket is closed: the kernel keeps no more, and a flood of them has no end."""

_PAUSE_SECONDS = 0.5
_LAST_PAUSE_SECONDS = 0.05
"""The same before a socket is closed: when the process's last connection has ended nobody looks any more."""

_NO_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


_QUEUE = struct.Struct("=24xII")
"""`tcpi_unacked` and `tcpi_sacked` of `tcp_info`, which are these of a socket that listens."""

BACKLOG = 4096
"""Newcomers that may wait while the loop is busy; the kernel's own bound is the lower one on most machines."""


def listening_sockets(host: str, port: int, *, backlog: int, shared: bool = False) -> list[socket.socket]:
    """Sockets that listen on every address of a host. Raises OSError.

    `shared` ones let others of this user listen on the same addresses: each gets its part of the newcomers.
    """
    sockets: list[socket.socket] = []
    try:
        for family, _, _, _, address in dict.fromkeys(
            socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        ):
            # Where any port will do, what the first address got is that of all.
            where = address[0], port
            one = socket.create_server(where, family=family, backlog=backlog, reuse_port=shared)
            sockets.append(one)
            port = one.getsockname()[1]
    except OSError:
        for one in sockets:
            one.close()
        raise
    return sockets


def listen_queue(listening: socket.socket) -> tuple[float, float]:
    """How many wait to be accepted, and how many may; NaN where nobody says."""
    if sys.platform != "linux":
        return nan, nan
    try:
        told = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUE.size)
        waiting, most = _QUEUE.unpack(told)
    except (OSError, struct.error):
        return nan, nan  # it has been closed
    return waiting, most


class Acceptor:
    """Hands the connections of listening sockets to protocols; the sockets are closed with it.

    While nothing can be accepted, as when the process may open no more files, newcomers wait in the kernel's queue and
    are looked for again after half a second; `reserved` files are kept open for such a time.
    """

    def __init__(
        self,
        protocol: Callable[[], asyncio.BaseProtocol],
        sockets: Iterable[socket.socket],
        *,
        failed: Callable[[str], None],
        reserved: int = 0,
    ) -> None:
        """Accept from now on; needs the running loop. `failed` is told why nobody could be accepted:
        `no_files` or `not_accepted`.
        """
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._failed = failed
        self._reserved = ReservedFiles(reserved)
        # To ask in vain whether there is another one would cost one of the reserved files.
        self._most_at_once = 1 if reserved else _MOST_AT_ONCE
        self._sockets = tuple(sockets)
        self._pauses: dict[socket.socket, asyncio.TimerHandle] = {}
        self._closes = False
        """Whoever waits is taken, and nobody else."""

        self._entering: list[tuple[Coroutine[Any, Any, object], asyncio.Future[None]]] = []
        for listening in self._sockets:
            listening.setblocking(False)
            # Whoever is let in has these from the socket that it comes from.
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            leave_unsent(listening, UNSENT_BYTES)
            self._loop.add_reader(listening, self._take, listening)

    @property
    def sockets(self) -> tuple[socket.socket, ...]:
        """What listens, or did."""
        return self._sockets

    @property
    def addresses(self) -> list[Any]:
        """Where it listens."""
        return [listening.getsockname() for listening in self._sockets if listening.fileno() >= 0]

    def close(self) -> None:
        """Accept nobody any more but whom the kernel has let in already, and close the sockets.

        Where nobody can be accepted, those who wait are looked for again before that.
        """
        closes, self._closes = self._closes, True
        for listening in self._sockets:
            self._ignore(listening)
            if closes:
                listening.close()  # they have waited long enough
            elif listening.fileno() >= 0:
                self._close_emptied(listening)
        self._reserved.close()

    def leave(self) -> None:
        """Accept nobody any more and close the sockets: who waits is left to others who have them open."""
        self.let_go()
        for listening in self._sockets:
            listening.close()

    def let_go(self) -> None:
        """Accept nobody any more: who waits is left to others. The sockets stay open."""
        for listening in self._sockets:
            self._ignore(listening)
        self._reserved.close()

    def _ignore(self, listening: socket.socket) -> None:
        pause = self._pauses.pop(listening, None)
        if pause is not None:
            pause.cancel()
        elif listening.fileno() >= 0:
            self._loop.remove_reader(listening)

    def _look_again(self, listening: socket.socket) -> None:
        del self._pauses[listening]
        if self._closes:
            self._close_emptied(listening)
        else:
            self._loop.add_reader(listening, self._take, listening)

    def _close_emptied(self, listening: socket.socket) -> None:
        for _ in range(_MOST_IN_QUEUE):
            if not self._take_one(listening):
                break
        self._loop.call_soon(self._entered)
        if listening not in self._pauses:
            listening.close()

    def _take(self, listening: socket.socket) -> None:
        self._reserved.fill()
        for _ in range(self._most_at_once):
            if not self._take_one(listening):
                break
        self._loop.call_soon(self._entered)

    def _take_one(self, listening: socket.socket) -> bool:
        """Whether there may be another one."""
        try:
            accepted, _ = self._reserved.use(listening.accept)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionError:
            return True  # it has left already
        except OSError as error:
            # Nothing can be done about who waits; asking again at once would take a whole core.
            self._loop.remove_reader(listening)
            seconds = _LAST_PAUSE_SECONDS if self._closes else _PAUSE_SECONDS
            self._pauses[listening] = self._loop.call_later(seconds, self._look_again, listening)
            self._failed("no_files" if error.errno in _NO_FILES else "not_accepted")
            return False
        accepted.setblocking(False)
        self._enter(accepted)
        return True

    def _enter(self, accepted: socket.socket) -> None:
        """Make a connection of it. What the loop has for that waits once, for `connection_made`; a task only to wait
        for it would cost as much as accepting.
        """
        entering = self._loop.connect_accepted_socket(self._protocol, accepted)
        try:
            made = entering.send(None)
        except OSError:
            accepted.close()  # it has left already
            return
        self._entering.append((entering, made))

    def _entered(self) -> None:
        """Those who were entering have been told of their connections by now."""
        entering, self._entering = self._entering, []
        for one, made in entering:
            if made.done():
                _finish(one)
            else:
                made.add_done_callback(partial(_finish, one))


def _finish(entering: Coroutine[Any, Any, object], _: object = None) -> None:
    try:
        entering.send(None)
    except (StopIteration, OSError):
        pass
