"""How a line is written: as JSON for programs, or as aligned text for people.

Either way nothing in it can forge a second line or another field, and it is short enough to arrive whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

import orjson

from gateway.endings import ROOM_BYTES
from gateway.exchange import whole_lines
from gateway.exchange.harmless import cut, harmless
from gateway.exchange.log_fields import COUNTED, PROCESS, START

Encode = Callable[[dict[str, Any]], bytes]
"""Makes a line of a record."""

_SHORTER_LIMITS = (128, 64)
"""For the texts of a line that would be too long to arrive whole; with the last of them none is."""

_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z

_LARGEST = 2**63 - 1

_PLAIN = re.compile(r"[!#-<>-~]+")
"""What needs no quotation marks behind `name=`: no blank, `"` or `=`."""

_IN_COLUMNS = frozenset(
    {"event", "time", "status", "ending", "method", "operation", "tenant", "duration_ms", "worker"}
    | {"level", "logger", "message", "exception", "process"}
)
_FIRST = ("error", "detail", "path", "model", "client", "subject")
"""What of all else is mostly looked for."""

_RESET = "\x1b[0m"
_RED, _YELLOW, _GREEN, _FAINT = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[2m"
_OF_LEVEL = {"warning": _YELLOW, "error": _RED, "critical": _RED}


def encoder(form: str, descriptor: int) -> Encode:
    """What makes lines in this form, for whoever reads from this descriptor: coloured for terminals alone."""
    if form == "json":
        return encode
    return partial(encode_text, coloured=is_coloured(descriptor))


def is_coloured(descriptor: int) -> bool:
    """Whether it is a terminal that shows colours, and nobody wants none (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def encode(record: dict[str, Any]) -> bytes:
    """A line of JSON; control characters are escaped, so nothing can forge a second one."""
    bytes(ROOM_BYTES)  # raises MemoryError
    line = _json(record)
    return line if len(line) <= whole_lines.MOST_BYTES else _fitting(record, _json)


def encode_text(record: dict[str, Any], *, coloured: bool = False) -> bytes:
    """A line of text. A traceback has lines of its own, each of them indented."""
    return _fitting(record, _coloured_text if coloured else _text)


def _fitting(record: dict[str, Any], dumps: Encode) -> bytes:
    bytes(ROOM_BYTES)  # raises MemoryError
    line = dumps(record)
    if len(line) <= whole_lines.MOST_BYTES:
        return line
    for limit in _SHORTER_LIMITS:
        line = dumps(
            {name: cut(value, limit) if isinstance(value, str) else value for name, value in record.items()}
        )
        if len(line) <= whole_lines.MOST_BYTES:
            return line
    if "object_usage" in record:
        return _fitting({name: value for name, value in record.items() if name != "object_usage"}, dumps)
    return line


def _json(record: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(record, option=_OPTIONS, default=str)
    except TypeError:
        return orjson.dumps(_within(record), option=_OPTIONS, default=str)


def _within(value: Any) -> Any:
    """A value with no number larger than those who read JSON can hold: upstreams may report any, and often."""
    if isinstance(value, Mapping):
        return {name: _within(one) for name, one in value.items()}
    return min(value, _LARGEST) if type(value) is int else value


def _text(record: dict[str, Any]) -> bytes:
    return _drawn(record, _plain).encode("utf-8", "backslashreplace")


def _coloured_text(record: dict[str, Any]) -> bytes:
    return _drawn(record, _painted).encode("utf-8", "backslashreplace")


def _drawn(record: Mapping[str, Any], paint: Callable[[str, str], str]) -> str:
    event = record["event"]
    time = paint(_time(record["time"]), _FAINT)
    if event == PROCESS:
        return f"{time} {_said(record, paint)}"
    rest = " ".join(_pairs(record))
    if event == COUNTED:
        return f"{time} {paint('more refusals, counted', _YELLOW)}  {rest}\n"
    status = "…" if event == START else str(record["status"] or "-")
    ending = "still runs" if event == START else str(record["ending"])
    took = _seconds(record["duration_ms"])
    tenant, operation = _value(record["tenant"] or "-"), _value(record["operation"])
    ended = f"{paint(f'{status:>3} {ending:<13}', _colour(record))} {took:>9}"
    return f"{time} {ended}  {tenant:<16} {_value(record['method']):<4} {operation:<32}  {rest}\n"


def _said(record: Mapping[str, Any], paint: Callable[[str, str], str]) -> str:
    level = str(record["level"])
    who = f"{record['process']} {record['worker']}" if "worker" in record else str(record["process"])
    said = f"{paint(f'{level:<8}', _OF_LEVEL.get(level, _GREEN))} {who:<10}  {record['message']}\n"
    traceback = record.get("exception")
    return said if traceback is None else said + "".join(f"    | {line}\n" for line in traceback.split("\n"))


def _pairs(record: Mapping[str, Any]) -> Iterator[str]:
    """What has no column, as `name=value`, but for what is nothing."""
    first = {name: record[name] for name in _FIRST if name in record}
    for name, value in {**first, **record}.items():
        if name in _IN_COLUMNS or value is None or value == "":
            continue
        if isinstance(value, Mapping):
            yield from (f"{name}.{_value(key)}={_value(one)}" for key, one in _flat(value))
        elif isinstance(value, datetime):
            yield f"{name}={value:%H:%M:%S}.{value.microsecond // 1000:03}Z"
        else:
            yield f"{name}={_value(value)}"


def _flat(value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, one in value.items():
        if isinstance(one, Mapping):
            yield from ((f"{key}.{inner}", amount) for inner, amount in _flat(one))
        else:
            yield key, one


def _value(value: Any) -> str:
    """As it is where it cannot be mistaken for anything else; otherwise in quotation marks, as in JSON."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else orjson.dumps(harmless(text)).decode()


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _seconds(milliseconds: float) -> str:
    return f"{milliseconds / 1000:.3f}s"


def _colour(record: Mapping[str, Any]) -> str:
    status = record["status"] or 0
    if record["event"] == START:
        return _YELLOW
    if record["ending"] != "complete" or status >= 500:
        return _RED if status >= 500 or not status or record["ending"] != "refused" else _YELLOW
    return _YELLOW if status >= 400 else _GREEN


def _plain(text: str, _: str) -> str:
    return text


def _painted(text: str, colour: str) -> str:
    return f"{colour}{text}{_RESET}"
