"""Addresses of clients: how they are written, whose they are, and what proxies say of them. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from gateway.wire.headers import RequestHead

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

_X_FORWARDED_FOR, _FORWARDED = b"x-forwarded-for", b"forwarded"
_MOST_HOPS = 32
_MOST_CHARACTERS = 64
"""Of one address, with a port and whatever else may stand there."""

_REMEMBERED = 4096
"""Clients behind proxies whose addresses are kept read."""

_MOST_REMEMBERED = 256
"""Bytes of what is said of one that is kept: clients may write what they like before what proxies add."""


def address_of(text: str) -> Address | None:
    """The address in a text, without its zone, and IPv4 as such; None: there is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def written(host: str) -> str | None:
    """The address of a peer as it is written everywhere; None where nobody knows it."""
    if ":" not in host:
        return host or None  # of IPv4 the kernel knows one spelling only
    address = address_of(host)
    return None if address is None else str(address)


def peer_of(host: str) -> str:
    """Who an address is: of IPv6 the network of 64 bits, for its holder has all addresses in it."""
    return host if ":" not in host else _network_of(host)


# Who is refused on a connection that goes on is asked for again and again, and this takes 25 µs.
@lru_cache(maxsize=1024)
def _network_of(host: str) -> str:
    address = address_of(host)
    if isinstance(address, IPv6Address):
        return str(IPv6Network((int(address) >> 64 << 64, 64)))
    return str(address)


class Proxies:
    """Networks of proxies: what one of them says of whom it asks for is believed, and nobody else's word is.

    Each proxy adds behind what is there the address that asked it. So the last one is true where a trusted proxy wrote
    it, the one before where that one's own is trusted too, and so on; what stands further to the front anybody may
    have written.
    """

    def __init__(self, networks: Iterable[Network], field: str = "") -> None:
        """`field`: the only one that they write, in lower case; without, X-Forwarded-For, or Forwarded if that is not
        there."""
        self._networks = tuple(networks)
        self._fields = (field.encode(),) if field else (_X_FORWARDED_FOR, _FORWARDED)
        self._known: dict[tuple[str, bytes, Sequence[bytes]], str] = {}

    def trusts(self, host: str | None) -> bool:
        """Whether what is connected from there is one of these proxies."""
        if not self._networks or not host:
            return False
        address = address_of(host)
        return address is not None and self._has(address)

    def client(self, proxy: str, head: RequestHead) -> str:
        """The address of the client for whom this proxy, which is trusted, asks; its own where it does not say."""
        names = head.names
        for field in self._fields:
            if field in names.first:
                break
        else:
            return proxy
        values = tuple(head.fields[at][1] for at in names.all_of(field))
        key = proxy, field, values
        client = self._known.get(key)
        if client is None:
            if sum(map(len, values)) > _MOST_REMEMBERED:
                return self._walked(proxy, field, values)
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            client = self._known[key] = self._walked(proxy, field, values)
        return client

    def _walked(self, proxy: str, field: bytes, values: Sequence[bytes]) -> str:
        believed = proxy
        # From the end, and at every comma: a quotation mark that a client has left open must not hide what proxies add.
        for element in reversed(b",".join(values).rsplit(b",", _MOST_HOPS)[-_MOST_HOPS:]):
            node = _in_forwarded(element) if field == _FORWARDED else element
            address = _node(node.decode("latin-1").strip(" \t"))
            if address is None:
                return believed
            believed = str(address)
            if not self._has(address):
                return believed
        return believed

    def _has(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


NO_PROXIES = Proxies(())
"""Nobody's word is believed."""


def _in_forwarded(element: bytes) -> bytes:
    """The node that an element of Forwarded is about (RFC 7239, section 5.2); empty where it names none, or several."""
    nodes = [
        value
        for name, _, value in (pair.partition(b"=") for pair in element.split(b";"))
        if name.strip().lower() == b"for"
    ]
    return nodes[0] if len(nodes) == 1 else b""


def _node(text: str) -> Address | None:
    """The address of a node, which may be in quotes or brackets and have a port; None for anything else."""
    if len(text) > _MOST_CHARACTERS:
        return None
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1]
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
        address = address_of(text)
        return address if ":" in text else None
    if text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(f":{port}"):
            return None
    return address_of(text)


def _is_port(text: str) -> bool:
    return text[:1] == ":" and text[1:].isascii() and text[1:].isdigit() and len(text) <= len(":65535")
