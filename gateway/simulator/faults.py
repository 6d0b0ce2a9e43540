"""What the request header `x-simulate` asks for. Pure; the syntax is explained in the package docstring."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Faults:
    """How one request is to fail or dawdle; by default not at all."""

    status: int | None = None
    delay_seconds: float = 0.0
    pace_seconds: float | None = None
    cut_bytes: int | None = None
    drop: bool = False
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Faults:
        """Read the header's value. Raise ValueError, with a message for the caller, if it makes no sense."""
        asked: dict[str, str] = {}
        for part in filter(None, (part.strip() for part in text.split(";"))):
            name, _, value = part.partition("=")
            asked[name.strip()] = value.strip()
        headers = [_header(pair) for pair in asked.pop("headers", "").split(",") if pair.strip()]
        if (retry_after := asked.pop("retry-after", None)) is not None:
            headers.append(("retry-after", retry_after))
        faults = cls(
            status=_status(asked.pop("status", None)),
            delay_seconds=_seconds("delay", asked.pop("delay", None)) or 0.0,
            pace_seconds=_seconds("pace", asked.pop("pace", None)),
            cut_bytes=_count("cut", asked.pop("cut", None)),
            drop=asked.pop("drop", None) is not None,
            headers=tuple(headers),
        )
        if asked:
            raise ValueError(f"x-simulate does not know {', '.join(sorted(asked))}")
        return faults


def _header(pair: str) -> tuple[str, str]:
    name, colon, value = pair.partition(":")
    decoded = unquote(value.strip())
    if not colon or not name.strip() or not decoded.isprintable():
        raise ValueError("x-simulate: headers must read name:value,name:value")
    return name.strip(), decoded


def _status(text: str | None) -> int | None:
    status = _count("status", text)
    if status is not None and not 400 <= status <= 599:
        raise ValueError("x-simulate: status must be between 400 and 599")
    return status


def _count(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"x-simulate: {name} must be a whole number")
    return int(text)


def _seconds(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 3600:
        raise ValueError(f"x-simulate: {name} must be a number of seconds up to 3600")
    return seconds
