"""What is said to Redis, and what comes back: words as bytes, replies, and errors that are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import hiredis

Argument = str | bytes | int
Reply = Any
"""What a command may answer: an integer, bytes, None, or a list of replies."""

NOT_YET: Final = object()
"""No whole reply has come."""


class RedisError(Exception):
    """Redis refused what it was asked."""


class ScriptUnknown(RedisError):
    """The server has not seen the text of this script, and ran nothing."""


class ReadOnly(RedisError):
    """The server is a replica."""


class AskElsewhere(RedisError):
    """The key is on its way to another node of the cluster."""


class Moved(AskElsewhere):
    """Another node of the cluster serves the key."""

    @property
    def address(self) -> tuple[str, int]:
        """That node; its host is empty where it is the one that was asked."""
        host, _, port = str(self).rpartition(" ")[2].rpartition(":")
        return host.strip("[]"), int(port)


_KINDS: dict[str, type[RedisError]] = {
    "NOSCRIPT": ScriptUnknown,
    "READONLY": ReadOnly,
    "MOVED": Moved,
    "ASK": AskElsewhere,
}


def reader() -> hiredis.Reader:
    """What finds replies in bytes; errors among them are `RedisError`."""
    return hiredis.Reader(replyError=_error, notEnoughData=NOT_YET)


def pack(*words: Argument) -> bytes:
    """A command as it goes over the wire."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # any sequence will do
    return packed


def _error(text: str) -> RedisError:
    word, _, rest = text.partition(" ")
    kind = _KINDS.get(word)
    return RedisError(text) if kind is None else kind(rest)


def addresses_of(ranges: Sequence[Reply], asked: tuple[str, int]) -> list[tuple[int, int, tuple[str, int]]]:
    """Who serves which slots, from the reply to CLUSTER SLOTS; a node without a name is the one that was asked."""
    found = []
    for first, last, (name, port, *_), *_ in ranges:
        host = name.decode() if name else ""
        found.append((first, last, (host if host not in ("", "?") else asked[0], int(port))))
    return found
