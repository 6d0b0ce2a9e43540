"""What `gateway check --live` finds: from whose account the upstream answers each tenant."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import aiohttp

from gateway.policy.accounts import account_said
from gateway.policy.tenants import TenantPolicy, UpstreamAccess
from gateway.settings.certificates import trusted_certificates
from gateway.settings.section import revealed
from gateway.settings.upstream import Upstream

_AT_ONCE = 8
_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class LiveAnswer:
    """What the upstream said to one tenant."""

    tenant: TenantPolicy
    named: str | None
    """What it calls the account; None where it does not say."""

    refused: str | None
    """What is wrong with the way there, or with the key."""

    @property
    def words(self) -> str:
        """The answer in a line."""
        return f"{self.tenant.id}: {self.refused or self.named or 'the upstream does not say whose account it is'}"


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

        async def ask(way: TenantPolicy) -> tuple[UpstreamAccess, str | None, str | None]:
            async with turn:
                return way.access, *await _ask(session, way)

        said = {access: rest for access, *rest in await asyncio.gather(*map(ask, ways))}
    return [LiveAnswer(policy, *said[policy.access]) for policy in enabled]


async def _ask(session: aiohttp.ClientSession, way: TenantPolicy) -> tuple[str | None, str | None]:
    fields = [(name.decode(), value.decode()) for name, value in way.access.fields]
    if way.access.authorization is not None:
        fields.append(("Authorization", way.access.authorization.decode()))
    url = f"{way.access.base_url}/models"
    try:
        async with session.get(url, headers=fields, allow_redirects=False) as answer:
            project, organization = (
                said.encode() if (said := answer.headers.get(name)) else None
                for name in ("openai-project", "openai-organization")
            )
            refused = answer.status in (401, 403)
            return (
                account_said(way.account, project, organization),
                f"its key is refused ({answer.status})" if refused else None,
            )
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        return None, f"the upstream cannot be reached: {error or type(error).__name__}"


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
    """Tenants to whom stored objects are closed although the upstream names them an account that no other has."""
    for named, tenants in _by_account(answers):
        if len(tenants) == 1 and tenants[0].closed is not None:
            yield (
                f"{tenants[0].id}: to no other tenant of this configuration does the upstream name {named}; unless "
                f'another had it before, stored_objects = "own" under [tenants.{tenants[0].id}] would be true.'
            )


def _by_account(answers: Sequence[LiveAnswer]) -> Iterator[tuple[str, list[TenantPolicy]]]:
    told = sorted((answer.named, answer.tenant.id, answer.tenant) for answer in answers if answer.named)
    for named, group in groupby(told, key=lambda entry: entry[0]):
        yield named, [tenant for _, _, tenant in group]
