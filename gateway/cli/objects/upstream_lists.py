"""What an upstream lists of a kind, asked as a tenant would be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, NamedTuple

import aiohttp
import orjson

from gateway.credentials.unasked import unasked
from gateway.policy.tenants import TenantPolicy, UpstreamAccess
from gateway.proxy.identity_endpoint import NothingGranted, WayOut, ask_endpoint
from gateway.settings.certificates import trusted_certificates
from gateway.settings.section import revealed
from gateway.settings.upstream import Upstream

_SECONDS: Final = 30.0
_MOST_BYTES: Final = 2**26
_MOST_PAGES: Final = 1000
_PER_PAGE: Final = 100


class ListUnread(Exception):
    """The list could not be read; says why."""


class Listed(NamedTuple):
    """An object as a list has it."""

    id: str
    created_at: float


async def listed_since(upstream: Upstream, policy: TenantPolicy, path: str, since: float) -> list[Listed]:
    """What an upstream lists that was created since then, newest first. Raises ListUnread."""
    access = await _opened(upstream, policy.access)
    found = list[Listed]()
    after: str | None = None
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trusted_certificates(upstream.ca_file)),
        timeout=aiohttp.ClientTimeout(total=_SECONDS, sock_connect=upstream.connect_timeout_seconds),
        proxy=revealed(upstream.http_proxy),
    ) as session:
        for _ in range(_MOST_PAGES):
            page = await _page(session, access, path, after)
            objects = [_listed(one) for one in page.get("data") or ()]
            found += [one for one in objects if one.created_at >= since]
            if not objects or not page.get("has_more") or objects[-1].created_at < since:
                return found
            after = objects[-1].id
    raise ListUnread(f"the list of {path} has no end")


async def _opened(upstream: Upstream, access: UpstreamAccess) -> UpstreamAccess:
    if access.identity is None:
        return access
    try:
        return replace(access, api_key=(await ask_endpoint(access.identity, WayOut.of(upstream))).key)
    except NothingGranted as nothing:
        raise ListUnread(f"nothing opens its upstream: {nothing}") from None


async def _page(
    session: aiohttp.ClientSession, access: UpstreamAccess, path: str, after: str | None
) -> dict[str, Any]:
    fields = [(name.decode(), value.decode()) for name, value in access.fields]
    if access.authorization is not None:
        fields.append(("Authorization", access.authorization.decode()))
    query = {"limit": str(_PER_PAGE), "order": "desc", **({} if after is None else {"after": after})}
    url = f"{access.base_url}{path.removeprefix('/v1')}"
    try:
        async with session.get(url, headers=fields, params=query, allow_redirects=False) as answer:
            if answer.status != 200:
                raise ListUnread(f"{url} is answered {answer.status}")
            body = await answer.content.read(_MOST_BYTES)
            while more := await answer.content.read(_MOST_BYTES - len(body)):
                body += more
            document = orjson.loads(body)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise ListUnread(f"{url} cannot be read: {unasked(error)}") from None
    if not isinstance(document, dict):
        raise ListUnread(f"{url} is answered by no list")
    return document


def _listed(one: object) -> Listed:
    if isinstance(one, dict):
        name, created = one.get("id"), one.get("created_at", one.get("created"))
        if isinstance(name, str) and isinstance(created, int | float):
            return Listed(name, float(created))
    raise ListUnread("the upstream's list has something without an id, or without a time of its creation")
