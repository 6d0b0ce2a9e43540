"""Where an answer leads: what points into the upstream leads to the gateway instead, or nowhere (rewrite (f)).

What stands under the upstream's base URL stands under `/v1` here, and is said without scheme and host: the client knows
better under which name it reaches us. What is on the upstream and not under its base URL cannot be reached through the
gateway. Other servers are none of our business: a file may well lie on one.

Source: RFC 3986, sections 3, 5.2 and 6.2.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LEADING = frozenset(
    {b"azure-asyncoperation", b"content-location", b"link", b"location", b"operation-location"}
)
"""Fields whose values are references, in lower case; that of Link is a list of them."""

_HERE = b"/v1"
_PARTS = re.compile(rb"(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(.*)", re.DOTALL)
_READ_DIFFERENTLY = re.compile(rb"[\x00-\x1f\x7f]|^ |^[^?#]*\\")
"""Browsers pass over such characters, and read a backslash as a slash: a host may lie behind it."""

_AUTHORITY = re.compile(rb"(?:[^@]*@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~-]+)(?::([0-9]*))?")
"""Only what names one host to everybody."""

_WEB = frozenset({b"http", b"https", b"ws", b"wss"})
_USUAL_PORTS = frozenset({b"", b"80", b"443"})
"""With or without TLS, as whoever stands in front of the upstream has it: it may know no better."""

_LINK = re.compile(rb"\s*<([^>]*)>((?:[^,\"]|\"[^\"]*\")*),?")


class Origin(NamedTuple):
    """An upstream as its own references name it."""

    host: bytes
    """In lower case."""

    port: bytes
    path: bytes
    """Of the base URL, without a slash at its end: what `/v1` is there."""

    def led_back(self, name: bytes, value: bytes, target: bytes) -> bytes | None:
        """What a client is told in place of a field's value; None: nothing.

        `name` is one of `LEADING`; `target` is what the client asked for.
        """
        if name != b"link":
            return self._reference(value, target)
        links = []
        at = 0
        while at < len(value):
            link = _LINK.match(value, at)
            if link is None:
                return None  # nobody knows where it leads
            at = link.end()
            reference = self._reference(link[1], target)
            if reference is not None:
                links.append(b"<%b>%b" % (reference, link[2].rstrip()))
        return b", ".join(links) or None

    def _reference(self, reference: bytes, target: bytes) -> bytes | None:
        if _READ_DIFFERENTLY.search(reference):
            return None
        parts = _PARTS.fullmatch(reference)
        assert parts is not None  # it matches anything
        scheme, authority, path, rest = parts.groups()
        if scheme is not None and scheme.lower() not in _WEB:
            return reference
        if authority is not None:
            named = _AUTHORITY.fullmatch(authority)
            if named is None:
                return None
            if not self._is(named[1], named[2] or b""):
                return reference
        elif scheme is not None:
            return None  # every reader makes something else of it
        elif not path:
            return reference  # what was asked for itself
        there = self._at(target)
        if not path.startswith(b"/") and authority is None:
            path = there[: there.rfind(b"/") + 1] + path
            if b"/." not in path:
                return reference  # beside what was asked for, here as there
        path = _without_dots(path) or b"/"
        base = self.path
        if not path.startswith(base) or path[len(base) : len(base) + 1] not in (b"", b"/"):
            return None
        return _HERE + path[len(base) :] + rest

    def _is(self, host: bytes, port: bytes) -> bool:
        port = port.lstrip(b"0")
        same = host.lower().removesuffix(b".") == self.host.removesuffix(b".")
        return same and (port == self.port or port in _USUAL_PORTS)

    def _at(self, target: bytes) -> bytes:
        """The path there of what was asked for here."""
        return self.path + target.partition(b"?")[0][len(_HERE) :]


def _without_dots(path: bytes) -> bytes:
    """A path without its dot segments, in any spelling."""
    if b"/." not in path and b"/%2" not in path:
        return path
    kept: list[bytes] = []
    segments = path.split(b"/")
    for segment in segments:
        plain = segment.lower().replace(b"%2e", b".")
        if plain == b"..":
            if len(kept) > 1:
                kept.pop()
        elif plain != b".":
            kept.append(segment)
    if segments[-1].lower().replace(b"%2e", b".") in (b".", b".."):
        kept.append(b"")
    return b"/".join(kept)
