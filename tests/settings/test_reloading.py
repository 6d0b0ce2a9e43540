"""The configuration followed while running: taken over whole, or not at all, and no stream notices."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from gateway.app.build import build_app
from gateway.app.process import make_runner
from gateway.credentials.key_ring import KeyRing, ensure_ring
from gateway.proxy.acceptor import listening_sockets
from gateway.settings.reloading import Configuration
from gateway.settings.seen import Seen
from gateway.settings.settings import Settings
from gateway.settings.sources import load
from tests.kit.asking import ask, credential_of, verdict
from tests.kit.client import JSON, RawClient
from tests.kit.command import running_command
from tests.kit.gateway import Gateway, LogReader
from tests.kit.tls import make_certificate
from tests.kit.upstream import ScriptedUpstream, Turn, two_events
from tests.kit.waiting import until
from tests.proxy.test_upstream_tls import tls_upstream

WITHIN_SECONDS = 2.0
DISABLED = (403, "tenant_disabled")
LOADED = 'gateway_configuration_loads_total{result="loaded"}'
FAILED = 'gateway_configuration_loads_total{result="failed"}'


ASKS_NOTHING = {"upstream": {"model_list_seconds": 0}}


@asynccontextmanager
async def following(file: Path) -> AsyncIterator[Gateway]:
    """A gateway that follows its configuration file, started as `gateway serve` does it."""
    lines = LogReader()
    ring = KeyRing.ephemeral()

    def read(seen: Seen | None = None) -> Settings:
        return load(file, flags=ASKS_NOTHING, environ={}, seen=seen)

    app = build_app(
        read(),
        ring=ring,
        log_descriptor=lines.descriptor,
        read_settings=read,
    )
    runner = make_runner(app)
    await runner.setup()
    try:
        runner.accept(listening_sockets("127.0.0.1", 0, backlog=8))
        host, port = runner.addresses[0][:2]
        yield Gateway(app, ring, host, port, lines, runner)
    finally:
        await runner.cleanup()
        await asyncio.to_thread(lines.close)


async def reload(gateway: Gateway) -> bool:
    """What SIGHUP asks for."""
    assert gateway.app.configuration is not None
    return await gateway.app.configuration.reload()


async def becomes(gateway: Gateway, wanted: tuple[int, str | None], tenant: str) -> None:
    """Wait until a tenant is answered so; fails when that takes longer than promised."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while verdict(await ask(gateway, "GET", "/v1/models", tenant=tenant)) != wanted:
            await asyncio.sleep(0.02)


@pytest.fixture
def config(tmp_path: Path, upstream: ScriptedUpstream) -> Path:
    """A configuration with the tenant `acme`."""
    return written(tmp_path / "gateway.toml", upstream, "[tenants.acme]\n")


def written(file: Path, upstream: ScriptedUpstream, tables: str, top: str = "") -> Path:
    """A configuration file in front of the scripted upstream."""
    way = f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "sk-upstream-key"\n'
    file.write_text(f"{top}\n{way}{tables}")
    return file


async def sent_key_becomes(gateway: Gateway, upstream: ScriptedUpstream, key: str) -> None:
    """Wait until a request goes up with this key; fails when that takes longer than promised."""
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            assert (await ask(gateway, "GET", "/v1/models")).status == 200
            if upstream.requests[-1].get("authorization") == f"Bearer {key}":
                return
            await asyncio.sleep(0.02)


def mounted(folder: Path, text: str, version: str) -> None:
    """Mount the file `key` as Kubernetes does, in place of what was mounted: `..data` is a link that is replaced."""
    (folder / f"..{version}").mkdir(parents=True)
    (folder / f"..{version}" / "key").write_text(text)
    (folder / "..data_tmp").symlink_to(f"..{version}")
    (folder / "..data_tmp").replace(folder / "..data")
    if not (folder / "key").is_symlink():
        (folder / "key").symlink_to("..data/key")


