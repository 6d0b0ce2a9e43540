"""Which pages of browsers may read answers (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).

A browser sends with what a page asks for the page's origin, and shows the page only what names that origin, or all. Of
what a page could not send without a script it asks first, in a preflight, which has no credential. Cookies play no
part: a page has a credential, or it has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from gateway.wire.headers import NO_HEAD, FieldNames, RawFields, RequestHead

ANY = "*"
OPAQUE = "null"
"""The origin of pages that have none: files, sandboxed frames. They could be anybody's, so `*` does not mean them."""

_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_MOST_SECONDS = 7200
"""For how long a browser may remember a preflight: Chromium's own bound."""

_VARY = b"Vary: Origin\r\n"
_REMEMBERED = 1024


class Cors:
    """The origins that are allowed, and what is told to those and to all others."""

    def __init__(self, origins: Sequence[str], *, exposed: bytes) -> None:
        """`exposed`: the names of header fields of answers that pages may read, beside the few that they always may."""
        self._any = ANY in origins
        self._origins = frozenset(origin.encode("ascii") for origin in origins if origin != ANY)
        self._exposed = b"Access-Control-Expose-Headers: %b\r\n" % exposed
        self.unknown = (
            self._lines(None) if len(self._origins) != 1 or self._any else self._lines(*self._origins)
        )
        """What stands in an answer to a request whose origin nobody could read."""

    def judge(self, head: RequestHead) -> None:
        """Write into a request's head which lines every answer to it has; the origin of an allowed page stays here,
        for it has been judged.
        """
        at = head.names.first.get(b"origin")
        origin = None if at is None else head.fields[at][1]
        head.cors = self._lines(origin)
        if origin is not None and self._allows(origin):
            head.listed |= {b"origin"}

    def lines(self, fields: RawFields) -> bytes:
        """The lines of an answer to a request that could not be read."""
        return self._lines(_first(fields, b"origin"))

    def preflight(self, fields: RawFields) -> bytes | None:
        """The lines of the answer to a preflight of an allowed origin; None: it is none."""
        origin, method = _first(fields, b"origin"), _first(fields, b"access-control-request-method")
        if origin is None or method is None or not self._allows(origin):
            return None
        lines = self._allowed(origin) + b"Access-Control-Allow-Methods: %b\r\n" % _METHODS
        asked = _first(fields, b"access-control-request-headers")
        if asked:
            lines += b"Access-Control-Allow-Headers: %b\r\n" % asked
        return lines + b"Access-Control-Max-Age: %d\r\n" % _MOST_SECONDS

    def _lines(self, origin: bytes | None) -> bytes:
        if origin is not None and self._allows(origin):
            return self._allowed(origin) + self._exposed
        if self._any and origin is None:
            return b"Access-Control-Allow-Origin: *\r\n" + self._exposed
        return b"" if self._any else _VARY

    def _allowed(self, origin: bytes) -> bytes:
        if self._any and origin not in self._origins:
            return b"Access-Control-Allow-Origin: *\r\n"
        return b"Access-Control-Allow-Origin: %b\r\n" % origin + _VARY

    def _allows(self, origin: bytes) -> bool:
        return origin in self._origins or (self._any and origin != OPAQUE.encode())


def unread(lines: bytes) -> RequestHead:
    """Stands for a head that could not be read, whose answers have these lines."""
    head = RequestHead((), NO_HEAD.names)
    head.cors = lines
    return head


def said_by_upstream(names: FieldNames) -> frozenset[bytes]:
    """Of an upstream's answer the fields, in lower case, that say of its own who may read it."""
    return (_said if names.is_kept else _said.__wrapped__)(names)


@lru_cache(maxsize=_REMEMBERED)
def _said(names: FieldNames) -> frozenset[bytes]:
    return frozenset(name for name in names.lower if name.startswith(b"access-control-"))


def _first(fields: RawFields, name: bytes) -> bytes | None:
    return next((value for written, value in fields if written.lower() == name), None)
