"""`gateway upstream list`: what there is, what is missing, and what is strange."""

from __future__ import annotations

import orjson

from tests.cli.upstream.organization import PROJECT, Organization, answering


async def listed(organization: Organization) -> tuple[int, dict[str, dict[str, object]]]:
    done = await organization.run("list", "--json")
    return done.code, {row["tenant"]: row for row in orjson.loads(done.stdout)["tenants"]}


async def lead_there(organization: Organization) -> None:
    """Let the configuration have what provisioning told it to."""
    (project,) = await organization.projects()
    organization.upstream += f'\nproject = "{project["id"]}"\napi_key = "file:{organization.key_file}"'


async def test_nothing_is_wrong_with_a_tenant_that_has_what_it_should_or_nothing(
    organization: Organization,
) -> None:
    code, rows = await listed(organization)
    assert (code, rows["acme"]["project"], rows["acme"]["notes"]) == (0, None, ["no project"])
    await organization.run("provision", "acme", "--apply")
    code, rows = await listed(organization)
    assert (code, rows["acme"]["problems"]) == (1, ["the configuration does not lead there"])
    await lead_there(organization)
    code, rows = await listed(organization)
    (project,), (key,) = await organization.projects(), await organization.keys()
    assert code == 0
    acme = rows["acme"]
    assert (acme["project"], acme["key"], acme["problems"], acme["notes"]) == (
        project["id"],
        key["id"],
        [],
        [],
    )
    assert acme["key_expires_at"] == key["expires_at"]
    done = await organization.run("list")
    assert "well" in done.stdout
    assert organization.key not in done.stdout


async def test_a_key_that_expires_soon_is_a_problem(organization: Organization) -> None:
    organization.more = "[provisioning]\nkey_lifetime_seconds = 86400\n"
    await organization.run("provision", "acme", "--apply")
    await lead_there(organization)
    code, rows = await listed(organization)
    assert code == 1
    assert "its key expires in " in str(rows["acme"]["problems"])
    done = await organization.run("provision", "acme")
    assert "gateway upstream rotate acme" in done.stderr


async def test_what_is_strange_is_said(organization: Organization) -> None:
    await organization.run("provision", "acme", "--apply")
    await lead_there(organization)
    (project,) = await organization.projects()
    path = f"/organization/projects/{project['id']}"
    await organization.ask(f"{path}/service_accounts", method="POST", name=PROJECT)
    await organization.ask(
        f"{path}/service_accounts", method="POST", name=PROJECT, create_service_account_only=True
    )
    await organization.ask(f"{path}/rate_limits/rl-gpt-4o", method="POST", max_requests_per_1_minute=301)
    await organization.ask(
        f"{path}/spend_limit", method="POST", threshold_amount=1, currency="USD", interval="month"
    )
    for name in ("gateway:default:nobody", "gateway:another:acme", "gateway:default:a b\x1b[2J", "theirs"):
        await organization.ask("/organization/projects", method="POST", name=name)
    code, rows = await listed(organization)
    assert code == 1
    assert rows["acme"]["problems"] == ["2 keys"]
    assert rows["acme"]["notes"] == [
        "1 service accounts without a key",
        "rate limits are higher than those of the configuration",
        "the spend limit is not that of the configuration",
    ]
    assert set(rows["nobody"]["problems"]) == {"the configuration has no such tenant", "no key"}  # type: ignore[call-overload]  # a list of words
    assert set(rows) == {"acme", "nobody"}
    done = await organization.run("list")
    assert "3 more projects are none of this deployment" in done.stdout
    assert "\x1b" not in done.stdout
    assert (await organization.run("provision", "acme", "--apply")).code == 0
    assert (await organization.run("rotate", "acme", "--apply", "--keep", "0")).code == 0
    await organization.ask(f"/organization/projects/{rows['nobody']['project']}/archive", method="POST")
    assert (await listed(organization))[0] == 0


async def test_a_list_that_is_none_is_said_to_be(organization: Organization) -> None:
    organization.fault = answering(200)
    done = await organization.run("list")
    assert done.code == 1
    assert "is it the Admin API?" in done.stderr


async def test_a_project_of_a_tenant_that_goes_another_way_by_now_is_said_to_be_unused_and_can_be_retired(
    organization: Organization,
) -> None:
    await organization.run("provision", "acme", "--apply")
    organization.upstream = 'base_url = "http://127.0.0.1:9/v1"'
    code, rows = await listed(organization)
    assert code == 1
    assert "this project is not used: acme goes to http://127.0.0.1:9/v1" in str(rows["acme"]["problems"])
    done = await organization.run("retire", "acme", "--apply", "--confirm", "acme")
    assert done.code == 0, done.stderr
    assert await organization.projects() == []
