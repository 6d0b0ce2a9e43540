"""Several processes write their lines to one descriptor: each arrives whole, and those of one process in order."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import socket
import subprocess
import sys
import time
import tty
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

WORKERS = 4
LENGTH = 300


def test_none_of_many_lines_is_torn_on_a_slow_pipe() -> None:
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    with writers(theirs, 25_000):
        expect_whole(read_slowly(ours, 5000, every=64), 25_000)


def test_none_is_torn_or_lost_where_whoever_started_them_made_the_pipe_not_wait() -> None:
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with writers(theirs, 5000):
        expect_whole(read_slowly(ours, 3000, every=16), 5000)


@pytest.mark.parametrize("waits", [True, False])
def test_none_is_torn_on_a_socket_as_a_journal_has(waits: bool) -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(waits)
    with writers(theirs.detach(), 5000):
        expect_whole(read_slowly(ours.detach(), 3000, every=16), 5000)


def test_none_is_torn_on_a_terminal() -> None:
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    with writers(theirs, 1000):
        expect_whole(read_slowly(ours, 1000, every=16), 1000)


def test_none_is_torn_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "log"
    with writers(os.open(file, os.O_WRONLY | os.O_CREAT), 5000):
        pass
    expect_whole(file.read_bytes(), 5000)


@contextlib.contextmanager
def writers(descriptor: int, count: int) -> Iterator[None]:
    """Have processes write so many lines each to a descriptor, which nobody else has open then."""
    command = [sys.executable, "-m", "tests.exchange.log_worker"]
    processes = [
        subprocess.Popen([*command, str(index), str(count), str(LENGTH)], stdout=descriptor)
        for index in range(WORKERS)
    ]
    os.close(descriptor)
    try:
        yield
        for process in processes:
            assert process.wait(30) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


def read_slowly(descriptor: int, count: int, *, every: int) -> bytes:
    """All that comes, never more than `count` bytes at once, with a pause now and then."""
    come = []
    with contextlib.suppress(OSError):  # a terminal ends with an error
        while piece := os.read(descriptor, count):
            come.append(piece)
            if len(come) % every == 0:
                time.sleep(0.001)
    os.close(descriptor)
    return b"".join(come)


def expect_whole(text: bytes, count: int) -> None:
    """Each process's lines are all there, whole and in order."""
    come: dict[int, list[int]] = {index: [] for index in range(WORKERS)}
    torn = 0
    for line in text.splitlines():
        try:
            said = orjson.loads(line)
            come[said["worker"]].append(said["number"])
        except (orjson.JSONDecodeError, KeyError, TypeError):
            torn += 1
    assert torn == 0, f"{torn} lines are torn"
    for numbers in come.values():
        assert (len(numbers), numbers == sorted(numbers)) == (count, True)
