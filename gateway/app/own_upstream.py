"""A gateway is not its own upstream: what in a configuration would have it ask itself.

What leads back by way of others shows on the way only: `credentials/deployment.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

from gateway.credentials import jws, realtime_secrets
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.keys import KeyProblem
from gateway.credentials.principal import CredentialError
from gateway.settings.section import Problem, SettingsInvalid, revealed, split_address
from gateway.settings.settings import Settings

Ip = IPv4Address | IPv6Address

_PORTS = {"http": 80, "https": 443}


def refuse_itself(settings: Settings) -> None:
    """Raise SettingsInvalid when some upstream is this gateway itself, or some key a credential of its own.

    May ask for the addresses of a name, but only of one that has the port of a listener.
    """
    try:
        ring = KeyRing.load(settings.keys_dir)
    except KeyProblem:
        ring = KeyRing([])  # it is made at the first start, or refused elsewhere
    problems = [*_places(settings), *_keys(settings, ring)]
    if problems:
        raise SettingsInvalid(problems)


def _places(settings: Settings) -> Iterator[Problem]:
    if settings.upstream.http_proxy is not None:
        return  # what an address means, the proxy decides
    urls = {"upstream.base_url": settings.upstream.base_url}
    for tenant_id, tenant in settings.tenants.items():
        if tenant.upstream.base_url is not None:
            urls[f"tenants.{tenant_id}.upstream.base_url"] = tenant.upstream.base_url
    for key, url in urls.items():
        for name, address in (("listen", settings.listen), ("admin_listen", settings.admin_listen)):
            if _leads_to(url, address):
                yield Problem(
                    key,
                    f"{url} is this gateway itself ({name} {address}). Name the API behind it; "
                    "a shell that talks to the gateway has OPENAI_BASE_URL set, which counts here too",
                )


def _keys(settings: Settings, ring: KeyRing) -> Iterator[Problem]:
    keys = {
        "upstream.api_key": settings.upstream.api_key,
        "upstream.admin_api_key": settings.upstream.admin_api_key,
    }
    for tenant_id, tenant in settings.tenants.items():
        keys[f"tenants.{tenant_id}.upstream.api_key"] = tenant.upstream.api_key
    for name, secret in keys.items():
        if _is_own(revealed(secret) or "", ring):
            yield Problem(
                name,
                "is a credential of this gateway, not a key of the API behind it; "
                "a shell that talks to the gateway has OPENAI_API_KEY set, which counts here too",
            )


def _is_own(key: str, ring: KeyRing) -> bool:
    """Whether the ring has signed or sealed it, expired or not."""
    if key.startswith(realtime_secrets.PREFIX):
        try:
            realtime_secrets.unseal(key, ring, now=0.0)
        except CredentialError:
            return False
        return True
    try:
        message = jws.split(key.encode("ascii"))
    except ValueError:
        return False
    kid = message.header.get("kid")
    signer = ring.get(kid) if isinstance(kid, str) else None
    return signer is not None and signer.verifies(message.signed, message.signature)


def _leads_to(url: str, address: str) -> bool:
    """Whether a base URL is served by whoever listens on this address."""
    parts = urlsplit(url)
    host, port = split_address(address)
    if not port or (parts.port or _PORTS[parts.scheme]) != port:
        return False
    asked = _addresses(parts.hostname or "")
    # To connect to no address in particular is to connect to this machine.
    asked |= {ip_address("127.0.0.1" if ip.version == 4 else "::1") for ip in asked if ip.is_unspecified}
    listening = _addresses(host)
    everywhere = {ip.version for ip in listening if ip.is_unspecified}
    return any(ip in listening or (ip.version in everywhere and _is_here(ip)) for ip in asked)


def _addresses(host: str) -> set[Ip]:
    """What a name stands for; nothing when nobody knows, which is no problem of ours."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    ips = [ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    return {(ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip for ip in ips}


def _is_here(ip: Ip) -> bool:
    """Whether an address is one of this machine's."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ip), 0))
    except OSError:
        return False
    return True
