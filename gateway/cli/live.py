"""What `gateway check --live` asks, all at once: Redis, the upstream, and where other issuers' keys are."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from gateway.cli.drawing import shown
from gateway.cli.live_accounts import ask_all, mistaken, separable
from gateway.credentials.key_fetch import FetchFailed, KeySource, fetched
from gateway.credentials.key_ring import KeyRing
from gateway.credentials.key_sets import Pace
from gateway.policy.tenants import TenantPolicy
from gateway.settings.certificates import trusted_certificates
from gateway.settings.section import revealed
from gateway.settings.settings import Settings
from gateway.wire.strict_json import strict_object

MOST_SECONDS = 15.0
"""For each that is asked; most have shorter deadlines of their own."""

_EXPIRY_DAYS = 14
"""Before which a certificate's end is worth a word."""


@dataclass
class Answer:
    """What one of them answered, in words."""

    asked: str
    lines: list[str] = field(default_factory=list)
    """What it says of itself."""

    hints: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def is_well(self) -> bool:
        """Whether nothing of it is wrong."""
        return not self.problems

    def document(self) -> dict[str, object]:
        """For programs."""
        return {
            "asked": self.asked,
            "ok": self.is_well,
            "seconds": round(self.seconds, 3),
            "said": [*self.lines, *self.hints],
            "warnings": self.warnings,
            "problems": self.problems,
        }


async def ask_everybody(settings: Settings, policies: Mapping[str, TenantPolicy]) -> list[Answer]:
    """Ask all of them at once; each has its deadline, and whoever does not keep it has not answered."""
    asking: list[tuple[str, Callable[[Answer], Awaitable[None]]]] = []
    url = revealed(settings.redis_url)
    if url is not None:
        asking.append(("Redis", lambda answer: _ask_redis(answer, url, settings.redis_prefix)))
    if settings.upstream.http_proxy is None:  # which would be connected to, and resolves the names
        enabled = [policy.access.base_url for policy in policies.values() if policy.settings.enabled]
        asking += [(base_url, _way_to(settings, base_url)) for base_url in dict.fromkeys(enabled)]
    asking.append(("the upstream", lambda answer: _ask_upstream(answer, settings, policies)))
    for name, issuer in settings.issuers.items():
        if issuer.jwks_url is not None:
            asking.append((f"issuers.{name}", _keys_of(name, KeySource.of(issuer))))
    return await asyncio.gather(*(_asked(name, ask) for name, ask in asking))


async def _asked(name: str, ask: Callable[[Answer], Awaitable[None]]) -> Answer:
    answer, began = Answer(name), time.monotonic()
    try:
        async with asyncio.timeout(MOST_SECONDS):
            await ask(answer)
    except TimeoutError:
        answer.problems.append(f"{name}: no answer within {MOST_SECONDS:g} seconds")
    answer.seconds = time.monotonic() - began
    return answer


async def _ask_redis(answer: Answer, url: str, prefix: str) -> None:
    from gateway.cli.live_redis import look_at_redis

    found = await look_at_redis(url, prefix)
    answer.lines, answer.warnings, answer.problems = found.lines, found.warnings, found.problems


async def _ask_upstream(answer: Answer, settings: Settings, policies: Mapping[str, TenantPolicy]) -> None:
    answers = await ask_all(settings.upstream, policies)
    answer.lines += [one.words for one in answers if not one.refused]
    answer.hints += separable(answers)
    answer.warnings += [f"{one.tenant.id}: {one.odd}" for one in answers if one.odd]
    answer.problems += [*(one.words for one in answers if one.refused), *mistaken(answers)]


def _way_to(settings: Settings, base_url: str) -> Callable[[Answer], Awaitable[None]]:
    """Look where a name leads, and whose certificate is shown there. That it leads nowhere is said by who asks."""
    parts = urlsplit(base_url)
    is_secure = parts.scheme == "https"
    port = parts.port or (443 if is_secure else 80)

    async def look(answer: Answer) -> None:
        trusted = (
            await asyncio.to_thread(trusted_certificates, settings.upstream.ca_file) if is_secure else None
        )
        try:
            async with asyncio.timeout(settings.upstream.connect_timeout_seconds):
                _, writer = await asyncio.open_connection(parts.hostname, port, ssl=trusted)
        except (OSError, TimeoutError):
            return
        address, *_ = writer.get_extra_info("peername")
        connection = writer.get_extra_info("ssl_object")
        writer.transport.abort()
        words = [f"{base_url} is at {address}"]
        if connection is not None:
            until = _expiry(connection)
            words.append(f"with a certificate until {until:%Y-%m-%d} ({connection.version()})")
            days = (until - datetime.now(UTC)).days
            if days < _EXPIRY_DAYS:
                answer.warnings.append(f"the certificate of {base_url} expires in {days} days")
        answer.lines.append(", ".join(words))

    return look


def _expiry(connection: ssl.SSLObject) -> datetime:
    certificate = connection.getpeercert() or {}
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(str(certificate["notAfter"])), UTC)


def _keys_of(name: str, source: KeySource) -> Callable[[Answer], Awaitable[None]]:
    url = source.url

    async def ask(answer: Answer) -> None:
        try:
            async with asyncio.timeout(Pace().fetch_seconds):
                ring = KeyRing.published(strict_object(await fetched(source)))
        except TimeoutError:
            answer.problems.append(f"issuers.{name}.jwks_url: {url} does not answer in time")
        except (FetchFailed, ValueError) as error:
            answer.problems.append(f"issuers.{name}.jwks_url: {url}: {error}")
        else:
            kids = ", ".join(shown(key.kid) for key in ring)
            answer.lines.append(f"issuers.{name}: {url} has keys that can be used: {kids}")
            answer.warnings += [f"issuers.{name}: {warning}" for warning in ring.warnings]

    return ask
