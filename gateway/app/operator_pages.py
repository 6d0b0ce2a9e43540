"""What operators see on the private listener: the state as JSON, and a page of files that draws it."""

from __future__ import annotations

import zlib
from collections.abc import Awaitable, Callable, Mapping
from importlib import resources

from gateway.app.operators import Operators
from gateway.errors import GatewayError
from gateway.proxy.answer import Answer, own_answer
from gateway.proxy.request import Request
from gateway.wire.passing import lines_of

STATE = "/gateway/state"
_PAGE = "/gateway/"
_FILES = {
    _PAGE: ("page.html", b"text/html; charset=utf-8"),
    "/gateway/page.css": ("page.css", b"text/css; charset=utf-8"),
    "/gateway/page.js": ("page.js", b"text/javascript; charset=utf-8"),
    "/gateway/page.svg": ("page.svg", b"image/svg+xml"),
}
_LED_TO = frozenset({"/", _PAGE})
"""To these a link may lead; nothing of them can be read by whoever has made it."""

_GZIP = 16 + zlib.MAX_WBITS

_GUARDS = (
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    (b"X-Frame-Options", b"DENY"),
    (
        b"Content-Security-Policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
        b"trusted-types 'none'",
    ),
)
"""Nothing of these pages goes, or comes from, elsewhere, and nothing in them runs but their own file."""


class OperatorPages:
    """Answers operators, and nobody else."""

    def __init__(self, operators: Operators, *, told: Callable[[], Awaitable[bytes]]) -> None:
        """`told` makes the state as JSON."""
        self._operators = operators
        self._told = told
        self._plain = self._packed = b""
        folder = resources.files(__package__) / "page"
        self._files: Mapping[str, tuple[bytes, bytes]] = {
            path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
        }

    def have(self, path: str) -> bool:
        """Whether this is one of them."""
        return path in ("/", STATE) or path in self._files

    async def answer(self, request: Request, path: str) -> Answer:
        """The page, or why whoever asks may not have it."""
        try:
            self._operators.check(request, may_be_led_to=path in _LED_TO)
        except GatewayError as refusal:
            return _refused(refusal)
        if path == "/":
            # Relative, for a proxy may show it elsewhere.
            return own_answer(302, b"", lines=lines_of(((b"Location", b"gateway/"), *_GUARDS)))
        if path == STATE:
            return await self._state(request)
        body, kind = self._files[path]
        return own_answer(200, body, content_type=kind, lines=lines_of(_GUARDS))

    async def _state(self, request: Request) -> Answer:
        body = await self._told()
        fields: tuple[tuple[bytes, bytes], ...] = (*_GUARDS, (b"Vary", b"Accept-Encoding"))
        if _takes_gzip(request):
            fields += ((b"Content-Encoding", b"gzip"),)
            body = self._packed_of(body)
        return own_answer(200, body, lines=lines_of(fields))

    def _packed_of(self, body: bytes) -> bytes:
        """The same, packed once for all who are told it."""
        if body is not self._plain:
            packer = zlib.compressobj(1, wbits=_GZIP)
            self._plain, self._packed = body, packer.compress(body) + packer.flush()
        return self._packed


def _refused(refusal: GatewayError) -> Answer:
    own = [(name.encode(), value.encode()) for name, value in refusal.headers()]
    return own_answer(refusal.status, refusal.body(), lines=lines_of((*own, *_GUARDS)))


def _takes_gzip(request: Request) -> bool:
    codings = b",".join(value for name, value in request.fields if name.lower() == b"accept-encoding")
    return any(coding.strip() == b"gzip" for coding in codings.lower().split(b","))
