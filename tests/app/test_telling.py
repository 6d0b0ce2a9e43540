"""What several processes tell the operator arrives whole."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time

import pytest

PROCESSES, TIMES = 4, 400
WHOLE = re.compile(rb"gateway: (?:worker \d: )?\d [ax]{100,}|Traceback .*|  File .*|    .*|ValueError: \d+|")

PROGRAM = """
import logging, sys
from gateway.app.telling import tell, tell_what_is_logged
index, times = map(int, sys.argv[1:])
tell_what_is_logged(f"gateway: worker {index}")
for number in range(times):
    if number % 3 == 0:
        tell(f"{index} " + "a" * (100 + number))
    elif number % 3 == 1:
        logging.getLogger("x").warning("%d %s", index, "x" * (100 + number))
    else:
        try:
            raise ValueError(number)
        except ValueError:
            logging.getLogger("x").exception("%d %s", index, "x" * 1500)
"""


@pytest.mark.parametrize("waits", [True, False])
def test_lines_of_several_are_whole_on_a_slow_pipe(waits: bool) -> None:
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(theirs, waits)
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(index), str(TIMES)], stderr=theirs)
        for index in range(PROCESSES)
    ]
    os.close(theirs)
    come = bytearray()
    while piece := os.read(ours, 3000):
        come += piece
        if len(come) % 7 == 0:
            time.sleep(0.001)
    os.close(ours)
    assert [process.wait(30) for process in processes] == [0] * PROCESSES

    lines = bytes(come).split(b"\n")
    assert [line for line in lines if not WHOLE.fullmatch(line)] == []
    assert sum(line.startswith(b"gateway: ") for line in lines) == PROCESSES * TIMES


def test_who_reads_no_more_harms_nobody() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    program = (
        "from gateway.app.telling import tell\nfor _ in range(3): tell('anybody there?')\nprint('went on')"
    )
    with os.fdopen(theirs) as errors:
        ran = subprocess.run(
            [sys.executable, "-c", program], stderr=errors, stdout=subprocess.PIPE, check=True, timeout=30
        )
    assert ran.stdout == b"went on\n"


def test_who_has_stopped_reading_keeps_nobody_and_hears_what_is_told_when_it_reads_again() -> None:
    ours, theirs = os.pipe()
    program = """
import sys, time
from gateway.exchange.process_log import tell
began = time.monotonic()
for number in range(1000):
    tell(f"{number} " + "x" * 500)
print(time.monotonic() - began, flush=True)
sys.stdin.readline()
tell("again")
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    assert process.stdin is not None
    assert process.stdout is not None
    assert float(process.stdout.readline()) < 5, "it waited once, and not a thousand times or for ever"
    come = os.read(ours, 2**20)
    process.stdin.write(b"\n")
    process.stdin.close()
    while piece := os.read(ours, 2**20):
        come += piece
    os.close(ours)
    assert process.wait(10) == 0
    process.stdout.close()
    assert come.startswith(b"gateway: 0 xxx")
    assert come.endswith(b"x\ngateway: again\n")
