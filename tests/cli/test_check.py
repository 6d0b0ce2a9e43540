"""`gateway check` says whose stored objects are closed, and with --live what the upstream says of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app.account_store import FILE_NAME
from gateway.credentials.key_ring import REVOCATIONS_FILE, ensure_ring
from gateway.objects.spool import FOLDER
from tests.cli import checking
from tests.kit.command import Completed, running_command
from tests.kit.gateway import running_gateway
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream
from tests.proxy.test_account_watch import by_key

BOTH = "[tenants.a]\n[tenants.b]\n"


async def check(
    directory: Path, upstream: ScriptedUpstream, tables: str, *more: str, top: str = ""
) -> Completed:
    """Check a configuration with this upstream; `top` is above all tables."""
    way = f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "sk-common"\n'
    return await checking.check(directory, f"{top}\n{way}{tables}", *more)


def own(*names: str) -> str:
    return "".join(
        f'[tenants.{name}]\nstored_objects = "own"\nupstream.api_key = "sk-{name}"\n' for name in names
    )


async def test_says_who_is_closed_and_what_opens_it(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    keyed = '[tenants.a]\nupstream.api_key = "sk-a"\n[tenants.b]\nupstream.api_key = "sk-b"\n'
    for tables in (BOTH, keyed, "[tenants.a]\nenabled = false\n[tenants.b]\n"):
        done = await check(tmp_path, upstream, tables)
        assert done.code == 0
        assert "closed to a, b" in done.stdout
        assert 'stored_objects = "own"' in done.stdout
    done = await check(tmp_path, upstream, own("a", "b"))
    assert (done.code, "closed to" in done.stdout) == (0, False)
    assert upstream.requests == []


async def test_says_who_works_by_the_registry(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    tables = f'{BOTH}[tenants.c]\nstored_objects = "refuse"\n'
    done = await check(tmp_path, upstream, tables, top=f'redis_url = "{redis.url}"')
    assert done.code == 0
    assert "as the registry knows: a, b." in done.stdout
    assert 'closed to c, as stored_objects = "refuse" says' in done.stdout


async def test_a_setting_that_is_gone_is_refused_with_what_to_write_instead(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    for word in ('"refuse"', '"allow"'):
        done = await check(tmp_path, upstream, BOTH, top=f"shared_objects = {word}")
        assert done.code == 1
        assert "shared_objects: is no setting any more" in done.stderr
        assert 'stored_objects = "registry"' in done.stderr
        assert "redis_url" in done.stderr


async def test_says_what_the_limits_of_each_tenant_leave_open(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """In some lines, however many operations there are."""
    tables = """
