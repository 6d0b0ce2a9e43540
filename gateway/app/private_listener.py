"""The private listener: health, metrics and what operators look at, on a thread of its own: it delays nobody."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import threading
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import Future
from functools import partial

import orjson

from gateway.app.exposition import Exposition
from gateway.app.health import Condition, Health
from gateway.app.operator_pages import OperatorPages
from gateway.errors import ClientLeft
from gateway.proxy.acceptor import Acceptor, listening_sockets
from gateway.proxy.answer import Answer, broken_off, own_answer
from gateway.proxy.bites import Turns
from gateway.proxy.client_connections import ClientConnections
from gateway.proxy.edge import EdgeServer
from gateway.proxy.edge_state import EdgeDeadlines, EdgeEvents, EdgeState
from gateway.proxy.incoming_body import BodyDeadlines
from gateway.proxy.request import Request
from gateway.proxy.wheel import Wheel
from gateway.wire.passing import lines_of

_BACKLOG = 128
_CONNECTIONS = 16
_LINGERING = 8
PRIVATE_FILES = _CONNECTIONS + _LINGERING
"""What its connections take of the process's files."""

_DEADLINES = EdgeDeadlines(
    header_seconds=5.0, body=BodyDeadlines(5.0, 10.0), write_idle_seconds=10.0, keepalive_seconds=75.0
)
_MAX_HEADER_BYTES = 16 * 1024

_BY_ANY_NAME = frozenset({"/livez", "/readyz", "/metrics"})
"""Pages that whoever reaches this listener may have: Prometheus comes by whatever name its target has."""

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z._-]+))(?::[0-9]{0,5})?")

_TEXT = b"text/plain; charset=utf-8"


class PrivateListener:
    """Serves /livez, /readyz and /metrics. Keep it off the public network: it asks nobody who they are.

    What operators look at is theirs alone. That and anything else is answered only to who asks by address, as
    localhost or by one of the names it is known by: a web page that had its own name point here must not make a
    browser ask. It has connections and files of its own, so that it answers when the public listener has no more.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        exposition: Exposition,
        health: Health,
        operators: OperatorPages | None = None,
        names: Iterable[str] = (),
        refused: Callable[[], None] | None = None,
    ) -> None:
        """`refused` is told of connections for which there was no room."""
        self._host = host
        self._port = port
        self._exposition = exposition
        self._health = health
        self._operators = operators
        self._names = frozenset(map(_normal, names))
        self._refused = refused
        self._pages: dict[str, Callable[[Request], Awaitable[Answer]]] = {
            "/livez": self._livez,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
        }
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> int:
        """Listen; returns the port. Raises OSError when the address is taken."""
        listening: Future[int] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(listening,), name="gateway-private", daemon=True
        )
        self._thread.start()
        return listening.result()

    def stop(self) -> None:
        """Stop listening and wait for the thread."""
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        if self._thread is not None:
            self._thread.join()

    def _run(self, listening: Future[int]) -> None:
        # Accepting with reserved files needs a loop that can watch a socket which is listening.
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            runner.run(self._serve(listening))

    async def _serve(self, listening: Future[int]) -> None:
        stop = asyncio.Event()
        try:
            sockets = listening_sockets(self._host, self._port, backlog=_BACKLOG)
        except OSError as error:
            listening.set_exception(error)
            return
        server = self._server()
        acceptor = Acceptor(server, sockets, failed=lambda _: None, reserved=PRIVATE_FILES)
        self._loop, self._stop = asyncio.get_running_loop(), stop
        listening.set_result(int(sockets[0].getsockname()[1]))
        await stop.wait()
        acceptor.close()
        server.pre_shutdown()
        await server.shutdown(1.0)

    def _server(self) -> EdgeServer:
        refused = self._refused
        state = EdgeState(
            events=EdgeEvents(
                unseen=lambda *_: b"",
                refused=lambda _: None if refused is None else refused(),
                closed=lambda _: None,
            ),
            clients=ClientConnections(_CONNECTIONS, peer_share=0.5),
            most_lingering=_LINGERING,
            max_header_bytes=_MAX_HEADER_BYTES,
            deadlines=_DEADLINES,
            turns=Turns(),
            wheel=Wheel(),
        )
        return EdgeServer(self._answer, state)

    async def _answer(self, request: Request) -> Answer:
        answer = await self._page(request)
        answer.begin(request, None)
        try:
            await answer.write_eof(answer.content)
        except ClientLeft:
            return broken_off(request)
        return answer

    async def _page(self, request: Request) -> Answer:
        path = request.target.partition("?")[0]
        if path not in _BY_ANY_NAME and not self._is_us(_values(request, b"host")):
            return _text(421, "Ask by address, or name this host in admin_hosts.\n")
        page, operators = self._pages.get(path), self._operators
        if page is None and operators is not None and operators.have(path):
            page = partial(operators.answer, path=path)
        if page is None:
            return _text(404, "Not found.\n")
        if request.method not in ("GET", "HEAD"):
            return _text(405, "Only GET and HEAD.\n", (b"Allow", b"GET, HEAD"))
        return await page(request)

    def _is_us(self, hosts: list[str]) -> bool:
        """Whether a request was meant for this listener, and not for a name that somebody made lead here."""
        return len(hosts) == 1 and (_is_local(hosts[0]) or _normal(_without_port(hosts[0])) in self._names)

    async def _livez(self, _: Request) -> Answer:
        return _told(self._health.live())

    async def _readyz(self, _: Request) -> Answer:
        return _told(self._health.ready())

    async def _metrics(self, request: Request) -> Answer:
        accept, encoding = (", ".join(_values(request, name)) for name in (b"accept", b"accept-encoding"))
        page = await self._exposition.page(accept, encoding)
        fields = [(b"Vary", b"Accept, Accept-Encoding")]
        if page.content_encoding is not None:
            fields.append((b"Content-Encoding", page.content_encoding.encode()))
        return own_answer(
            200, page.body, content_type=page.content_type.encode(), lines=lines_of(tuple(fields))
        )


def _values(request: Request, name: bytes) -> list[str]:
    return [value.decode("latin-1") for field, value in request.fields if field.lower() == name]


def _told(condition: Condition) -> Answer:
    document = orjson.dumps(condition.document, option=orjson.OPT_APPEND_NEWLINE)
    return own_answer(200 if condition.ok else 503, document, lines=b"Cache-Control: no-store\r\n")


def _text(status: int, text: str, *fields: tuple[bytes, bytes]) -> Answer:
    return own_answer(status, text.encode(), content_type=_TEXT, lines=lines_of(fields))


def _without_port(host: str) -> str:
    """The name or address in a Host; empty where it is none."""
    found = _HOST.fullmatch(host)
    return "" if found is None else found[1] or found[2]


def _normal(name: str) -> str:
    return name.lower().removesuffix(".")


def _is_local(host: str) -> bool:
    """Whether a Host is an address, or the name of this machine for itself: nobody can have those point elsewhere."""
    name = _normal(_without_port(host))
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
