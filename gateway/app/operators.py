"""Who may look at what runs: whoever is on this machine, and whoever has the operator's key.

Browsers ask for what other people's pages tell them to ask, with whatever address and password they have: what such a
page causes is refused, whoever's browser it is. A proxy on this machine speaks for others: what came through one is
not from here.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import time
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest

from gateway.app.operator_errors import CausedBySite, Elsewhere, KeyMissing, KeyWrong, for_script
from gateway.errors import LimitExceeded
from gateway.proxy.request import Request
from gateway.wire.addresses import peer_of

_WRONG_PER_MINUTE = 10
"""Of one address, or network: who guesses more is not listened to for a while."""

_MOST_PEERS = 1024
_MINUTE_SECONDS = 60.0

_FORWARDED = frozenset(
    {
        b"forwarded",
        b"via",
        b"x-real-ip",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"true-client-ip",
        b"client-ip",
        b"cdn-loop",
        b"x-request-id",
        b"x-scheme",
        b"x-amzn-trace-id",
    }
)
_FORWARDED_BEGIN = (
    b"x-forwarded",
    b"x-original-",
    b"x-envoy-",
    b"x-proxy",
    b"cf-",
    b"fastly-",
    b"fly-",
    b"l5d-",
)
"""What proxies add to what they pass on."""


class Operators:
    """Tells them from others. `key` is the operator's, None where there is none; asked anew for each request."""

    def __init__(
        self,
        key: Callable[[], str | None],
        *,
        refused: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`refused` counts who was not let in, by reason: `no_key`, `wrong_key`, `too_many` or `cross_site`."""
        self._key = key
        self._refused = refused
        self._clock = clock
        self._wrong: dict[str, int] = {}
        self._wrong_since = clock()

    def check(self, request: Request, *, may_be_led_to: bool = False) -> None:
        """Raise the error that answers a request of anybody else. `may_be_led_to`: links of others may lead here."""
        fields = _Fields(request)
        if not _is_of_our_page(fields, may_be_led_to=may_be_led_to):
            self._refused("cross_site")
            raise CausedBySite("Another site's page caused this request. Open the gateway's own page.")
        peer = _peer(request)
        # Nginx speaks HTTP/1.0 to what it passes on to and says no more of it, unless it is told to; browsers do not.
        if _is_loopback(peer) and not (fields.was_forwarded or request.http10):
            return
        self._check_key(fields, peer_of(peer) if peer else "")

    def _check_key(self, fields: _Fields, peer: str) -> None:
        key, shown = self._key() or None, fields.key  # an empty one, as an environment may have it, is none
        if key is None:
            self._refused("no_key")
            raise Elsewhere(
                "This is shown on the gateway's own machine alone. To see it from elsewhere, set admin_key."
            )
        if shown is None:
            self._refused("no_key")
            raise _challenging(
                fields,
                KeyMissing(
                    "From elsewhere this takes the operator's key (admin_key): as Bearer, or as the password of "
                    "Basic, whatever the user."
                ),
            )
        wait_seconds = self._wait_seconds(peer)
        if wait_seconds:
            self._refused("too_many")
            raise LimitExceeded(
                "Too many wrong keys came from this address. Try again in a minute.",
                type="requests",
                retry_after_seconds=wait_seconds,
                detail=f"{_WRONG_PER_MINUTE} wrong keys within a minute",
            )
        if not compare_digest(sha256(shown).digest(), sha256(key.encode()).digest()):
            self._refused("wrong_key")
            if peer in self._wrong or len(self._wrong) < _MOST_PEERS:
                self._wrong[peer] = self._wrong.get(peer, 0) + 1
            raise _challenging(fields, KeyWrong("This is not the operator's key."))

    def _wait_seconds(self, peer: str) -> float:
        """For how long nobody there is listened to; 0: they are."""
        now = self._clock()
        if now - self._wrong_since >= _MINUTE_SECONDS:
            self._wrong.clear()
            self._wrong_since = now
        if self._wrong.get(peer, 0) < _WRONG_PER_MINUTE:
            return 0.0
        return self._wrong_since + _MINUTE_SECONDS - now


class _Fields:
    """What of a request's fields matters here."""

    def __init__(self, request: Request) -> None:
        self._fields = [(name.lower(), value) for name, value in request.fields]

    def of(self, name: bytes) -> list[str]:
        """Every value of a field."""
        return [value.decode("latin-1").strip() for field, value in self._fields if field == name]

    @property
    def was_forwarded(self) -> bool:
        """Whether a proxy has passed it on."""
        return any(name in _FORWARDED or name.startswith(_FORWARDED_BEGIN) for name, _ in self._fields)

    @property
    def key(self) -> bytes | None:
        """The key that is shown, right or wrong; None: none."""
        values = self.of(b"authorization")
        if len(values) != 1:
            return None if not values else b""
        scheme, _, rest = values[0].partition(" ")
        rest = rest.strip()
        match scheme.lower():
            case "bearer":
                return rest.encode("latin-1")
            case "basic":
                try:
                    return base64.b64decode(rest, validate=True).partition(b":")[2]
                except (ValueError, binascii.Error):
                    return b""
            case _:
                return b""


def _challenging(fields: _Fields, error: KeyMissing | KeyWrong) -> KeyMissing | KeyWrong:
    if fields.of(b"sec-fetch-dest") == ["empty"]:
        for_script(error)
    return error


def _is_of_our_page(fields: _Fields, *, may_be_led_to: bool) -> bool:
    """Whether no other site's page has caused it, as far as browsers say so; who is no browser says nothing."""
    hosts = fields.of(b"host")
    for origin in fields.of(b"origin"):
        scheme, separator, host = origin.partition("://")
        if not separator or scheme not in ("http", "https") or [host] != hosts:
            return False
    for site in fields.of(b"sec-fetch-site"):
        if site in ("same-origin", "none"):
            continue
        is_led = fields.of(b"sec-fetch-mode") == ["navigate"] and fields.of(b"sec-fetch-dest") == ["document"]
        if not (may_be_led_to and is_led):
            return False
    return True


def _peer(request: Request) -> str:
    transport = request.connection.transport
    address = None if transport is None else transport.get_extra_info("peername")
    return str(address[0]) if isinstance(address, tuple) else ""


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
