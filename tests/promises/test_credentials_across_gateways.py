"""Two gateways, one Redis: what is issued, rotated, retired and revoked counts at both within two seconds."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing
from gateway.settings.settings import Credentials
from tests.kit.command import Completed, RunningCommand, run_command, running_command
from tests.kit.jwks import LOGIN, NEXT, THEIRS, running_jwks_server, their_credential
from tests.kit.redis import RedisServer, running_redis
from tests.kit.waiting import comes_to

SOON_SECONDS = 2.0
LEEWAY_SECONDS = 2
"""Short, since what is issued after a revocation waits for it."""


@dataclass
class Site:
    """Both gateways, and the operator at the same configuration."""

    flags: tuple[str, ...]
    gateways: tuple[RunningCommand, ...]
    session: aiohttp.ClientSession
    redis: RedisServer
    keys_dir: Path

    async def command(self, *words: str) -> Completed:
        done = await run_command(*words, *self.flags)
        assert done.code == 0, done.stderr
        return done

    async def issue(self, subject: str) -> str:
        words = ("credential", "issue", "--tenant", "default", "--subject", subject, "--scope", "models:read")
        return (await self.command(*words)).stdout.strip()

    def dated_ahead(self, subject: str) -> str:
        """What somebody issued whose clock is as far ahead as is tolerated."""
        return issue(
            KeyRing.load(self.keys_dir),
            Credentials(leeway_seconds=LEEWAY_SECONDS),
            tenant="default",
            subject=subject,
            scopes=["models:read"],
            ttl_seconds=600,
            clock=lambda: time.time() + LEEWAY_SECONDS,
        ).credential

    async def answers(self, credential: str) -> list[tuple[int, str]]:
        """Status, and error code or subject, at each gateway."""
        found = []
        for gateway in self.gateways:
            url = f"http://{gateway.host}:{gateway.port}/gateway/me"
            async with self.session.get(url, headers={"Authorization": f"Bearer {credential}"}) as answer:
                document = await answer.json()
                said = document["subject"] if answer.status == 200 else document["error"]["code"]
                found.append((answer.status, said))
        return found


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    with running_redis() as redis:
        flags = (
            *("--keys-dir", str(tmp_path / "keys"), "--upstream", "http://127.0.0.1:9/v1"),
            *("--set", f"redis_url={redis.url}", "--set", "drain_notice_seconds=0"),
            *("--set", f"credentials.leeway_seconds={LEEWAY_SECONDS}"),
        )
        serve = ("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", *flags)
        async with (
            running_command(*serve) as first,
            running_command(*serve) as second,
            aiohttp.ClientSession() as session,
        ):
            yield Site(flags, (first, second), session, redis, tmp_path / "keys")


async def test_rotation_and_retirement_reach_both_gateways(site: Site) -> None:
    before = await site.issue("alice")
    assert await site.answers(before) == [(200, "alice")] * 2
    old = (await site.command("keys", "list")).stdout.splitlines()[1].split()[0]
    await site.command("keys", "rotate")
    after = await site.issue("bob")
    await comes_to([(200, "bob")] * 2, lambda: site.answers(after), SOON_SECONDS)
    assert await site.answers(before) == [(200, "alice")] * 2
    retired = await site.command("keys", "retire", old)
    await comes_to([(401, "invalid_api_key")] * 2, lambda: site.answers(before), SOON_SECONDS)
    assert await site.answers(after) == [(200, "bob")] * 2
    assert "alice" in retired.stdout and "bob" not in retired.stdout


async def test_revocation_reaches_both_gateways_and_outlives_redis(site: Site) -> None:
    alice, bob = await site.issue("alice"), await site.issue("bob")
    assert await site.answers(alice) == [(200, "alice")] * 2
    await site.command("credential", "revoke", "--tenant", "default", "--subject", "alice")
    await comes_to([(401, "revoked_api_key")] * 2, lambda: site.answers(alice), SOON_SECONDS)
    assert await site.answers(bob) == [(200, "bob")] * 2
    assert await site.answers(await site.issue("alice")) == [(200, "alice")] * 2
    listed = (await site.command("credential", "list")).stdout.splitlines()
    assert sorted((line.split()[2], "revoked" in line) for line in listed[1:]) == [
        *(("alice", False), ("alice", True), ("bob", False), ("first-run", False))
    ]
    site.redis.stop()
    await asyncio.sleep(1.5)
    assert await site.answers(alice) == [(401, "revoked_api_key")] * 2
    assert await site.answers(bob) == [(200, "bob")] * 2
    for gateway in site.gateways:
        written = "\n".join(gateway.stdout + gateway.stderr)
        for credential in (alice, bob):
            assert not [part for part in credential.split(".")[1:] if part in written]


@pytest.mark.parametrize("subject", [[], ["--subject", "alice"]], ids=["tenant", "subject"])
async def test_revocation_covers_what_was_issued_by_a_clock_that_is_ahead(
    site: Site, subject: list[str]
) -> None:
    ahead, other = site.dated_ahead("alice"), site.dated_ahead("bob")
    assert await site.answers(ahead) == [(200, "alice")] * 2
    await site.command("credential", "revoke", "--tenant", "default", *subject)
    await comes_to([(401, "revoked_api_key")] * 2, lambda: site.answers(ahead), SOON_SECONDS)
    spared = [(200, "bob")] if subject else [(401, "revoked_api_key")]
    assert await site.answers(other) == spared * 2
    assert await site.answers(await site.issue("alice")) == [(200, "alice")] * 2, "issued after that"
    assert await site.answers(ahead) == [(401, "revoked_api_key")] * 2


@pytest.mark.parametrize("subject", [[], ["--subject", "bob"]], ids=["tenant", "subject"])
async def test_revocation_covers_what_another_issuers_clock_dates_ahead(
    tmp_path: Path, subject: list[str]
) -> None:
    async with _believing_another_issuer(tmp_path) as gateway, aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {their_credential(ahead_seconds=25)}"}

        async def status() -> int:
            url = f"http://127.0.0.1:{gateway.port}/gateway/me"
            async with session.get(url, headers=headers) as answer:
                return answer.status

        assert await status() == 200
        done = await run_command("credential", "revoke", "--tenant", "acme", *subject, *_flags(tmp_path))
        assert done.code == 0, done.stderr
        await comes_to(401, status, SOON_SECONDS)


async def test_credential_of_another_issuer_opens_a_running_gateway(tmp_path: Path) -> None:
    async with _believing_another_issuer(tmp_path) as gateway, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{gateway.port}/gateway/me"
        for key, status in ((THEIRS, 200), (NEXT, 401)):
            headers = {"Authorization": f"Bearer {their_credential(key)}"}
            async with session.get(url, headers=headers) as answer:
                assert answer.status == status
        async with session.get(f"http://127.0.0.1:{gateway.admin_port}/metrics") as answer:
            metrics = await answer.text()
    assert 'gateway_jwks_fetches_total{issuer="login",result="new"} 1.0' in metrics
    age = re.search(r'^gateway_jwks_age_seconds\{issuer="login"\} (\S+)$', metrics, re.MULTILINE)
    assert age is not None and 0 <= float(age[1]) < 30


def _flags(directory: Path) -> tuple[str, ...]:
    return "--config", str(directory / "gateway.toml"), "--keys-dir", str(directory / "keys")


@asynccontextmanager
async def _believing_another_issuer(directory: Path) -> AsyncIterator[RunningCommand]:
    """A gateway that accepts the credentials of another issuer, whose keys it fetches."""
    addresses = (
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--upstream",
        "http://127.0.0.1:9/v1",
    )
    async with running_jwks_server() as issuer:
        issuer.publish(THEIRS)
        (directory / "gateway.toml").write_text(_config_with(issuer.url))
        async with running_command("serve", *_flags(directory), *addresses) as gateway:
            yield gateway


def _config_with(jwks_url: str) -> str:
    return (
        "[tenants.acme]\n[issuers.login]\n"
        f'issuer = "{LOGIN}"\naudience = "gateway"\njwks_url = "{jwks_url}"\n'
        'tenant = "acme"\nscopes = ["models:read"]\n'
    )
