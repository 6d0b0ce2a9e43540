"""Where time goes is told by the innermost module that is known, and of a process that works it is told where."""

from __future__ import annotations

import subprocess
import sys
from types import FrameType

import orjson

from gateway.bench.sampling import NOWHERE, area_of

AREAS = {"a": "all", "a.b": "part", "a.b.c": "corner"}


def frame(module: str, inner: str = "") -> FrameType:
    """The stack of a call from one module into another."""
    made: list[FrameType] = []
    inside = {"__name__": inner or module, "sys": sys, "made": made}
    exec("def look(): made.append(sys._getframe())", inside)
    exec("look()", {"__name__": module, "look": inside["look"]})
    return made[0]


def test_the_longest_beginning_of_the_innermost_known_module_counts() -> None:
    assert area_of(frame("a.x"), AREAS) == "all"
    assert area_of(frame("a.b.x.y"), AREAS) == "part"
    assert area_of(frame("a.x", inner="a.b.c"), AREAS) == "corner"
    assert area_of(frame("a.b", inner="json.decoder"), AREAS) == "part"
    assert area_of(frame("ab", inner="other"), AREAS) == NOWHERE
    assert area_of(None, AREAS) == NOWHERE


WORKING = """
import os, sys, time
from gateway.bench.sampling import TURN, Sampler
import orjson
found = []
Sampler({"__main__": "here"}, found.append).install()
os.kill(os.getpid(), TURN)
until = time.process_time() + 0.5
while time.process_time() < until: pass
os.kill(os.getpid(), TURN)
until = time.process_time() + 0.1
while time.process_time() < until: pass
sys.stdout.buffer.write(orjson.dumps(found))
"""


def test_a_process_that_works_is_looked_at_from_one_signal_to_the_next() -> None:
    done = subprocess.run([sys.executable, "-c", WORKING], capture_output=True, check=True)
    [seen] = orjson.loads(done.stdout)
    assert seen.keys() == {"here"}
    assert seen["here"] >= 10
