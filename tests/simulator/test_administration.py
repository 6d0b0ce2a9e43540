"""The simulator's organization: projects that are apart, keys that are told once, limits."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from openai import (
    AsyncOpenAI,
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    PermissionDeniedError,
)

from tests.kit.waiting import found
from tests.simulator.conftest import Running, Start

ADMIN_KEY = "sk-admin-of-the-simulator"


@pytest.fixture
async def simulator(start: Start) -> Running:
    return await start(api_key="sk-common", admin_api_key=ADMIN_KEY, most_projects=3)


Client = Callable[[str], AsyncOpenAI]


@pytest.fixture
async def client(simulator: Running) -> AsyncIterator[Client]:
    """Makes an SDK, strict about what it is answered, with this key."""
    async with AsyncExitStack() as stack:

        def make(key: str) -> AsyncOpenAI:
            sdk = simulator.sdk(key).with_options(admin_api_key=key)
            stack.push_async_callback(sdk.close)
            return sdk

        yield make


@pytest.fixture
def projects(client: Client) -> Any:
    return client(ADMIN_KEY).admin.organization.projects


async def minted(projects: Any, name: str, **more: Any) -> tuple[str, str, Any]:
    """A project's id, a key of it, and all that was told of that."""
    project = await projects.create(name=name)
    account = await projects.service_accounts.create(project.id, name=name, **more)
    return project.id, account.api_key.value, account


async def test_projects_are_apart_and_the_common_key_is_in_none(projects: Any, client: Client) -> None:
    _, first, _ = await minted(projects, "first")
    _, second, _ = await minted(projects, "second")
    made = await client(first).files.create(file=("a.txt", b"a"), purpose="user_data")
    assert (await client(first).files.retrieve(made.id)).id == made.id
    assert [one.id async for one in client(first).files.list()] == [made.id]
    for other in (second, "sk-common"):
        with pytest.raises(NotFoundError):
            await client(other).files.retrieve(made.id)
        assert [one.id async for one in client(other).files.list()] == []
    assert len((await client(second).models.list()).data) > 3


async def test_a_key_is_told_once_and_opens_until_it_or_its_account_or_project_goes(
    projects: Any, client: Client
) -> None:
    project_id, value, account = await minted(projects, "p", expires_in_seconds=3600)
    assert account.api_key.expires_at - account.api_key.created_at == 3600
    listed = [key async for key in projects.api_keys.list(project_id)]
    assert [key.id for key in listed] == [account.api_key.id]
    assert value not in str(listed)
    assert value.endswith(listed[0].redacted_value[-4:])
    assert listed[0].last_used_at is None
    await client(value).models.list()
    used = await projects.api_keys.retrieve(account.api_key.id, project_id=project_id)
    assert used.last_used_at is not None
    extra = await projects.service_accounts.api_keys.create(account.id, project_id=project_id)
    await client(extra.value).models.list()
    await projects.api_keys.delete(extra.id, project_id=project_id)
    with pytest.raises(AuthenticationError):
        await client(extra.value).models.list()
    await client(value).models.list()
    await projects.service_accounts.delete(account.id, project_id=project_id)
    with pytest.raises(AuthenticationError):
        await client(value).models.list()
    assert [key async for key in projects.api_keys.list(project_id)] == []
    further = await projects.service_accounts.create(project_id, name="again")
    await projects.archive(project_id)
    with pytest.raises(AuthenticationError):
        await client(further.api_key.value).models.list()
    assert [one.id async for one in projects.list()] == []
    assert [one.status async for one in projects.list(include_archived=True)] == ["archived"]
    with pytest.raises(BadRequestError):
        await projects.service_accounts.create(project_id, name="too late")


async def test_an_expired_key_opens_nothing(projects: Any, client: Client) -> None:
    _, value, _ = await minted(projects, "p", expires_in_seconds=2)
    await client(value).models.list()

    async def refused() -> str:
        try:
            await client(value).models.list()
        except AuthenticationError as error:
            return str(error)
        return ""

    assert "expired" in await found(refused)


async def test_a_key_is_of_its_project_and_administers_nothing(projects: Any, client: Client) -> None:
    project_id, value, _ = await minted(projects, "p")
    named = client(value).with_options(project=project_id)
    assert (await named.models.list()).data
    with pytest.raises(AuthenticationError, match="should match"):
        await client(value).with_options(project="proj_another").models.list()
    with pytest.raises(PermissionDeniedError):
        await client(value).admin.organization.projects.list()
    for key in ("sk-common", "sk-admin-of-another"):
        with pytest.raises(AuthenticationError):
            await client(key).admin.organization.projects.list()
    with pytest.raises(AuthenticationError):
        await client(ADMIN_KEY).models.list()


async def test_projects_have_limits_that_can_be_lowered(projects: Any) -> None:
    project = await projects.create(name="p")
    rows = {row.model: row async for row in projects.rate_limits.list_rate_limits(project.id)}
    images = rows["gpt-image-1"]
    assert images.max_images_per_1_minute
    assert rows["gpt-4o"].max_images_per_1_minute is None
    lowered = await projects.rate_limits.update_rate_limit(
        images.id, project_id=project.id, max_images_per_1_minute=7
    )
    assert (lowered.max_images_per_1_minute, lowered.max_requests_per_1_minute) == (
        7,
        images.max_requests_per_1_minute,
    )
    for wrong in ({"max_images_per_1_minute": 10**9}, {"max_audio_megabytes_per_1_minute": 1}):
        with pytest.raises(BadRequestError):
            await projects.rate_limits.update_rate_limit(images.id, project_id=project.id, **wrong)
    with pytest.raises(NotFoundError):
        await projects.spend_limit.retrieve(project.id)
    limit = {"threshold_amount": 12_345, "currency": "USD", "interval": "month"}
    await projects.spend_limit.update(project.id, **limit)
    assert (await projects.spend_limit.retrieve(project.id)).threshold_amount == 12_345
    await projects.spend_limit.delete(project.id)
    with pytest.raises(NotFoundError):
        await projects.spend_limit.retrieve(project.id)


async def test_an_organization_has_so_many_projects_and_no_more(projects: Any) -> None:
    made = [await projects.create(name=f"p{number}") for number in range(3)]
    with pytest.raises(BadRequestError, match="limit of 3 projects"):
        await projects.create(name="one more")
    await projects.archive(made[0].id)
    await projects.create(name="one more")
