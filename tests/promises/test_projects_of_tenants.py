"""Tenants with provisioned projects keep their objects to themselves, and their keys are replaced while they work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from openai import APIStatusError, AsyncOpenAI

from tests.cli.upstream.organization import ADMIN_KEY, Organization, running_organization
from tests.kit.command import RunningCommand, run_command, running_command
from tests.kit.waiting import until

TENANTS = ("acme", "beta")


@dataclass
class Deployment:
    """A gateway as operators run it, before an organization with a project for each tenant."""

    organization: Organization
    file: Path
    serving: RunningCommand
    clients: dict[str, AsyncOpenAI] = field(default_factory=dict)

    def key_of(self, tenant: str) -> str:
        return self.organization.key_file.with_name(f"{tenant}.key").read_text().strip()

    async def run(self, *words: str) -> str:
        """What an operator's command prints, which has to succeed."""
        done = await run_command(*words, "--config", str(self.file), OPENAI_ADMIN_KEY=ADMIN_KEY)
        assert done.code == 0, done.stderr
        assert ADMIN_KEY not in done.stdout + done.stderr
        return done.stdout


@asynccontextmanager
async def running_deployment(folder: Path) -> AsyncIterator[Deployment]:
    """Provision, paste what that prints, serve."""
    async with running_organization(folder) as organization:
        file = folder / "gateway.toml"
        text = (
            f'keys_dir = "{folder}/keys"\nlisten = "127.0.0.1:0"\nadmin_listen = "127.0.0.1:0"\n'
            f'[upstream]\nbase_url = "{organization.base_url}"\napi_key = "sk-common"\n'
        )
        file.write_text(text + "".join(f"[tenants.{tenant}]\n" for tenant in TENANTS))
        for tenant in TENANTS:
            done = await run_command(
                *("upstream", "provision", tenant, "--apply", "--config", str(file)),
                OPENAI_ADMIN_KEY=ADMIN_KEY,
            )
            assert done.code == 0, done.stderr
            assert ADMIN_KEY not in done.stdout + done.stderr
            text += done.stdout.partition("new ones:\n\n")[2].rpartition("\n\n")[0] + "\n"
        file.write_text(text)
        async with running_command("serve", "--config", str(file)) as serving:
            deployment = Deployment(organization, file, serving)
            for tenant in TENANTS:
                credential = await deployment.run("credential", "issue", "--tenant", tenant, "--scope", "*")
                deployment.clients[tenant] = AsyncOpenAI(
                    api_key=credential.strip(), base_url=serving.base_url, max_retries=0, timeout=20
                )
            try:
                yield deployment
            finally:
                for client in deployment.clients.values():
                    await client.close()


@pytest.fixture
async def deployment(tmp_path: Path) -> AsyncIterator[Deployment]:
    async with running_deployment(tmp_path) as running:
        yield running


async def test_provisioned_tenants_reach_nothing_of_each_other(deployment: Deployment) -> None:
    assert "well" in await deployment.run("upstream", "list")
    acme, beta = (deployment.clients[tenant] for tenant in TENANTS)
    made = await acme.files.create(file=("secret.jsonl", b"{}"), purpose="batch")
    store = await acme.vector_stores.create(name="of acme")
    assert (await acme.files.content(made.id)).content == b"{}"
    assert [one.id async for one in acme.files.list()] == [made.id]
    assert [one.id async for one in beta.files.list()] == []
    assert [one.id async for one in beta.vector_stores.list()] == []
    for ask in (
        beta.files.retrieve(made.id),
        beta.files.content(made.id),
        beta.files.delete(made.id),
        beta.vector_stores.retrieve(store.id),
        beta.vector_stores.search(store.id, query="?"),
        beta.vector_stores.create(file_ids=[made.id]),
        beta.batches.create(input_file_id=made.id, endpoint="/v1/chat/completions", completion_window="24h"),
    ):
        with pytest.raises(APIStatusError) as refused:
            await ask
        assert refused.value.status_code == 404
    assert (await acme.files.retrieve(made.id)).id == made.id


async def test_a_key_is_rotated_under_load_and_no_request_is_refused(deployment: Deployment) -> None:
    acme, old = deployment.clients["acme"], deployment.key_of("acme")
    ended = asyncio.Event()
    answered = 0

    async def work() -> None:
        nonlocal answered
        while not ended.is_set():
            stream = await acme.chat.completions.create(
                model="gpt-4o", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            async for _ in stream:
                pass
            answered += 1

    async with asyncio.TaskGroup() as working:
        for _ in range(6):
            working.create_task(work())
        await deployment.run("upstream", "rotate", "acme", "--apply", "--keep", "6s")
        before = answered
        assert deployment.key_of("acme") != old
        assert await deployment.organization.ask("/models", old) == 401
        await until(lambda: answered >= before + 20)
        ended.set()
    assert before > 20
    assert await deployment.organization.ask("/models", deployment.key_of("beta")) != 401
    assert len(await deployment.organization.keys()) == len(TENANTS)
    said = "\n".join((*deployment.serving.log, *deployment.serving.stdout))
    for secret in (ADMIN_KEY, old, deployment.key_of("acme")):
        assert secret not in said
