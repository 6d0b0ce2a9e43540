"""What a process has to say to whoever runs it: lines on standard error, each whole, whoever else writes there.

It has the form of the log, from every process of a gateway, and from the first word: until the settings have been read
it is as the command line or the environment has it. Also what others say, asyncio, aiohttp, warnings, and what nobody
has caught, is said so.

Whoever says something has a loop to turn: a reader that has stopped reading is waited for once, and then nobody waits
until it reads again. What it does not take is lost.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson

from gateway.exchange import whole_lines
from gateway.exchange.harmless import cut, harmless
from gateway.exchange.log_fields import PROCESS
from gateway.exchange.log_forms import Encode, encoder

_PATIENCE_SECONDS = 0.5
_LIMITS = (2000, 1000, 500, 250)
"""Characters of what is said, and of where it came from: the first with which a line is short enough."""

_TEXT_BYTES = 3200
"""Of the 4096 of a line, for both."""

_STANDARD_ERROR = 2

_log = logging.getLogger("gateway")


class Speaker(NamedTuple):
    """Which process says it, and in which form."""

    process: str
    """`gateway`, `supervisor`, `worker` or `reader`."""

    form: str = "json"
    worker: int | None = None

    def for_reader(self) -> str:
        """As whom a reader of this process's documents speaks, for its environment."""
        return f"{self.form} {'' if self.worker is None else self.worker}"

    @classmethod
    def inherited(cls, told: str) -> Speaker:
        """The speaker that a reader was told to be."""
        form, _, worker = told.partition(" ")
        return cls("reader", form, int(worker) if worker else None)


class _ProcessLog(logging.Handler):
    """Writes what is logged to standard error."""

    def __init__(self) -> None:
        super().__init__()
        self._patience_seconds = _PATIENCE_SECONDS
        self.speaks_as(Speaker("gateway"))

    def speaks_as(self, speaker: Speaker) -> None:
        """From now on it is this process that says things."""
        self.speaker = speaker
        self._encode: Encode = encoder(speaker.form, _STANDARD_ERROR)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self._encode(self._said(record)))
        except Exception:  # noqa: BLE001 (logging's own way with what goes wrong in it)
            self.handleError(record)

    def _said(self, record: logging.LogRecord) -> dict[str, Any]:
        speaker = self.speaker
        said: dict[str, Any] = {
            "event": PROCESS,
            "time": datetime.fromtimestamp(record.created, UTC),
            "level": record.levelname.lower(),
            "process": speaker.process,
        }
        if speaker.worker is not None:
            said["worker"] = speaker.worker
        said |= {"pid": os.getpid(), "logger": harmless(record.name)}
        came_from = None
        if record.exc_info is not None and record.exc_info[0] is not None:
            lines = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n").split("\n")
            came_from = "\n".join(map(harmless, lines))
        said["message"], came_from = _shortened(harmless(record.getMessage()), came_from)
        if came_from is not None:
            said["exception"] = came_from
        return said

    def _write(self, line: bytes) -> None:
        try:
            sys.stderr.flush()  # what was printed before comes before
            for portion in whole_lines.portions(line):
                whole_lines.write(_STANDARD_ERROR, portion, most_seconds=self._patience_seconds)
        except TimeoutError:
            self._patience_seconds = 0.0
        except OSError:
            pass  # nobody reads any more
        else:
            self._patience_seconds = _PATIENCE_SECONDS


_handler = _ProcessLog()


def speak_as(speaker: Speaker) -> None:
    """Say from now on, as this process, whatever is logged, warned of, or caught by nobody."""
    _handler.speaks_as(speaker)
    root = logging.getLogger()
    if _handler in root.handlers:
        return
    root.addHandler(_handler)
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    sys.unraisablehook = _unraisable
    threading.excepthook = _uncaught_in_thread


def tell(text: str, level: int = logging.INFO) -> None:
    """Say one thing to whoever runs this, whether or not anything else is said yet."""
    _handler.handle(_log.makeRecord(_log.name, level, "", 0, text, (), None))


def speaks_as() -> Speaker:
    """Who this process is, for those that it starts."""
    return _handler.speaker


def _uncaught(kind: type[BaseException], error: BaseException, where: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, where)
        return
    _log.critical("this process ends by a defect", exc_info=(kind, error, where))


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and told.exc_type is not SystemExit:
        name = "?" if told.thread is None else told.thread.name
        _log.error("the thread %s ends by a defect", name, exc_info=told.exc_value)


def _unraisable(told: sys.UnraisableHookArgs) -> None:
    _log.error(
        "%s: %r", told.err_msg or "an error that nobody can catch", told.object, exc_info=told.exc_value
    )


def _shortened(message: str, came_from: str | None) -> tuple[str, str | None]:
    """As much of both as a line may hold: what was said from its beginning, where it came from to its end."""
    for most in _LIMITS:
        message = cut(message, most)
        if came_from is not None and len(came_from) > most:
            came_from = "…" + came_from[-most:]
        if len(orjson.dumps([message, came_from])) <= _TEXT_BYTES:
            break
    return message, came_from
