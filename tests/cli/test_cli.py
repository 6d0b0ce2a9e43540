"""The `gateway` command as an operator meets it: a process with arguments, an environment, output and an exit code."""

from __future__ import annotations

import asyncio
import re
import stat
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import orjson
import pytest

from tests.kit.client import STREAMED_QUESTION, RawAnswer, RawClient
from tests.kit.command import RunningCommand, run_command, running_command
from tests.kit.upstream import ScriptedUpstream, answer_ok, two_events

ANYWHERE = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")
AT_ONCE = ("--set", "drain_notice_seconds=0")
ISSUE = ("credential", "issue")
CREDENTIAL = re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]+")


class TestImports:
    async def test_a_command_imports_what_it_works_with_and_nothing_more(self) -> None:
        done = await run_command(*ISSUE, "--help", PYTHONPROFILEIMPORTTIME="1")

        imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
        assert "gateway.cli.credential" in imported
        assert not imported & {"gateway.cli.serve", "gateway.cli.demo", "gateway.simulator", "redis"}

    async def test_who_has_no_redis_does_not_import_its_client(self, tmp_path: Path) -> None:
        environ = {"OPENAI_API_KEY": "sk-x", "HOME": str(tmp_path), "PYTHONPROFILEIMPORTTIME": "1"}
        async with running_command("serve", *ANYWHERE, *AT_ONCE, **environ) as command:
            imported = {line.rpartition(" ")[2] for line in command.stderr if line.startswith("import time:")}

        assert "gateway.app.build" in imported
        assert not imported & {"gateway.redis.servers", "redis", "gateway.simulator"}
        assert not imported & {"rich", "shtab"}, "who draws no table needs nobody who does"


class TestCheck:
    async def test_every_problem_is_printed_at_once_with_its_key_and_what_would_be_right(
        self, tmp_path: Path
    ) -> None:
        config = tmp_path / "gateway.toml"
        config.write_text(
            'listen = "nonsense"\n'
            'on_store_failure = "sometimes"\n'
            "drain_secnds = 3\n"
            'redis_url = "env:NO_SUCH_VARIABLE"\n'
            "[upstream]\n"
            'base_url = "api.example.com"\n'
            'api_key = "sk-never-shown"\n'
            "[tenants.acme]\n"
            'scopes = ["chat.completion:write"]\n'
            "limits.max_requests_per_1_minute = -5\n"
        )

        done = await run_command(
            *("check", "--config", str(config), "--set", "edge.keepalive_seconds=0"),
            GATEWAY_EDGE__MAX_HEADER_BYTES="lots",
        )

        problems = dict(line.removeprefix("gateway: ").split(": ", 1) for line in done.stderr.splitlines())
        assert problems.keys() == {
            "listen",
            "on_store_failure",
            "drain_secnds",
            "redis_url",
            "upstream.base_url",
            "tenants.acme.scopes",
            "tenants.acme.limits.max_requests_per_1_minute",
            "edge.keepalive_seconds",
            "edge.max_header_bytes",
        }
        assert "127.0.0.1:8080" in problems["listen"]
        assert "'local'" in problems["on_store_failure"]
        assert "'drain_seconds'" in problems["drain_secnds"]
        assert "NO_SUCH_VARIABLE" in problems["redis_url"]
        assert "http" in problems["upstream.base_url"]
        assert "'chat.completions:write'" in problems["tenants.acme.scopes"]
        assert "greater than 0" in problems["tenants.acme.limits.max_requests_per_1_minute"]
        assert (done.code, done.stdout) == (1, "")
        assert "never-shown" not in done.stderr

    async def test_flags_win_over_the_environment_and_the_environment_over_the_file(
        self, tmp_path: Path
    ) -> None:
        config = tmp_path / "gateway.toml"
        config.write_text(
            '[upstream]\nbase_url = "http://file.test/v1"\n[tenants.acme]\n[tenants.umbrella]\n'
        )
        file = ("--config", str(config))
        flag = ("--upstream", "http://flag.test/v1")
        sdk_variable = {"OPENAI_BASE_URL": "http://sdk.test/v1", "OPENAI_API_KEY": "sk-upstream"}
        variable = {"GATEWAY_UPSTREAM__BASE_URL": "http://environment.test/v1"} | sdk_variable

        answers = await asyncio.gather(
            run_command("check", *file, **sdk_variable),
            run_command("check", *file, **variable),
            run_command("check", *file, *flag, **variable),
        )

        assert [(done.code, done.stderr) for done in answers] == [(0, "")] * 3
        named = [re.findall(r"http://(\w+)\.test/v1", done.stdout) for done in answers]
        assert named == [["file"], ["environment"], ["flag"]]
        for done in answers:
            assert "acme" in done.stdout
            assert "umbrella" in done.stdout

    async def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        config = tmp_path / "gateway.toml"
        config.write_text("listen = [")

        done = await run_command("check", "--config", str(config))

        assert (done.code, done.stdout) == (1, "")
        assert done.stderr.startswith(f"gateway: {config}: is not TOML")


