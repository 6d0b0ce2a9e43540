"""The process that reads large JSON documents, so that nobody waits for them but who sent them.

Run by `reading_lane`, at the other end of its standard input. A call comes in as a frame: the lengths of call and
document, a pickled function with its arguments, the document. What is found goes back as one frame. It ends when
nobody is at the other end any more, and dies where memory does not suffice.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import signal
import socket
import struct
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from gateway.exchange.process_log import Speaker, speak_as
from gateway.wire.json_structure import Bounds, exceeds
from gateway.wire.request_fields import BodyRefused

CALL = struct.Struct("!IQ")
"""The lengths of a call and of the document behind it."""

ANSWER = struct.Struct("!I")
"""The length of an answer."""

SPEAKER = "GATEWAY_SPEAKER"
"""The variable that says as whom it says things."""

_LESS_IMPORTANT = 5
_OOM_SCORE = "500"


class Found(StrEnum):
    """What became of a call."""

    ANSWER = "answer"
    REFUSED = "refused"
    """Nobody can rely on the document; why is told by a Fault."""

    TOO_COMPLEX = "too_complex"
    """There is too much structure to read it at all."""

    FAILED = "failed"
    """By a defect, of which the traceback tells."""


class Call(NamedTuple):
    """A function of a document, to be called where that is: `function(document, *arguments)`."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()


def answer(call: Call, bounds: Bounds | None, document: bytes) -> tuple[Found, Any]:
    """Call the function, unless the document has too much structure."""
    try:
        if bounds is not None and exceeds(document, bounds):
            return Found.TOO_COMPLEX, None
        return Found.ANSWER, call.function(document, *call.arguments)
    except BodyRefused as refused:
        return Found.REFUSED, refused.fault
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 (told where it can be logged)
        return Found.FAILED, traceback.format_exc()


def serve(connection: socket.socket) -> None:
    """Answer calls until nobody calls any more."""
    stream = connection.makefile("rb")
    while len(head := stream.read(CALL.size)) == CALL.size:
        call_bytes, document_bytes = CALL.unpack(head)
        call, bounds = pickle.loads(stream.read(call_bytes))  # noqa: S301 (from who started this process)
        document = stream.read(document_bytes)
        if len(document) < document_bytes:
            return
        found, value = answer(call, bounds, document)
        # As a word: how a member of an enumeration is pickled differs between versions of Python.
        answered = pickle.dumps((found.value, value), pickle.HIGHEST_PROTOCOL)
        del document, value
        connection.sendall(ANSWER.pack(len(answered)) + answered)


def main() -> None:
    """Serve whoever holds the other end of standard input."""
    speak_as(Speaker.inherited(os.environ[SPEAKER]))
    # What is sent to every process of a group is the gateway's to heed: this one ends when that has drained.
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    # Documents have no cycles, and looking for some among millions of objects takes longer than reading them.
    gc.disable()
    with contextlib.suppress(OSError):
        os.nice(_LESS_IMPORTANT)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(
            _OOM_SCORE
        )  # if memory runs out, better this than the gateway
    try:
        with socket.socket(fileno=0) as connection:
            serve(connection)
    except (ConnectionError, MemoryError):
        os._exit(1)
