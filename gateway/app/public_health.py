"""Health on the public listener, for load balancers that reach nothing else: a status, and no details.

Answered before there is an exchange, so it needs no credential and no permit, and leaves no line in the log. It costs
less than a refusal does, and waits for nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.errors import ClientLeft
from gateway.operations.own import LIVEZ, READYZ
from gateway.proxy.answer import Answer, broken_off, own_answer
from gateway.proxy.handler import Handler
from gateway.proxy.request import Request
from gateway.proxy.request_heads import HTTP10, HTTP11
from gateway.wire.headers import offers_websocket

_NO_STORE = b"Cache-Control: no-store\r\n"


def health_first(
    handler: Handler, *, ready: Callable[[], bool], answered: Callable[[str, str], None]
) -> Handler:
    """Put in front of the handler of exchanges what answers health checks; `answered` is told which, and how."""

    def asked(request: Request) -> Awaitable[Answer]:
        known = request.known
        # What an exchange was made of once has been found to be no such check.
        if known.match is None and known.method in ("GET", "HEAD") and known.version in (HTTP11, HTTP10):
            path = known.target.partition("?")[0]
            if path in (LIVEZ, READYZ):
                return tell(request, path)
        return handler(request)

    async def tell(request: Request, path: str) -> Answer:
        if path == LIVEZ:  # the loop turns, or nobody would be told
            answer = own_answer(200, b'{"status":"live"}\n', lines=_NO_STORE)
        elif ready():
            answer = own_answer(200, b'{"status":"ready"}\n', lines=_NO_STORE)
        else:
            answer = own_answer(503, b'{"status":"not ready"}\n', lines=_NO_STORE)
        answered(path.rpartition("/")[2], str(answer.status))
        if request.stated_bytes or any(map(_announces_more, request.fields)):
            answer.keep_alive = False  # nobody has judged what stands behind
        answer.begin(request, None)
        try:
            await answer.write_eof(answer.content)
        except ClientLeft:
            return broken_off(request)
        return answer

    return asked


def _announces_more(field: tuple[bytes, bytes]) -> bool:
    """Whether a body follows in a coding, which may be one that is not known here, or frames of a WebSocket may."""
    name = field[0].lower()
    return name == b"transfer-encoding" or (name == b"upgrade" and offers_websocket(field[1]))