[tenants.a.limits]
max_tokens_per_1_minute = 1000
[tenants.b.limits]
max_tokens_per_1_day = 1000
[tenants.c]
unmetered = "refuse"
[tenants.c.limits]
max_requests_per_1_day = 5
[tenants.c.limits.models."gpt-4o*"]
max_tokens_per_1_day = 1000
[tenants.d]
scopes = ["*", "unlisted:read"]
[tenants.d.limits]
max_tokens_per_1_day = 1000
max_images_per_1_minute = 10
max_requests_per_1_day = 5
[tenants.e.limits]
max_concurrent_requests = 5
[tenants.f]
enabled = false
[tenants.g]
scopes = ["models:read"]
"""
    done = await check(tmp_path, upstream, tables)
    assert done.code == 0
    lines = [line for line in done.stdout.splitlines() if "imit" in line and " count" in line]
    assert lines == [line for line in done.stdout.splitlines() if "may use" in line]
    both, refused, partly, some, often = lines
    assert both.startswith("No limit counts what a, b may use of these, and nothing bounds it: ")
    for word in (
        "audio",
        "images",
        "videos",
        "batches",
        "files",
        "fine_tuning (",
        "the tool image_generation",
    ):
        assert word in both
    assert "chat" not in both
    assert "listed" not in both
    assert refused.startswith(
        'No limit counts what c may use of these, and it is refused (unmetered = "refuse"): '
    )
    assert partly.startswith("Limits count what c may use of these for some models or subjects alone")
    assert {"chat", "completions"} <= set(partly.rstrip(".").split(": ")[-1].split(", "))
    assert "only how often it is asked for is limited (max_requests_per_1_day)" in some
    assert "images" not in some
    assert "paths that are not listed" in some
    assert often == (
        "No limit counts what e may use: only how often it is asked for is limited (max_concurrent_requests)."
    )


async def test_says_whose_usage_is_incomplete_and_where_that_can_be_changed(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    place = upstream.base_url.removeprefix("http://").partition("/")[0]
    public = 'upstream = { base_url = "https://eu.api.openai.com/v1", api_key = "sk-p" }\n'
    tables = (
        "[tenants.common]\n[tenants.asks]\nmetering = true\n[tenants.limited]\nlimits.max_tokens_per_1_day = 5\n"
        f"[tenants.public]\n{public}[tenants.asleep]\nenabled = false\n[tenants.off]\nmetering = false\n"
    )
    said = (await check(tmp_path, upstream, tables)).stdout
    assert f"Usage of common is incomplete: streams at {place} are not asked" in said
    assert "set metering = true under [upstream]." in said
    assert f"Usage of off is incomplete: streams at {place} are not asked" in said
    assert "set metering = true under [tenants.ID]." in said
    assert f"Streams of asks at {place} are asked for their usage." in said
    assert f"Streams of limited at {place} are asked for their usage." in said
    assert "metering = false under [upstream], and no limit on LLM tokens." in said
    assert "public" not in "".join(line for line in said.splitlines() if "streams" in line.lower())


async def test_says_how_many_workers_there_would_be_and_what_each_may_have(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    edge = "[edge]\nbody_memory_bytes = 1_073_741_824\nmax_connections = 900\n"
    done = await check(tmp_path, upstream, edge)
    assert "Workers: 1 (redis_url is not set)." in done.stdout

    done = await check(tmp_path, upstream, edge, "--workers", "4")
    assert done.code == 0
    assert "Workers: 4 (set by `workers`)." in done.stdout
    assert "225 of 900 clients, 250 of 1000 connections to an upstream, and 256 MiB of bodies" in done.stdout
    assert "count nothing together" in done.stdout
    assert "body_memory" not in done.stderr


async def test_warns_of_parts_that_are_too_small_for_a_body(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    done = await check(tmp_path, upstream, "[edge]\nbody_memory_bytes = 200_000_000\n", "--workers", "4")
    assert done.code == 0
    assert "edge.body_memory_bytes" in done.stderr
    assert "edge.max_json_body_bytes (67108864) is refused" in done.stderr


async def test_refuses_several_workers_that_could_not_keep_a_limit(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    limited = "[tenants.a]\nlimits.max_requests_per_1_minute = 5\n"
    done = await check(tmp_path, upstream, limited, "--workers", "2")
    assert done.code == 1
    assert "workers: " in done.stderr
    assert "set redis_url, or workers = 1" in done.stderr
    assert (await check(tmp_path, upstream, limited, top="workers = 1")).code == 0


async def test_refuses_a_word_that_cannot_hold(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    word = 'stored_objects = "own"\n'
    done = await check(tmp_path, upstream, f"[tenants.one]\n{word}[tenants.two]\n{word}")
    assert done.code == 1
    assert "tenants.one.stored_objects" in done.stderr
    assert "tenants.two.stored_objects" in done.stderr


async def test_refuses_revocations_that_a_start_could_not_read(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    ensure_ring(tmp_path / "keys")
    revocations = tmp_path / "keys" / REVOCATIONS_FILE
    revocations.write_text("{}")
    revocations.chmod(0o600)
    done = await check(tmp_path, upstream, "[tenants.a]\n")
    assert done.code == 1
    assert str(revocations) in done.stderr and "move it away" in done.stderr


async def test_says_that_a_start_could_not_keep_what_it_has_to_remember(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """As where the folder of keys is mounted read-only, and there is no Redis."""
    keys = tmp_path / "keys"
    ensure_ring(keys)
    (keys / FILE_NAME).mkdir()
    done = await check(tmp_path, upstream, "[tenants.a]\n")
    assert done.code == 0
    assert "closed to a: which tenants have had" in done.stdout
    assert "upstream accounts cannot be read or kept" in done.stdout
    own_word = await check(tmp_path, upstream, own("a"))
    assert "closed to" not in own_word.stdout


async def test_says_that_what_the_registry_cannot_be_told_would_end_with_the_process(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    keys = tmp_path / "keys"
    ensure_ring(keys)
    top = f'redis_url = "{redis.url}"'
    assert "in memory alone" not in (await check(tmp_path, upstream, "[tenants.a]\n", top=top)).stderr
    (keys / FOLDER).write_text("in the way")
    assert "in memory alone" in (await check(tmp_path, upstream, "[tenants.a]\n", top=top)).stderr
    assert "in memory alone" not in (await check(tmp_path, upstream, own("a"), top=top)).stderr


@pytest.mark.parametrize("where", ["redis", "file"])
async def test_knows_what_gateways_remember_and_adds_nothing_to_it(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, where: str
) -> None:
    ensure_ring(tmp_path / "keys")
    way = {"base_url": upstream.base_url, "api_key": "sk-common"}
    tenants: dict[str, object] = {"a": {}, "b": {}}
    if where == "redis":
        top = f'redis_url = "{redis.url}"'
        async with running_gateway(upstream=way, tenants=tenants, redis_url=redis.url):
            pass
    else:
        top = ""
        async with running_gateway(upstream=way, tenants=tenants, keys_dir=tmp_path / "keys"):
            pass
    for tables, closed in (("[tenants.b]\n", True), ("[tenants.c]\n", True), ("[tenants.b]\n", True)):
        done = await check(tmp_path, upstream, tables, top=top)
        told = "may have been that of a" if where == "file" else "as the registry knows"
        assert (told in done.stdout) is closed
        assert "that of a, b, c" not in done.stdout, "what is only checked is not remembered"


async def test_says_that_it_cannot_know_while_redis_is_away(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    redis.stop()
    done = await check(tmp_path, upstream, "[tenants.b]\n", top=f'redis_url = "{redis.url}"')
    assert done.code == 0
    assert "cannot be read or kept: Redis" in done.stdout
    assert "as the registry knows: b." in done.stdout


class TestLive:
    async def test_finds_tenants_that_are_not_apart(self, tmp_path: Path, upstream: ScriptedUpstream) -> None:
        upstream.plays(by_key({"sk-a": "proj_1", "sk-b": "proj_1", "sk-c": "proj_2"}))
        done = await check(tmp_path, upstream, own("a", "b", "c"), "--live")

        assert done.code == 1
        assert "a, b have one upstream account (project proj_1)" in done.stderr
        assert "c: project proj_2" in done.stdout
        assert [sent.target for sent in upstream.requests] == ["/v1/models"] * 3
        assert "sk-a" not in done.stdout + done.stderr

    async def test_is_content_with_tenants_that_are(self, tmp_path: Path, upstream: ScriptedUpstream) -> None:
        upstream.plays(by_key({"sk-a": "proj_1", "sk-b": "proj_2"}))
        done = await check(tmp_path, upstream, own("a", "b"), "--live")
        assert done.code == 0, done.stderr

    async def test_asks_once_for_one_key_and_says_of_whom_the_word_would_be_true(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(by_key({"sk-common": "proj_1", "sk-c": "proj_2"}))
        done = await check(tmp_path, upstream, BOTH + '[tenants.c]\nupstream.api_key = "sk-c"\n', "--live")
        assert done.code == 0
        assert len(upstream.requests) == 2
        assert 'stored_objects = "own" under [tenants.c] would be true' in done.stdout
        assert "under [tenants.a] would" not in done.stdout

    async def test_says_whose_key_is_refused_and_whose_upstream_is_away(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(by_key({"sk-a": "proj_1"}, status="401 Unauthorized"))
        away = own("b") + 'upstream.base_url = "http://127.0.0.1:9/v1"\n'
        done = await check(tmp_path, upstream, own("a") + away, "--live")
        assert done.code == 1
        assert "a: its key is refused (401)" in done.stderr
        assert "b: the upstream cannot be reached" in done.stderr


async def test_warns_of_secrets_that_others_can_read_as_a_start_does(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    on_the_command_line = ("--set", "upstream.admin_api_key=sk-CANARY")
    done = await check(tmp_path, upstream, "[tenants.a]\n", *on_the_command_line)
    assert done.code == 0
    assert f"chmod o-r {tmp_path / 'gateway.toml'}" in done.stderr
    assert "upstream.admin_api_key: a secret on the command line" in done.stderr
    assert "CANARY" not in done.stderr + done.stdout

    listen = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
    arguments = ("serve", "--config", str(tmp_path / "gateway.toml"), *listen, *on_the_command_line)
    async with running_command(*arguments) as gateway:
        assert any("a secret on the command line" in line for line in gateway.stderr)
        assert any("chmod o-r" in line for line in gateway.stderr)


async def test_refuses_keys_that_others_can_read_and_certificates_that_are_none(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    ring, _ = ensure_ring(tmp_path / "keys")
    [key] = ring
    path = tmp_path / "keys" / f"{key.kid}.json"
    path.chmod(0o644)
    done = await check(tmp_path, upstream, "[tenants.a]\n")
    assert (done.code, f"chmod o-rwx {path}" in done.stderr) == (1, True)

    path.chmod(0o600)
    (tmp_path / "ca.pem").write_text("no certificate")
    done = await check(
        tmp_path, upstream, "[tenants.a]\n", "--set", f"upstream.ca_file={tmp_path / 'ca.pem'}"
    )
    assert (done.code, "upstream.ca_file" in done.stderr) == (1, True)
