"""`gateway serve` and `gateway demo`: their log as an operator has it, whatever becomes of their processes."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import orjson
import pytest

from gateway import __version__
from tests.kit.client import JSON, RawClient
from tests.kit.command import RunningCommand, run_command, running_command
from tests.kit.redis import RedisServer
from tests.kit.said import checked
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn
from tests.kit.waiting import until

FREE = ("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0")


def said(command: RunningCommand) -> list[dict[str, Any]]:
    """What it has said so far."""
    return [checked(line) for line in command.log]


async def stays(turn: Turn) -> None:
    """An event, and no end."""
    await turn.read_body()
    await turn.send(SSE_HEAD)
    await turn.chunk(b"data: {}\n\n")
    await turn.gone()


async def test_a_stream_whose_gateway_is_killed_is_found_in_the_log(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.plays(stays)
    async with (
        running_command(
            *("serve", *FREE, "--upstream", upstream.base_url, "--keys-dir", str(tmp_path / "keys")),
            *("--set", "log.start_seconds=0.3"),
        ) as command,
        await RawClient.connect(command.host, command.port, command.first_credential or "") as client,
    ):
        body = b'{"model":"m","stream":true}'
        await client.send(client.request_bytes("POST", "/v1/chat/completions", body, headers=JSON))
        id_ = (await client.read_head()).get("x-gateway-request-id")
        await until(lambda: len(command.stdout) == 1)
        command.signal(signal.SIGKILL)
        await command.exit_code()

    (line,) = map(checked, command.stdout)
    assert (line["event"], line["request_id"], line["client"]) == ("log.start", id_, "127.0.0.1")


async def test_every_process_says_what_it_is_in_one_form(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('[tenants.default]\n[tenants.gone]\n[tenants.third]\nname = "a"\n')
    async with running_command(
        *("serve", *FREE, "--config", str(file), "--workers", "2", "--upstream", upstream.base_url),
        *("--keys-dir", str(tmp_path / "keys"), "--set", f"redis_url={redis.url}"),
    ) as command:
        start = next(line for line in said(command) if "serving on" in line["message"])
        assert start["process"] == "supervisor"
        assert f"version {__version__}, serving on http://" in start["message"]
        assert "2 workers" in start["message"]

        file.write_text(
            'log.slow_seconds = 3\n[tenants.default]\n[tenants.new]\n[tenants.third]\nname = "b"\n'
        )
        await command.says("configuration reloaded", 10)
        await command.says("log has changed and takes effect at the next restart of the workers")
        (reloaded,) = (line for line in said(command) if "reloaded" in line["message"])
        assert reloaded["message"].endswith("tenants added: new; changed: third; removed: gone")

        redis.stop()
        await command.says("on_store_failure is local: each worker grants its share", 10)
        lost = [line for line in said(command) if "on_store_failure" in line["message"]]
        assert {line["process"] for line in lost} == {"worker"}
        redis.start()
        await command.says("limits are counted in Redis", 20)

        command.signal(signal.SIGTERM)
        command.signal(signal.SIGTERM)
        assert await command.exit_code(20) == 0
    assert {line["process"] for line in said(command)} == {"gateway", "supervisor", "worker"}
    assert {line.get("worker") for line in said(command) if line["process"] == "worker"} == {0, 1}


@pytest.mark.parametrize("by", ["flag", "variable", "set"])
async def test_text_is_for_people_and_forged_as_little(
    by: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    asked = {"flag": ("--log-format", "text"), "variable": (), "set": ("--set", "log.format=text")}[by]
    environ = {"GATEWAY_LOG__FORMAT": "text"} if by == "variable" else {}
    async with running_command(
        *("serve", *FREE, "--upstream", upstream.base_url, "--keys-dir", str(tmp_path / "keys"), *asked),
        **environ,
    ) as command:
        async with await RawClient.connect(
            command.host, command.port, command.first_credential or ""
        ) as client:
            await client.request("GET", "/v1/models")
            model = orjson.dumps({"model": 'a status=500 "x"\n2026 200 complete'})
            await client.request("POST", "/v1/embeddings", model, headers=JSON)
        await until(lambda: len(command.stdout) == 2)

    plain, odd = command.stdout
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}Z"
    assert re.match(rf"{time} 200 complete +0\.\d{{3}}s  default +GET  listModels +  client=", plain)
    assert r'model="a status=500 \"x\"\\u000a2026 200 complete"' in odd
    assert "\x1b" not in "".join([*command.stdout, *command.log])
    assert all(re.match(rf"{time} info +gateway +\S", line) for line in command.log), command.log


async def test_what_keeps_it_from_serving_is_a_line_too(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("nonsense = 1\n")
    done = await run_command("serve", *FREE, "--config", str(file), "--keys-dir", str(tmp_path / "keys"))
    text = await run_command("serve", *FREE, "--config", str(file), "--log-format", "text")

    assert done.code == text.code == 1
    assert done.stderr.startswith("gateway: nonsense: is not a setting")
    assert re.match(r"\S+ \S+Z error +gateway +nonsense: is not a setting", text.stderr)


async def test_readers_of_large_documents_speak_so_too(tmp_path: Path) -> None:
    """A process that reads large JSON has the form of whoever started it."""
    done = await run_command(
        module="tests.cli.reading_that_fails", GATEWAY_SPEAKER="json 3", PYTHONPATH=str(Path.cwd())
    )

    assert done.code == 1
    assert "this process ends by a defect" in done.stderr
