"""The upstream's administration, asked with the operator's admin key: patient, and honest about what it cannot know.

What may be asked twice is, after a failure. What may not, making something, is given up as unclear: whoever asked looks
at what has become of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import orjson

from gateway.cli.drawing import shown
from gateway.credentials.unasked import unasked

JsonObject = dict[str, Any]

MOST_WAIT_SECONDS = 60.0
"""That an upstream may ask for before it is asked again."""

_TRIES = 5
_FIRST_PAUSE_SECONDS = 0.25
_ANSWER_SECONDS = 30.0
_MOST_BYTES = 2**24
_MOST_SAID = 300
_PAGE = 100
_MOST_PAGES = 1_000


class Refused(Exception):
    """What the upstream will not do. The message is for the operator."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unclear(Exception):
    """It may have been done or not: no answer came, or one that says neither. The message says why."""


class Unavailable(Exception):
    """The upstream does not answer, however often it is asked."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    retry_after_seconds: float | None

    @property
    def is_busy(self) -> bool:
        return self.status == HTTPStatus.TOO_MANY_REQUESTS

    @property
    def is_failure(self) -> bool:
        return self.status >= HTTPStatus.INTERNAL_SERVER_ERROR or self.status == HTTPStatus.REQUEST_TIMEOUT


class AdminApi:
    """What is asked below `/organization`; paths begin behind that."""

    def __init__(
        self, session: aiohttp.ClientSession, base_url: str, admin_key: str, *, tell: Callable[[str], None]
    ) -> None:
        self._session = session
        self._root = f"{base_url}/organization"
        self._admin_key = admin_key
        self._tell = tell

    async def read(self, path: str, **query: str | int) -> JsonObject:
        """An object, or a page of a list. Raises Refused, Unavailable."""
        return await self._patiently("GET", path + (f"?{urlencode(query)}" if query else ""), None)

    async def all(self, path: str, **query: str) -> list[JsonObject]:
        """Every entry of a list, page by page. Raises Refused, Unavailable."""
        entries: list[JsonObject] = []
        after: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            page = await self.read(path, limit=_PAGE, **query, **after)
            data = page.get("data")
            if not isinstance(data, list) or not all(isinstance(one, dict) and "id" in one for one in data):
                raise Unavailable(f"{self._root}{path} is answered by what is no list; is it the Admin API?")
            entries += data
            if not page.get("has_more") or not data:
                return entries
            last = str(page.get("last_id") or data[-1]["id"])
            if after.get("after") == last:
                break
            after = {"after": last}
        raise Unavailable(f"{self._root}{path} is a list that does not end")

    async def change(self, path: str, body: Mapping[str, object]) -> JsonObject:
        """Set what may be set twice. Raises Refused, Unavailable."""
        return await self._patiently("POST", path, body)

    async def delete(self, path: str) -> None:
        """Delete what is there; what is not, is. Raises Refused, Unavailable."""
        try:
            await self._patiently("DELETE", path, None)
        except Refused as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise

    async def make(self, path: str, body: Mapping[str, object]) -> JsonObject:
        """Make something, once at most. Raises Refused, Unavailable, and Unclear where it may be there now."""
        for number in range(_TRIES):
            try:
                answer = await self._ask("POST", path, body)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                raise Unclear(_reason(error)) from None
            if answer.is_failure:
                await self._rest(number, answer, f"{answer.status}")
                raise Unclear(f"it answered {answer.status}{_said(answer, self._admin_key)}")
            if not answer.is_busy:
                return self._object(path, answer, makes=True)
            await self._rest(number, answer, "it is busy (429)")
        raise Unavailable("the upstream is too busy (429): run this again later")

    async def _patiently(self, method: str, path: str, body: Mapping[str, object] | None) -> JsonObject:
        why = ""
        for number in range(_TRIES):
            try:
                answer = await self._ask(method, path, body)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                why = _reason(error)
                await self._rest(number, None, why)
                continue
            if not answer.is_failure and not answer.is_busy:
                return self._object(path, answer, makes=False)
            why = f"it answers {answer.status}{_said(answer, self._admin_key)}"
            await self._rest(number, answer, why)
        raise Unavailable(f"the upstream cannot be asked: {why}. Run this again: it goes on where it is")

    async def _ask(self, method: str, path: str, body: Mapping[str, object] | None) -> _Answer:
        headers = {"Authorization": f"Bearer {self._admin_key}", "Accept": "application/json"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = orjson.dumps(body)
        async with self._session.request(
            method, f"{self._root}{path}", headers=headers, data=data, allow_redirects=False
        ) as answer:
            read = await answer.content.read(_MOST_BYTES)
            while len(read) < _MOST_BYTES and (piece := await answer.content.read(_MOST_BYTES)):
                read += piece
            return _Answer(answer.status, read, _seconds(answer.headers.get("Retry-After")))

    async def _rest(self, number: int, answer: _Answer | None, why: str) -> None:
        """Wait before the next try: as long as the upstream asks for, else longer each time."""
        asked = None if answer is None else answer.retry_after_seconds
        if asked is not None and asked > MOST_WAIT_SECONDS:
            raise Unavailable(
                f"the upstream asks to be left alone for {asked:g} seconds: run this again then"
            )
        if number == _TRIES - 1:
            return
        seconds = _FIRST_PAUSE_SECONDS * 2**number if asked is None else asked
        if seconds >= 1:
            self._tell(f"the upstream: {why}; asking again in {seconds:g} s")
        await asyncio.sleep(seconds)

    def _object(self, path: str, answer: _Answer, *, makes: bool) -> JsonObject:
        said = _said(answer, self._admin_key)
        match answer.status:
            case 200 | 201:
                pass
            case 401:
                raise Refused(
                    401,
                    f"the upstream does not accept the admin key (401){said}. It is made under the organization's "
                    "settings, and is no project's key: see upstream.admin_api_key",
                )
            case 403:
                raise Refused(403, f"the admin key may not do this: {self._root}{path} is answered 403{said}")
            case 404:
                raise Refused(404, f"{self._root}{path} is not there (404){said}")
            case status:
                raise Refused(status, f"the upstream refuses it ({status}){said}")
        try:
            found = orjson.loads(answer.body)
            if isinstance(found, dict):
                return found
        except ValueError:
            pass
        trouble = "the upstream's answer is no JSON object"
        raise Unclear(trouble) if makes else Unavailable(f"{trouble}; does its base_url lead to an API?")


async def keeps_trying(ask: Callable[[], Awaitable[bool]], *, for_seconds: float) -> bool:
    """Whether something becomes true in so long a time; it is asked a few times a second, then less often."""
    loop = asyncio.get_running_loop()
    end, pause = loop.time() + for_seconds, _FIRST_PAUSE_SECONDS
    while not await ask():
        if loop.time() + pause > end:
            return False
        await asyncio.sleep(pause)
        pause = min(2 * pause, 4.0)
    return True


def below(*parts: str) -> str:
    """A path of ids, each as one segment whatever is in it."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _seconds(retry_after: str | None) -> float | None:
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:  # a date: its like is not worth a clock
        return None
    return seconds if 0 <= seconds < float("inf") else None


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {_ANSWER_SECONDS:g} seconds"
    return shown(unasked(error))


def _said(answer: _Answer, secret: str) -> str:
    """What the upstream says of it, without our key."""
    try:
        message = str(orjson.loads(answer.body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return ""
    message = message.replace(secret, "…")[:_MOST_SAID].rstrip(" .")
    return f": {shown(message)}"


def timeout(connect_seconds: float) -> aiohttp.ClientTimeout:
    """How long one answer may take."""
    return aiohttp.ClientTimeout(total=_ANSWER_SECONDS, sock_connect=connect_seconds)
