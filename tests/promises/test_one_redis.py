"""Several deployments in one Redis, each under its own prefix: none touches, sees or is counted with another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load
from tests.kit.command import Completed, RunningCommand, run_command, running_command
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import comes_to

ANSWER = orjson.dumps(
    {"id": "c1", "object": "chat.completion", "usage": {"prompt_tokens": 20, "completion_tokens": 5}}
)
CHAT = {"model": "gpt-4o", "messages": [], "max_tokens": 10}
DAILY = 3


async def chat(turn: Turn) -> None:
    await turn.read_body()
    await turn.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(ANSWER)
        + ANSWER
    )


@dataclass
class Deployment:
    """A gateway under a prefix of its own, and the operator at its configuration."""

    config: str
    gateway: RunningCommand

    async def command(self, *words: str, code: int = 0) -> Completed:
        done = await run_command(*words, "--config", self.config)
        assert done.code == code, done.stderr
        return done

    async def issue(self, subject: str = "alice") -> str:
        words = ("credential", "issue", "--tenant", "acme", "--subject", subject, "--scope", "*")
        return (await self.command(*words)).stdout.strip()

    async def ask(self, credential: str, path: str = "/v1/chat/completions") -> tuple[int, Any]:
        url, headers = f"{self.gateway.base_url[:-3]}{path}", {"Authorization": f"Bearer {credential}"}
        async with (
            aiohttp.ClientSession() as session,
            session.request(
                "POST" if "chat" in path else "GET",
                url,
                json=CHAT if "chat" in path else None,
                headers=headers,
            ) as answer,
        ):
            return answer.status, await answer.json()

    async def used(self) -> int:
        """Requests of the tenant, as counted in Redis."""
        done = await self.command("usage", "--tenant", "acme", "--json")
        return int(orjson.loads(done.stdout)["total"]["requests"])

    async def left(self) -> int:
        """Of the tenant's requests of a day."""
        done = await self.command("limits", "show", "--tenant", "acme", "--json")
        return int(orjson.loads(done.stdout)["limits"][0]["remaining"])


@asynccontextmanager
async def deployed(
    directory: Path, upstream: ScriptedUpstream, *, redis_url: str, prefix: str
) -> AsyncIterator[Deployment]:
    """A gateway with its keys and its configuration in a folder."""
    directory.mkdir()
    config = directory / "gateway.toml"
    config.write_text(f"""
        listen = "127.0.0.1:0"
        admin_listen = "127.0.0.1:0"
        keys_dir = "{directory}/keys"
        redis_url = "{redis_url}"
        redis_prefix = "{prefix}"
        drain_notice_seconds = 0.0
        workers = 1
        [upstream]
        base_url = "{upstream.base_url}"
        api_key = "sk-of-both"
        [tenants.acme]
        metering = true
        [tenants.acme.limits]
        max_requests_per_1_day = {DAILY}
        max_concurrent_requests = 5
        [tenants.acme.limits.models."gpt-*"]
        max_tokens_per_1_day = 1000
    """)
    async with running_command("serve", "--config", str(config)) as gateway:
        yield Deployment(str(config), gateway)


async def test_nothing_outside_the_prefix_is_touched_by_a_gateway_or_a_command(
    tmp_path: Path, redis: RedisServer, upstream: ScriptedUpstream
) -> None:
    """Its login may touch no other key, and Redis notes whoever tries."""
    upstream.plays(chat)
    rights = ("+@all", "-@dangerous", "+info")  # as docs/operations/redis.md has them
    redis.command("ACL", "SETUSER", "staging", "on", ">secret", "~staging:*", *rights)
    url = f"redis://staging:secret@127.0.0.1:{redis.port}/0"
    async with deployed(tmp_path / "d", upstream, redis_url=url, prefix="staging:") as staging:
        credential = await staging.issue()
        assert (await staging.ask(credential))[0] == 200
        await comes_to(1, staging.used)
        assert await staging.left() == DAILY - 1
        file = tmp_path / "credential"
        file.write_text(credential)
        listed, *_ = await asyncio.gather(
            staging.command("credential", "list"),
            staging.command("credential", "inspect", f"@{file}"),
            staging.command("explain", "POST", "/v1/chat/completions", f"@{file}", "--model", "gpt-4o"),
            staging.command("check", "--live"),  # and all that it does without
            staging.command("limits", "reset", "--tenant", "acme"),
        )
        assert "alice" in listed.stdout
        assert await staging.left() == DAILY
        await staging.command("credential", "revoke", "--tenant", "acme", "--subject", "alice")

        async def status() -> int:
            return (await staging.ask(credential, "/gateway/me"))[0]

        await comes_to(401, status)
        old = (await staging.command("keys", "list")).stdout.splitlines()[1].split()[0]
        await staging.command("keys", "rotate")
        assert "alice" in (await staging.command("keys", "retire", old)).stdout
        staging.gateway.signal()
        assert await staging.gateway.exit_code() == 0
    assert "reason\r\n$3\r\nkey\r\n" not in redis.command("ACL", "LOG")  # CONFIG is another matter
    keys = redis.command("KEYS", "*").split("\r\n")[2::2]
    assert len(keys) > 5
    assert [key for key in keys if not key.startswith("staging:")] == []


async def test_two_deployments_do_not_see_each_other(
    tmp_path: Path, redis: RedisServer, upstream: ScriptedUpstream
) -> None:
    upstream.plays(chat)
    async with (
        deployed(tmp_path / "a", upstream, redis_url=redis.url, prefix="a:") as one,
        deployed(tmp_path / "b", upstream, redis_url=redis.url, prefix="b:") as other,
    ):
        credentials = await asyncio.gather(one.issue(), other.issue())
        for _ in range(DAILY):
            assert (await one.ask(credentials[0]))[0] == 200
        assert (await one.ask(credentials[0]))[0] == 429
        assert (await other.ask(credentials[1]))[0] == 200
        await asyncio.gather(comes_to(DAILY, one.used, 10.0), comes_to(1, other.used, 10.0))
        assert tuple(await asyncio.gather(one.left(), other.left())) == (0, DAILY - 1)
        for done in await asyncio.gather(*(each.command("credential", "list") for each in (one, other))):
            assert [line.split()[2] for line in done.stdout.splitlines()[1:]] == ["first-run", "alice"]
        await one.command("credential", "revoke", "--tenant", "acme")

        async def statuses() -> list[int]:
            asked = zip((one, other), credentials, strict=True)
            return [(await deployment.ask(mine, "/gateway/me"))[0] for deployment, mine in asked]

        await comes_to([401, 200], statuses)
        for prefix in ("a:", "b:"):
            assert "1" in redis.command("ZCARD", f"{prefix}workers")


@pytest.mark.parametrize("prefix", ["", "with space:", "{tag}:", "a}:", "tab\t", "é:", "x" * 65])
def test_prefix_that_would_not_do_is_refused(prefix: str) -> None:
    with pytest.raises(SettingsInvalid, match="redis_prefix"):
        load(flags={"redis_prefix": prefix}, environ={})
