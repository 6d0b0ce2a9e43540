"""A request target that is written as a URL, as some clients write it to whom their server looks like a proxy. Pure."""

from __future__ import annotations

import re

_URL = re.compile(r"(https?)://([^/?#]+)(.*)", re.IGNORECASE | re.DOTALL)
_PORTS = {"http": ":80", "https": ":443"}


def origin_form(target: str, host: str) -> str | None:
    """The target without scheme and authority, where that is the one that Host names; None: it is another's, or no URL.

    Who asks for another host takes us for a proxy (RFC 9112, section 3.2.2), which this is not.
    """
    url = _URL.fullmatch(target)
    if url is None:
        return None
    scheme, authority, rest = url.groups()
    port = _PORTS[scheme.lower()]
    if authority.lower().removesuffix(port) != host.lower().removesuffix(port):
        return None
    return rest if rest.startswith("/") else f"/{rest}"
