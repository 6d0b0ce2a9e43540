"""Record what a version leaves in Redis: every kind of key, as it writes it, and what it says of them itself.

    git worktree add ../earlier COMMIT
    python -m tests.promises.earlier_versions.record ../earlier tests/promises/earlier_versions/COMMIT.json

A gateway of that version and its commands run against a Redis of their own. When that is recorded one exchange still
runs, a limit is in debt, credentials have been issued and revoked, and two tenants have one upstream account.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import redis

from tests.kit.command import run_command, running_command
from tests.kit.redis import running_redis
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn
from tests.middleware.limited import reporting

LIMITS = """
[tenants.acme]
metering = true
[tenants.acme.limits]
max_requests_per_1_day = 100
max_tokens_per_1_day = 1000
max_concurrent_requests = 5
[tenants.acme.limits.models."gpt-4o*"]
max_requests_per_1_day = 50
[tenants.acme.limits.subjects."*"]
max_requests_per_1_day = 20
[tenants.beta]
"""
_SOON_SECONDS = 1.5
"""Usage and settlements have been written by then."""


async def record(source: Path) -> dict[str, Any]:
    """What the version whose source that is leaves behind."""
    with running_redis() as server, tempfile.TemporaryDirectory() as directory:
        async with ScriptedUpstream() as upstream:
            upstream.plays(_answers)
            config = Path(directory) / "gateway.toml"
            config.write_text(f"""
                listen = "127.0.0.1:0"
                admin_listen = "127.0.0.1:0"
                keys_dir = "{directory}/keys"
                redis_url = "{server.url}"
                [upstream]
                base_url = "{upstream.base_url}"
                {LIMITS}
            """)
            # The version's own package, not that of the folder in which this runs.
            environ = {"PYTHONPATH": str(source.resolve()), "PYTHONSAFEPATH": "1"}

            async def command(*words: str) -> str:
                done = await run_command(*words, "--config", str(config), **environ)
                assert done.code == 0, done.stderr
                return done.stdout

            async def issue(tenant: str, subject: str, *more: str) -> str:
                who = ("--tenant", tenant, "--subject", subject)
                return (
                    await command("credential", "issue", *who, "--scope", "chat.completions:write", *more)
                ).strip()

            async with running_command("serve", "--config", str(config), **environ) as gateway:
                alice, bob = await issue("acme", "alice"), await issue("acme", "bob")
                limited = await issue("acme", "carol", "--limit", "max_requests_per_1_day=5")
                await issue("beta", "erin")
                async with aiohttp.ClientSession() as session:
                    url = f"{gateway.base_url}/chat/completions"

                    async def chat(credential: str, model: str, **more: object) -> aiohttp.ClientResponse:
                        body = {"model": model, "messages": [], "max_tokens": 10, **more}
                        answer = await session.post(
                            url, json=body, headers={"Authorization": f"Bearer {credential}"}
                        )
                        assert answer.status == 200, await answer.text()
                        return answer

                    for _ in range(3):
                        await (await chat(alice, "gpt-4o")).read()
                    await (await chat(limited, "gpt-4o-mini")).read()
                    held = await chat(alice, "gpt-4o", stream=True)
                    await held.content.readany()
                    await (await chat(bob, "large")).read()
                    listed = (await command("credential", "list")).splitlines()
                    revoked = next(line.split()[0] for line in listed if " carol " in line)
                    await command("credential", "revoke", "--jti", revoked)
                    await command("credential", "revoke", "--tenant", "beta", "--subject", "erin")
                    await asyncio.sleep(_SOON_SECONDS)
                    with redis.Redis(port=server.port) as client:
                        seconds, microseconds = client.time()
                        keys = {name.decode("latin-1"): _key(client, name) for name in client.scan_iter("*")}
                    return {
                        "version": subprocess.check_output(
                            ["git", "-C", str(source), "rev-parse", "--short", "HEAD"], text=True
                        ).strip(),
                        "recorded_at": seconds + microseconds / 1e6,
                        "settings": LIMITS,
                        "revoked": revoked,
                        "limits": orjson.loads(
                            await command(
                                *("limits", "show", "--tenant", "acme", "--subject", "alice", "--json")
                            )
                        )["limits"],
                        "usage": orjson.loads(
                            await command("usage", "--tenant", "acme", "--by", "subject,model", "--json")
                        ),
                        "listed": (await command("credential", "list")).splitlines(),
                        "keys": keys,
                    }


async def _answers(turn: Turn) -> None:
    body = orjson.loads(await turn.read_body())
    if not body.get("stream"):
        await turn.send(reporting(1500 if body["model"] == "large" else 40))
        return
    await turn.send(SSE_HEAD)
    await turn.chunk(b'data: {"choices": []}\n\n')
    await turn.gone()


def _key(client: Any, name: bytes) -> dict[str, Any]:
    """One key: bytes as text, a character each."""
    kind = client.type(name).decode()
    value: Any
    match kind:
        case "string":
            value = client.get(name).decode("latin-1")
        case "hash":
            pairs = client.hgetall(name).items()
            value = {field.decode("latin-1"): held.decode("latin-1") for field, held in pairs}
        case "zset":
            value = [
                [member.decode("latin-1"), score]
                for member, score in client.zrange(name, 0, -1, withscores=True)
            ]
        case _:
            raise ValueError(f"{name!r} is a {kind}: add it here, and to what reads it")
    return {"kind": kind, "milliseconds": client.pttl(name), "value": value}


if __name__ == "__main__":
    _source, _file = sys.argv[1:]
    Path(_file).write_bytes(
        orjson.dumps(asyncio.run(record(Path(_source))), option=orjson.OPT_INDENT_2) + b"\n"
    )
