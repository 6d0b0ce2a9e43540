"""What processes tell the operator arrives whole, in one form, whoever says it, and nothing in it is forged."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time

import pytest

from tests.kit.said import checked

PROCESSES, TIMES = 4, 300

PROGRAM = """
import logging, sys
from gateway.exchange.process_log import Speaker, speak_as, tell
index, times, form = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
speak_as(Speaker("worker", form, index))
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


def said_by(program: str, *arguments: str) -> list[str]:
    """The lines of standard error of a program."""
    ran = subprocess.run(
        [sys.executable, "-c", program, *arguments], stderr=subprocess.PIPE, check=False, timeout=60
    )
    return ran.stderr.decode().splitlines()


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("waits", [True, False])
def test_lines_of_several_are_whole_on_a_slow_pipe(waits: bool, form: str) -> None:
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(theirs, waits)
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, str(index), str(TIMES), form], stderr=theirs)
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

    lines = bytes(come).decode().splitlines()
    if form == "json":
        said = [checked(line) for line in lines]
        assert len(said) == PROCESSES * TIMES
        assert all(line["message"][0] == str(line["worker"]) for line in said)
        assert sum("exception" in line for line in said) == PROCESSES * TIMES // 3
    else:
        head = re.compile(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z (?:info|warning|error) +worker \d +\d [ax]{100,}"
        )
        assert [line for line in lines if not head.fullmatch(line) and not line.startswith("    | ")] == []
        assert sum(not line.startswith("    | ") for line in lines) == PROCESSES * TIMES


def test_whatever_is_said_has_the_form_of_the_log() -> None:
    lines = said_by("""
import asyncio, logging, sys, threading, warnings
from gateway.exchange.process_log import Speaker, speak_as
speak_as(Speaker("gateway"))
logging.getLogger("aiohttp.server").error("of aiohttp")
warnings.warn("beware")
thread = threading.Thread(target=lambda: 1 / 0, name="odd")
thread.start()
thread.join()
class Bad:
    def __del__(self): raise RuntimeError("unraisable")
Bad()
async def main():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)
asyncio.run(main())
logging.getLogger("gateway.test").info("not this")
logging.getLogger("gateway.test").debug("nor this")
raise KeyError("the end")
""")
    said = [checked(line) for line in lines]
    assert [(line["logger"], line["level"]) for line in said] == [
        ("aiohttp.server", "error"),
        ("py.warnings", "warning"),
        ("gateway", "error"),
        ("gateway", "error"),
        ("asyncio", "error"),
        ("gateway.test", "info"),
        ("gateway", "critical"),
    ]
    assert [line.get("exception", "").rpartition("\n")[2] for line in said] == [
        *("", "", "ZeroDivisionError: division by zero", "RuntimeError: unraisable"),
        *("ZeroDivisionError: division by zero", "", "KeyError: 'the end'"),
    ]
    assert all(line["process"] == "gateway" and line["pid"] for line in said)


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_text_of_a_stranger_forges_a_line(form: str) -> None:
    lines = said_by(
        """
import logging, sys
from gateway.exchange.process_log import Speaker, speak_as
speak_as(Speaker("gateway", sys.argv[1]))
nasty = "a\\r\\n2026-11-27 00:00:00.000Z error gateway forged\\x1b[31m\\x85\\u2028\\u202e\\ud800" + "ü" * 9000
try:
    raise ValueError(nasty)
except ValueError:
    logging.getLogger("x").exception("%s", nasty)
""",
        form,
    )
    text = "\n".join(lines)
    assert len(text.encode()) < 4096
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", text)
    if form == "json":
        assert len(lines) == 1
        assert checked(lines[0])["level"] == "error"
    else:
        assert [line for line in lines[1:] if not line.startswith("    | ")] == []


def test_something_can_be_told_before_anything_is_known() -> None:
    (line,) = said_by("from gateway.exchange.process_log import tell; tell('first of all')")

    assert checked(line)["message"] == "first of all"


def test_who_reads_no_more_harms_nobody() -> None:
    ours, theirs = os.pipe()
    os.close(ours)
    program = (
        "from gateway.exchange.process_log import tell\n"
        "for _ in range(3): tell('anybody there?')\nprint('went on')"
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
    said = [checked(line)["message"] for line in come.splitlines()]
    assert said[0].startswith("0 xxx")
    assert said[-1] == "again"