class TestSecretsAndCertificates:
    async def test_a_rotated_key_acts_within_two_seconds(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        folder = tmp_path / "secrets"
        mounted(folder, "sk-1\n", "2026_01")
        config = tmp_path / "gateway.toml"
        config.write_text(
            f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "file:{folder / "key"}"\n[tenants.acme]\n'
        )
        async with following(config) as gateway:
            await sent_key_becomes(gateway, upstream, "sk-1")

            mounted(folder, "sk-2\n", "2026_02")
            await sent_key_becomes(gateway, upstream, "sk-2")

            (folder / "..2026_02" / "key").write_text("sk-3\nX-Evil: 1\n")
            await until(lambda: gateway.metric(FAILED) == 1, WITHIN_SECONDS)
            await sent_key_becomes(gateway, upstream, "sk-2")

            (folder / "..2026_02" / "key").write_text("")
            await until(lambda: gateway.metric(FAILED) == 2, WITHIN_SECONDS)
            await sent_key_becomes(gateway, upstream, "sk-2")

            (folder / "..data" / "key").unlink()
            await until(lambda: gateway.metric(FAILED) == 3, WITHIN_SECONDS)
            mounted(folder, "sk-4\n", "2026_03")
            await sent_key_becomes(gateway, upstream, "sk-4")
            assert gateway.metric(LOADED) == 2

    async def test_a_rotated_key_of_administration_acts_too_and_its_end_closes_it(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        config, secret = tmp_path / "gateway.toml", tmp_path / "admin"
        secret.write_text("sk-admin-1")
        way = f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "sk"\n'
        tenant = '[tenants.acme]\nscopes = ["org.*"]\n'
        config.write_text(f'{way}admin_api_key = "file:{secret}"\n{tenant}')
        async with following(config) as gateway:
            assert (await ask(gateway, "GET", "/v1/organization/projects")).status == 200
            secret.write_text("sk-admin-2")
            await until(lambda: gateway.metric(LOADED) == 1, WITHIN_SECONDS)
            assert (await ask(gateway, "GET", "/v1/organization/projects")).status == 200
            config.write_text(way + tenant)
            await until(lambda: gateway.metric(LOADED) == 2, WITHIN_SECONDS)
            closed = verdict(await ask(gateway, "GET", "/v1/organization/projects"))

        assert closed == (403, "operation_closed")
        sent = [request.get("authorization") for request in upstream.requests]
        assert sent == ["Bearer sk-admin-1", "Bearer sk-admin-2"]

    async def test_new_certificates_count_for_new_connections_within_two_seconds(
        self, tmp_path: Path
    ) -> None:
        old, new = make_certificate(tmp_path, "old"), make_certificate(tmp_path, "new")
        trusted = tmp_path / "ca.pem"
        trusted.write_bytes(old[0].read_bytes())
        async with tls_upstream(old) as (old_port, _), tls_upstream(new) as (new_port, _):
            config = tmp_path / "gateway.toml"
            config.write_text(
                f'[upstream]\nca_file = "{trusted}"\napi_key = "sk"\nbase_url = "https://127.0.0.1:{old_port}/v1"\n'
                f'[tenants.acme]\n[tenants.new]\nupstream.base_url = "https://127.0.0.1:{new_port}/v1"\n'
            )
            unreachable = (502, "upstream_unreachable")
            async with following(config) as gateway:
                assert (await ask(gateway, "GET", "/v1/models")).status == 200
                assert verdict(await ask(gateway, "GET", "/v1/models", tenant="new")) == unreachable

                trusted.write_text("no certificate at all")
                await until(lambda: gateway.metric(FAILED) == 1, WITHIN_SECONDS)
                assert (await ask(gateway, "GET", "/v1/models")).status == 200

                trusted.write_bytes(new[0].read_bytes())
                await becomes(gateway, (200, None), "new")
                assert verdict(await ask(gateway, "GET", "/v1/models")) == unreachable


class TestFollowing:
    async def test_change_of_the_file_takes_effect_within_two_seconds(
        self, config: Path, upstream: ScriptedUpstream
    ) -> None:
        async with following(config) as gateway:
            assert (await ask(gateway, "GET", "/v1/models")).status == 200

            written(config, upstream, "[tenants.acme]\nenabled = false\n[tenants.newcomer]\n")

            await becomes(gateway, DISABLED, "acme")
            assert (await ask(gateway, "GET", "/v1/models", tenant="newcomer")).status == 200
            assert gateway.metric(LOADED) == 1

    async def test_files_may_come_change_and_go_in_a_folder(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        folder = tmp_path / "tenants.d"
        folder.mkdir()
        (folder / "acme.toml").write_text("[tenants.acme]\n")
        config = written(tmp_path / "gateway.toml", upstream, "", 'tenants_path = "tenants.d"')
        async with following(config) as gateway:
            (folder / "acme.toml").write_text("[tenants.acme]\nenabled = false\n")
            (folder / "more.toml").write_text("[tenants.newcomer]\n")
            (folder / "notes.txt").write_text("not a tenant")
            await becomes(gateway, (200, None), "newcomer")
            assert verdict(await ask(gateway, "GET", "/v1/models")) == DISABLED

            (folder / "acme.toml").unlink()
            await becomes(gateway, (403, "unknown_tenant"), "acme")

    async def test_files_may_be_swapped_behind_a_symbolic_link(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        """As Kubernetes does it; equal in size, and not newer than what they take the place of."""
        for name, enabled in (("one", "true "), ("two", "false")):
            (tmp_path / name).mkdir()
            file = written(tmp_path / name / "gateway.toml", upstream, f"[tenants.acme]\nenabled = {enabled}")
            os.utime(file, (1_700_000_000, 1_700_000_000))
        link = tmp_path / "current"
        link.symlink_to("one")
        async with following(link / "gateway.toml") as gateway:
            assert (await ask(gateway, "GET", "/v1/models")).status == 200

            (tmp_path / "next").symlink_to("two")
            (tmp_path / "next").rename(link)

            await becomes(gateway, DISABLED, "acme")

    async def test_goes_on_after_a_file_that_nobody_foresaw(
        self, config: Path, upstream: ScriptedUpstream, tmp_path: Path
    ) -> None:
        (tmp_path / "more.toml").write_text("[tenants.newcomer]\n")
        async with following(config) as gateway:
            config.write_text('tenants = 5\ntenants_path = "more.toml"\n')
            await gauge_becomes(gateway, 0)

            written(config, upstream, "[tenants.acme]\nenabled = false\n")

            await becomes(gateway, DISABLED, "acme")


async def gauge_becomes(gateway: Gateway, valid: int) -> None:
    await until(lambda: gateway.metric("gateway_configuration_valid") == valid, within_seconds=WITHIN_SECONDS)


class TestTakingOver:
    @pytest.mark.parametrize(
        ("before", "after", "change"),
        [
            ("", "enabled = false", ((200, None), DISABLED)),
            ('scopes = ["files:*"]', 'scopes = ["models:read"]', ((403, "missing_scope"), (200, None))),
            ("", "limits.max_requests_per_1_minute = 1", ((200, None), (429, "rate_limit_exceeded"))),
            ('upstream.api_key = "sk-one"', 'upstream.api_key = "sk-two"', ((200, None), (200, None))),
        ],
    )
    async def test_what_is_said_of_a_tenant_holds_for_its_next_request(
        self,
        tmp_path: Path,
        upstream: ScriptedUpstream,
        before: str,
        after: str,
        change: tuple[tuple[int, str | None], tuple[int, str | None]],
    ) -> None:
        config = written(tmp_path / "gateway.toml", upstream, f"[tenants.acme]\n{before}\n")
        async with following(config) as gateway:
            first = verdict(await ask(gateway, "GET", "/v1/models"))
            written(config, upstream, f"[tenants.acme]\n{after}\n")
            assert await reload(gateway)
            await ask(gateway, "GET", "/v1/models")
            second = verdict(await ask(gateway, "GET", "/v1/models"))

        assert (first, second) == change
        if "sk-one" in before:
            assert [sent.get("authorization") for sent in upstream.requests] == [
                "Bearer sk-one",
                "Bearer sk-two",
                "Bearer sk-two",
            ]

    async def test_new_tenant_on_the_same_key_closes_stored_objects_for_both(
        self, config: Path, upstream: ScriptedUpstream
    ) -> None:
        async with following(config) as gateway:
            alone = verdict(await ask(gateway, "GET", "/v1/files"))
            written(config, upstream, "[tenants.acme]\n[tenants.newcomer]\n")
            assert await reload(gateway)
            together = verdict(await ask(gateway, "GET", "/v1/files"))

        assert (alone, together) == ((200, None), (403, "shared_upstream"))

    async def test_running_stream_notices_nothing_of_what_takes_nothing_away(
        self, config: Path, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(two_events)
        async with following(config) as gateway:
            client = await gateway.connect()
            await client.send(client.request_bytes("POST", "/v1/chat/completions", b"{}", headers=JSON))
            await client.read_head()
            assert await client.read_chunk() == b"data: 1\n\n"

            written(config, upstream, '[tenants.acme]\nname = "Acme"\n[tenants.off]\nenabled = false\n')
            assert await reload(gateway)
            assert verdict(await ask(gateway, "GET", "/v1/models", tenant="off")) == DISABLED
            upstream.gate("go on").set()

            assert await client.read_chunk() == b"data: 2\n\n"
            assert await client.read_chunk() == b""
            await client.close()
            line = (await gateway.lines.wait(2))[-1]

        assert (line["tenant"], line["status"], line["ending"]) == ("acme", 200, "complete")

    async def test_credential_rules_are_taken_over(self, config: Path, upstream: ScriptedUpstream) -> None:
        async with following(config) as gateway:
            held = gateway.credential()
            assert (await ask(gateway, "GET", "/v1/models", credential=held)).status == 200
            written(config, upstream, '[tenants.acme]\n[credentials]\naudience = "elsewhere"\n')
            assert await reload(gateway)

            assert verdict(await ask(gateway, "GET", "/v1/models", credential=held)) == (
                401,
                "invalid_api_key",
            )

    async def test_what_waits_for_the_next_start_is_named(
        self, config: Path, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with following(config) as gateway:
            written(config, upstream, "[tenants.acme]\n[edge]\nkeepalive_seconds = 7\n", "drain_seconds = 9")
            assert await reload(gateway)

        said = [record.getMessage() for record in caplog.records if "next start" in record.getMessage()]
        assert [text.split()[1] for text in said] == ["drain_seconds", "edge"]


class TestRefusing:
    BAD = (
        'listen = "nonsense"\ntenants_path = "tenants.d"\n[upstream]\nbase_url = "ftp://x"\n'
        '[tenants.acme]\nenabled = false\nscopes = ["nope:read"]\n'
        '[tenants.newcomer]\nlimits.max_requests_per_1_minute = -1\nupstream.api_key = "env:UNSET"\n'
    )

    async def test_bad_file_changes_nothing_says_every_problem_and_shows_in_metrics(
        self, config: Path, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = config.parent / "tenants.d"
        folder.mkdir()
        (folder / "one.toml").write_text("[tenants.one]\nbogus = 1\n")
        (folder / "two.toml").write_text("[tenants.one]\n[other]\n")
        async with following(config) as gateway:
            assert gateway.metric("gateway_configuration_valid") == 1
            config.write_text(self.BAD)
            assert not await reload(gateway)

            assert gateway.metric("gateway_configuration_valid") == 0
            assert (gateway.metric(LOADED), gateway.metric(FAILED)) == (0, 1)
            assert (await ask(gateway, "GET", "/v1/models")).status == 200
            assert verdict(await ask(gateway, "GET", "/v1/models", tenant="newcomer")) == (
                403,
                "unknown_tenant",
            )

            written(config, upstream, "[tenants.acme]\n")
            assert await reload(gateway)
            assert gateway.metric("gateway_configuration_valid") == 1
            assert (gateway.metric(LOADED), gateway.metric(FAILED)) == (1, 1)

        said = "\n".join(record.getMessage() for record in caplog.records if record.levelname == "ERROR")
        for key in (
            *("listen", "upstream.base_url", "tenants.acme.scopes", "tenants.newcomer.upstream.api_key"),
            "tenants.newcomer.limits.max_requests_per_1_minute",
            *("tenants.one: is in", "two.toml: other"),
        ):
            assert key in said, said

    @pytest.mark.parametrize("kind", ["gone", "not toml", "not utf-8", "a folder", "no tenants", "no table"])
    async def test_file_that_says_nothing_changes_nothing(
        self, config: Path, upstream: ScriptedUpstream, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with following(config) as gateway:
            match kind:
                case "gone":
                    config.unlink()
                case "not toml":
                    config.write_text("[tenants.acme")
                case "not utf-8":
                    config.write_bytes(b'listen = "\xff"')
                case "a folder":
                    config.unlink()
                    config.mkdir()
                case "no tenants":
                    config.write_text("[tenants]\n")
                case "no table":
                    config.write_text("tenants = [1]\n")
            assert not await reload(gateway)
            assert (await ask(gateway, "GET", "/v1/models")).status == 200

        assert "configuration not reloaded" in caplog.text

    async def test_tenant_that_two_files_describe_is_a_problem_that_names_both(
        self, tmp_path: Path, upstream: ScriptedUpstream, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "tenants.d"
        folder.mkdir()
        (folder / "one.toml").write_text("[tenants.acme]\n")
        config = written(tmp_path / "gateway.toml", upstream, "", 'tenants_path = "tenants.d"')
        async with following(config) as gateway:
            (folder / "two.toml").write_text("[tenants.acme]\nenabled = false\n")
            assert not await reload(gateway)
            assert (await ask(gateway, "GET", "/v1/models")).status == 200

        assert "one.toml" in caplog.text
        assert "two.toml" in caplog.text

    async def test_secret_in_a_bad_file_is_not_said(
        self, config: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with following(config) as gateway:
            config.write_text(
                'redis_url = 5\nupstream = "sk-CANARY-1"\n[tenants.acme.upstream]\napi_keys = "sk-CANARY-2"\n'
                'api_key = ["sk-CANARY-3"]\n[tenants.sk-CANARY-4]\n[issuers.x]\njwks = [{ k = "CANARY-5" }]\n'
            )
            assert not await reload(gateway)

        said = caplog.text
        assert "upstream" in said
        for number in (1, 2, 3, 5):
            assert f"CANARY-{number}" not in said, said


async def test_reload_of_200_tenants_holds_up_no_stream(config: Path, upstream: ScriptedUpstream) -> None:
    tenants = "".join(
        f'[tenants.t{number}]\nscopes = ["*", "realtime:mint"]\nmodels = ["gpt-4o*"]\n'
        for number in range(200)
    )
    async with following(config) as gateway:
        written(config, upstream, "[tenants.acme]\n" + tenants)
        reloading = asyncio.create_task(reload(gateway))
        loop = asyncio.get_running_loop()
        longest, last = 0.0, loop.time()
        while not reloading.done():
            await asyncio.sleep(0.005)
            now = loop.time()
            longest, last = max(longest, now - last), now
        assert await reloading

    assert longest < 0.25


async def test_reload_that_read_the_files_later_is_the_one_that_holds() -> None:
    """A slow reading of what the files said before must not end up in force."""
    began, go_on = threading.Event(), threading.Event()
    readings: list[str] = []
    taken: list[Any] = []

    def read(_: Seen) -> Any:
        reading = load(flags={"drain_seconds": float(len(readings))}, environ={})
        readings.append("")
        if len(readings) == 1:
            began.set()
            assert go_on.wait(5)
        return reading

    async def take(settings: Settings) -> list[str]:
        taken.append(settings.drain_seconds)
        return []

    configuration = Configuration(read=read, take=take, loaded=lambda _: None, tenants=lambda _: {})
    first = asyncio.create_task(configuration.reload())
    await asyncio.to_thread(began.wait, 5)
    second = asyncio.create_task(configuration.reload())
    await asyncio.sleep(0.1)
    go_on.set()

    assert all(await asyncio.gather(first, second))
    assert taken[-1] == max(taken)


async def test_sighup_reads_everything_again_under_a_running_stream(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk-before\n")
    config = tmp_path / "gateway.toml"
    config.write_text(
        f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "file:{secret}"\n[tenants.default]\n'
    )
    ring, _ = ensure_ring(tmp_path / "keys")
    credential = credential_of(ring, ["models:read", "chat.completions:write"])
    upstream.plays(two_events)
    async with (
        running_command(
            *("serve", "--config", str(config), "--keys-dir", str(tmp_path / "keys")),
            *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--set", "drain_notice_seconds=0"),
        ) as process,
        await RawClient.connect(process.host, process.port, credential) as client,
    ):
        await client.send(client.request_bytes("POST", "/v1/chat/completions", b"{}", headers=JSON))
        await client.read_head()
        assert await client.read_chunk() == b"data: 1\n\n"

        secret.write_text("sk-after\n")
        process.signal(signal.SIGHUP)
        await process.says("configuration reloaded", within_seconds=WITHIN_SECONDS)
        assert not any("next start" in line for line in process.stderr)
        upstream.gate("go on").set()
        assert await client.read_chunk() == b"data: 2\n\n"
        assert await client.read_chunk() == b""
        upstream.plays(answer_models)
        assert (await client.request("GET", "/v1/models")).status == 200

        config.write_text("[tenants.default]\nbogus = 1\n")
        process.signal(signal.SIGHUP)
        await process.says("tenants.default.bogus", within_seconds=WITHIN_SECONDS)
        assert (await client.request("GET", "/v1/models")).status == 200
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{process.admin_port}/metrics") as metrics,
        ):
            assert "gateway_configuration_valid 0.0" in await metrics.text()
        process.signal(signal.SIGTERM)
        assert await process.exit_code() == 0

    assert [sent.get("authorization") for sent in upstream.requests] == [
        "Bearer sk-before",
        "Bearer sk-after",
        "Bearer sk-after",
    ]
    assert [orjson.loads(line)["ending"] for line in process.stdout] == ["complete"] * 3


async def answer_models(turn: Turn) -> None:
    await turn.read_body()
    await turn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
