"""What `gateway check --live` finds: from whose account the upstream answers each tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import aiohttp
import orjson

from gateway.cli.drawing import shown
from gateway.credentials.unasked import unasked
from gateway.policy.accounts import account_said
from gateway.policy.tenants import TenantPolicy, UpstreamAccess
from gateway.proxy.identity_endpoint import NothingGranted, WayOut, ask_endpoint
from gateway.settings.certificates import trusted_certificates
from gateway.settings.section import revealed
from gateway.settings.upstream import Upstream
from gateway.settings.workload_identity import WorkloadIdentity

_AT_ONCE = 8
_SECONDS = 10.0
_MOST_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class LiveAnswer:
    """What the upstream said to one tenant."""

    tenant: TenantPolicy
    named: str | None
    """What it calls the account; None where it does not say."""

    refused: str | None
    """What is wrong with the way there, or with the key."""

    odd: str | None
    """What is strange about the answer, and need not be wrong."""

    models: int | None
    """How many it lists."""

    @property
    def words(self) -> str:
        """The answer in a line."""
        said = self.refused or self.named or "the upstream does not say whose account it is"
        models = "" if self.models is None else f"; {self.models:,} models"
        return f"{self.tenant.id}: {said}{models}"


async def ask_all(upstream: Upstream, policies: Mapping[str, TenantPolicy]) -> list[LiveAnswer]:
    """Ask for the list of models once for each way upstream that an enabled tenant has."""
    enabled = [policy for policy in policies.values() if policy.settings.enabled]
    ways = list({policy.access: policy for policy in enabled}.values())
    turn = asyncio.Semaphore(_AT_ONCE)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=trusted_certificates(upstream.ca_file)),
        timeout=aiohttp.ClientTimeout(total=_SECONDS, sock_connect=upstream.connect_timeout_seconds),
        proxy=revealed(upstream.http_proxy),
    ) as session:

        async def opened(identity: WorkloadIdentity) -> str | NothingGranted:
            async with turn:
                try:
                    return (await ask_endpoint(identity, WayOut.of(upstream))).key
                except NothingGranted as nothing:
                    return nothing

        identities = list({way.access.identity for way in ways if way.access.identity is not None})
        keys = dict(zip(identities, await asyncio.gather(*map(opened, identities)), strict=True))

        async def ask(way: TenantPolicy) -> LiveAnswer:
            access = way.access
            if access.identity is not None:
                key = keys[access.identity]
                if isinstance(key, NothingGranted):
                    return LiveAnswer(way, None, f"nothing opens its upstream: {key}", None, None)
                access = replace(access, api_key=key)
            async with turn:
                return await _ask(session, way, access)

        said = {answer.tenant.access: answer for answer in await asyncio.gather(*map(ask, ways))}
    return [replace(said[policy.access], tenant=policy) for policy in enabled]


async def _ask(session: aiohttp.ClientSession, way: TenantPolicy, access: UpstreamAccess) -> LiveAnswer:
    """`access`: the tenant's way, with what opens it."""
    fields = [(name.decode(), value.decode()) for name, value in access.fields]
    if access.authorization is not None:
        fields.append(("Authorization", access.authorization.decode()))
    url = f"{access.base_url}/models"
    try:
        async with session.get(url, headers=fields, allow_redirects=False) as answer:
            project, organization = (
                said.encode() if (said := answer.headers.get(name)) else None
                for name in ("openai-project", "openai-organization")
            )
            status = answer.status
            body = await answer.content.read(_MOST_BYTES) if status == 200 else b""
            return LiveAnswer(
                way,
                account_said(way.account, project, organization),
                f"its key is refused ({status})" if status in (401, 403) else None,
                None if status in (200, 401, 403) else _odd(url, status, answer.headers.get("location")),
                _models(body),
            )
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        why = f"the upstream cannot be reached: {unasked(error)}"
        return LiveAnswer(way, None, why, None, None)


def _odd(url: str, status: int, location: str | None) -> str:
    if location is not None:
        return (
            f"{url} is answered {status}, and leads to {shown(location)}: is upstream.base_url spelt right?"
        )
    if status == 404:
        return f"{url} is answered 404: does upstream.base_url end as the API's does, in /v1 mostly?"
    return f"{url} is answered {status}"


def _models(body: bytes) -> int | None:
    """How many a list has; None where it is none."""
    try:
        data = orjson.loads(body)["data"]
    except (ValueError, LookupError, TypeError):
        return None
    return len(data) if isinstance(data, list) else None


def mistaken(answers: Sequence[LiveAnswer]) -> Iterator[str]:
    """Tenants that count as apart, and are not."""
    for named, tenants in _by_account(answers):
        if len(tenants) > 1 and any(tenant.apart for tenant in tenants):
            yield (
                f"{', '.join(tenant.id for tenant in tenants)} have one upstream account ({named}), yet "
                f"{', '.join(tenant.id for tenant in tenants if tenant.apart)} counts as having one of its own: what "
                "is stored there can be reached by all of them. Give each a project of its own, or take back "
                'stored_objects = "own".'
            )


def separable(answers: Sequence[LiveAnswer]) -> Iterator[str]:
    """Tenants to whom not all that is stored is open although the upstream names them an account that no other has."""
    for named, tenants in _by_account(answers):
        if len(tenants) == 1 and tenants[0].closed is not None and tenants[0].settings.stored_objects is None:
            yield (
                f"{tenants[0].id}: to no other tenant of this configuration does the upstream name {named}; unless "
                f'another had it before, stored_objects = "own" under [tenants.{tenants[0].id}] would be true.'
            )


def _by_account(answers: Sequence[LiveAnswer]) -> Iterator[tuple[str, list[TenantPolicy]]]:
    told = sorted((answer.named, answer.tenant.id, answer.tenant) for answer in answers if answer.named)
    for named, group in groupby(told, key=lambda entry: entry[0]):
        yield named, [tenant for _, _, tenant in group]