class TestServe:
    async def test_first_run_without_a_file_makes_a_key_and_prints_one_credential_that_works(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        environ = {
            "OPENAI_API_KEY": "sk-upstream-key",
            "OPENAI_BASE_URL": upstream.base_url,
            "HOME": str(tmp_path),
        }

        async with running_command("serve", *ANYWHERE, *AT_ONCE, **environ) as first:
            credential = first.first_credential
            assert credential is not None
            answer = await ask(first, credential)
            first.signal()
            assert await first.exit_code() == 0
        async with running_command("serve", *ANYWHERE, *AT_ONCE, **environ) as second:
            again = await ask(second, credential)
            second.signal()
            assert await second.exit_code() == 0

        assert (answer.status, again.status) == (200, 200)
        assert upstream.requests[0].get("authorization") == "Bearer sk-upstream-key"
        assert jwt.decode(credential, options={"verify_signature": False})["tenant"] == "default"
        keys = tmp_path / ".config/gateway/keys"
        (key,) = keys.glob("*.json")
        assert stat.S_IMODE(keys.stat().st_mode) == 0o700
        assert stat.S_IMODE(key.stat().st_mode) == 0o600
        assert second.first_credential is None
        assert CREDENTIAL.findall("\n".join([*first.stderr, *second.stderr])) == []
        for gateway in (first, second):
            (line,) = map(orjson.loads, gateway.stdout)
            assert (line["tenant"], line["operation"], line["status"]) == ("default", "listModels", 200)

    async def test_public_api_without_a_key_is_refused_with_the_variable_to_set(self, tmp_path: Path) -> None:
        done = await run_command("serve", *ANYWHERE, HOME=str(tmp_path))

        assert (done.code, done.stdout) == (1, "")
        assert "upstream.api_key" in done.stderr
        assert "OPENAI_API_KEY" in done.stderr
        assert [*tmp_path.iterdir()] == [], "nothing is made for a gateway that does not start"

    async def test_address_that_is_taken_is_named(self, tmp_path: Path, upstream: ScriptedUpstream) -> None:
        taken = f"127.0.0.1:{upstream.port}"
        public, private = await asyncio.gather(
            *(
                run_command(
                    *("serve", "--upstream", "http://127.0.0.1:9/v1", "--keys-dir", str(tmp_path / name)),
                    *("--listen", taken if name == "listen" else "127.0.0.1:0"),
                    *("--admin-listen", taken if name == "admin_listen" else "127.0.0.1:0"),
                )
                for name in ("listen", "admin_listen")
            )
        )

        assert (public.code, private.code) == (1, 1)
        assert f"gateway: listen {taken}: " in public.stderr
        assert f"gateway: admin_listen {taken}: " in private.stderr
        for done in (public, private):
            assert "Traceback" not in done.stderr

    async def test_sigterm_lets_a_running_stream_finish_and_exits_with_0(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        upstream.plays(two_events)
        async with (
            serving(tmp_path, upstream, "--set", "drain_notice_seconds=1") as gateway,
            await streaming(gateway) as client,
        ):
            assert await status_of(gateway, "/readyz") == 200
            gateway.signal()
            await gateway.says("stopping")
            upstream.plays(answer_ok)
            assert (await ask(gateway, client.credential)).status == 200, (
                "load balancers have not noticed yet"
            )
            assert await status_of(gateway, "/readyz") == 503
            assert await status_of(gateway, "/livez") == 200
            await refuses_connections(gateway)
            await asyncio.sleep(1)  # longer than a server that only shuts down would wait

            upstream.gate("go on").set()
            assert await client.read_chunk() == b"data: 2\n\n"
            assert await client.read_chunk() == b""
            assert await gateway.exit_code() == 0

        lines = [*map(orjson.loads, gateway.stdout)]
        assert [(line["operation"], line["status"], line["ending"]) for line in lines] == [
            ("listModels", 200, "complete"),
            ("createChatCompletion", 200, "complete"),
        ]

    @pytest.mark.parametrize("reason", ["second signal", "drain time is over"])
    async def test_stream_that_is_not_waited_for_is_cut_and_logged_as_drained(
        self, tmp_path: Path, upstream: ScriptedUpstream, reason: str
    ) -> None:
        upstream.plays(two_events)
        seconds = "60" if reason == "second signal" else "0.2"
        async with (
            serving(tmp_path, upstream, *AT_ONCE, "--set", f"drain_seconds={seconds}") as gateway,
            await streaming(gateway) as client,
        ):
            gateway.signal()
            await gateway.says("stopping")
            if reason == "second signal":
                gateway.signal()

            assert await gateway.exit_code(within_seconds=5) == 0
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.read_chunk()

        (line,) = map(orjson.loads, gateway.stdout)
        assert (line["status"], line["ending"]) == (200, "drained")


class TestCredential:
    async def test_issued_credential_opens_its_scopes_for_its_tenant_and_nothing_else(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        keys = ("--keys-dir", str(tmp_path / "keys"))
        # The first command makes the key, so that the others find it.
        narrow = await run_command(
            *(*ISSUE, "--tenant", "default", "--subject", "app", *keys),
            *("--scope", "chat.completions:write", "--scope", "files:*", "--ttl", "2h"),
        )
        foreign, misspelt = await asyncio.gather(
            run_command(*ISSUE, "--tenant", "acme", "--scope", "*", *keys, "--set", "tenants.acme.name=Acme"),
            run_command(*ISSUE, "--tenant", "default", "--scope", "model:read", *keys),
        )

        assert (narrow.code, narrow.stdout.count("\n")) == (0, 1)
        claims = jwt.decode(narrow.stdout.strip(), options={"verify_signature": False})
        assert (claims["tenant"], claims["sub"]) == ("default", "app")
        assert claims["exp"] - claims["iat"] == 7200
        assert claims["scope"].split(" ") == ["files:*", "chat.completions:write"]
        assert foreign.code == 0
        assert (misspelt.code, misspelt.stdout) == (1, "")
        assert "'models:read'" in misspelt.stderr

        async with serving(tmp_path, upstream) as gateway:
            assert gateway.first_credential is None, "there is a key, so none is made"
            granted = await ask(gateway, narrow.stdout.strip(), "/v1/files")
            refused = await ask(gateway, narrow.stdout.strip(), "/v1/models")
            unknown = await ask(gateway, foreign.stdout.strip(), "/v1/models")

        assert granted.status == 200
        assert (refused.status, error_of(refused)["code"]) == (403, "missing_scope")
        assert "models:read" in error_of(refused)["message"]
        assert (unknown.status, error_of(unknown)["code"]) == (403, "unknown_tenant")
        assert len(upstream.requests) == 1


class TestKeys:
    async def test_generated_keys_of_every_other_algorithm_sign_credentials_that_are_accepted(
        self, tmp_path: Path, upstream: ScriptedUpstream
    ) -> None:
        async def credential_of(algorithm: str) -> str:
            """Signed by a new key, which then joins the ring that verifies them all."""
            directory = tmp_path / algorithm
            keys, kid = ("--keys-dir", str(directory)), f"key-{algorithm.lower()}"
            made = await run_command("keys", "generate", "--algorithm", algorithm, "--kid", kid, *keys)
            issued = await run_command(*ISSUE, "--tenant", "default", "--scope", "models:read", *keys)
            (file,) = directory.iterdir()

            assert (made.code, issued.code) == (0, 0), (made, issued)
            assert str(file) in made.stdout
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
            assert orjson.loads(file.read_bytes())["alg"] == algorithm
            credential = issued.stdout.strip()
            header = jwt.get_unverified_header(credential)
            assert (header["alg"], header["kid"]) == (algorithm, kid)
            file.rename(tmp_path / "keys" / file.name)
            return credential

        (tmp_path / "keys").mkdir(mode=0o700)
        credentials = await asyncio.gather(*map(credential_of, ("HS256", "ES256", "RS256")))

        async with serving(tmp_path, upstream) as gateway:
            for credential in credentials:
                assert (await ask(gateway, credential)).status == 200


def serving(directory: Path, upstream: ScriptedUpstream, *more: str) -> Any:
    """A gateway in front of the scripted upstream, with its keys in a directory of the test."""
    return running_command(
        *("serve", *ANYWHERE, "--upstream", upstream.base_url, "--keys-dir", str(directory / "keys"), *more)
    )


async def streaming(gateway: RunningCommand) -> RawClient:
    """A client that has read the first event of a stream."""
    credential = gateway.first_credential
    assert credential is not None
    client = await RawClient.connect(gateway.host, gateway.port, credential)
    headers = "Content-Type: application/json\r\n"
    await client.send(
        client.request_bytes("POST", "/v1/chat/completions", STREAMED_QUESTION, headers=headers)
    )
    await client.read_head()
    assert await client.read_chunk() == b"data: 1\n\n"
    return client


async def ask(gateway: RunningCommand, credential: str, target: str = "/v1/models") -> RawAnswer:
    async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
        return await client.request("GET", target)


async def status_of(gateway: RunningCommand, path: str) -> int:
    """What the private listener answers."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{gateway.admin_port}{path}") as answer,
    ):
        return answer.status


async def refuses_connections(gateway: RunningCommand) -> None:
    """Wait until nobody listens any more."""
    async with asyncio.timeout(5):
        while True:
            try:
                client = await RawClient.connect(gateway.host, gateway.port)
            except ConnectionRefusedError:
                return
            await client.close()
            await asyncio.sleep(0.01)


def error_of(answer: RawAnswer) -> Any:
    return orjson.loads(answer.body)["error"]
