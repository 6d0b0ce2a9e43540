"""Asking gateways for their state, all at once; one that does not answer stops nobody."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from time import monotonic
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp
import orjson

from gateway.app.state import State
from gateway.cli.drawing import shown

PATH = "/gateway/state"
NO_GATEWAY = "what answers there is no gateway's private listener"
_ANSWER_SECONDS = 3.0
_MOST_BYTES = 16 * 2**20
_MOST_SAID = 200
_LISTS = ("workers", "tenants", "oldest", "slowest", "upstreams", "errors", "redis", "reasons")


@dataclass(frozen=True, slots=True)
class Answer:
    """What one gateway said when it was asked."""

    url: str
    at: float
    """When, by `time.monotonic`."""

    state: State | None
    """None where there is none, and `problem` says why."""

    problem: str | None = None

    @property
    def name(self) -> str:
        """What people call it."""
        return shown(self.url.partition("://")[2]) if self.state is None else shown(self.state["instance"])


def url_of(text: str) -> str:
    """The base URL of a private listener, as an operator writes it. Raises ValueError."""
    written = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(written)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
        parts = urlsplit("")
    if not named or parts.scheme not in ("http", "https") or not written.isprintable() or parts.query:
        raise ValueError(f"{shown(text)!r} is no private listener: expected http://HOST:PORT")
    if "@" in parts.netloc:
        raise ValueError("a key on the command line can be read in the process list; give it by --key")
    return written.rstrip("/").removesuffix(PATH)


class Gateways:
    """The gateways that are looked at."""

    def __init__(self, urls: list[str], *, key: str | None) -> None:
        self._urls = urls
        headers = {"Accept": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._session = aiohttp.ClientSession(
            headers=headers, timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS), read_bufsize=2**18
        )

    async def ask(self) -> list[Answer]:
        """What each says now, in the order of their URLs."""
        return await asyncio.gather(*map(self._ask, self._urls))

    async def close(self) -> None:
        """Hang up."""
        await self._session.close()

    async def _ask(self, url: str) -> Answer:
        try:
            async with self._session.get(f"{url}{PATH}", allow_redirects=False) as answer:
                body = await answer.content.read(_MOST_BYTES)
                while len(body) < _MOST_BYTES and (piece := await answer.content.read(_MOST_BYTES)):
                    body += piece
            if answer.status != 200:
                return Answer(url, monotonic(), None, _refusal(answer.status, body))
            return Answer(url, monotonic(), _state(body))
        except TimeoutError:
            return Answer(url, monotonic(), None, f"no answer within {_ANSWER_SECONDS:g} seconds")
        except aiohttp.ClientConnectorError as error:
            return Answer(url, monotonic(), None, _unreachable(error.os_error))
        except aiohttp.ClientError as error:
            return Answer(url, monotonic(), None, _cut(str(error) or type(error).__name__))
        except (ValueError, TypeError, KeyError):
            return Answer(url, monotonic(), None, NO_GATEWAY)


def _state(body: bytes) -> State:
    """The document, if it is one. Raises ValueError, TypeError or KeyError."""
    document: dict[str, Any] = orjson.loads(body)
    for name in _LISTS:
        if not all(isinstance(entry, dict) for entry in document[name]):
            raise TypeError
    for name in ("time", "started"):
        document[name] = float(document[name])
    for name in ("instance", "version"):
        document[name] = str(document[name])
    document["configuration"]["valid"] = bool(document["configuration"]["valid"])
    return cast(State, document)


def _refusal(status: int, body: bytes) -> str:
    """What it says in words, whatever it is that refuses."""
    try:
        return f"{status}: {_cut(orjson.loads(body)['error']['message'])}"
    except (ValueError, TypeError, KeyError):
        text = re.sub(r"\s+", " ", body[:1024].decode("utf-8", "replace")).strip()
        return f"{status}: {_cut(text)}" if text and not text.startswith("<") else f"{status} was answered"


def _unreachable(error: OSError) -> str:
    reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return f"cannot be reached: {_cut(reason)}"


def _cut(text: str) -> str:
    return shown(text if len(text) <= _MOST_SAID else text[:_MOST_SAID] + "…")
