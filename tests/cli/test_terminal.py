"""What a person sees: listings that fit the terminal, colours only where they are wanted, plain lines for pipes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from tests.kit.command import run_command
from tests.kit.redis import RedisServer
from tests.kit.terminal import on_terminal


@pytest.mark.parametrize("columns", [40, 80, 200])
async def test_listings_fit_the_terminal(tmp_path: Path, redis: RedisServer, columns: int) -> None:
    keys = ("--keys-dir", str(tmp_path / "keys"), "--set", f"redis_url={redis.url}")
    issued = await run_command(
        *("credential", "issue", "--tenant", "default", "--scope", "inference", "--subject", "billing", *keys)
    )
    assert issued.code == 0
    credential = tmp_path / "credential"
    credential.write_text(issued.stdout)
    limited = ("--set", "tenants.default.limits.max_requests_per_1_minute=60")
    for command in (
        ("routes", "chat"),
        ("keys", "list", *keys),
        ("credential", "list", *keys),
        ("credential", "inspect", f"@{credential}", *keys),
        ("explain", "POST", "/v1/chat/completions", f"@{credential}", *keys),
        ("limits", "show", "--tenant", "default", *keys, *limited),
        ("usage", "--tenant", "default", *keys),
        ("check", "--upstream", "http://upstream.test/v1", *keys),
    ):
        screen = await on_terminal(*command, columns=columns)
        assert screen.code == 0, screen.text
        assert 0 < screen.widest <= columns, screen.text
        assert "Traceback" not in screen.text


async def test_row_without_room_for_columns_gets_lines_of_its_own() -> None:
    narrow = await on_terminal("routes", "createBatch", columns=40)
    assert narrow.text.split() == (
        ["OPERATION", "createBatch", "METHOD", "POST", "PATH", "/v1/batches", "SCOPE", "batches:write"]
    )
    wide = await on_terminal("routes", "createBatch", columns=80)
    assert [line.split() for line in wide.text.splitlines()] == [
        ["OPERATION", "METHOD", "PATH", "SCOPE"],
        ["createBatch", "POST", "/v1/batches", "batches:write"],
    ]


async def test_colours_are_for_terminals_that_want_some() -> None:
    wrong = partial(on_terminal, "routes", "--scope", "nothing")
    assert "\x1b[1;31mgateway:" in (await wrong()).styled
    for screen in (await wrong(NO_COLOR="1"), await wrong(TERM="dumb")):
        assert "31m" not in screen.styled
    piped = await run_command("routes", "chat", TERM="xterm-256color", FORCE_COLOR="1")
    assert "\x1b" not in piped.stdout


async def test_pipe_gets_a_line_for_each_row_however_long() -> None:
    piped = await run_command("routes", COLUMNS="40")
    lines = piped.stdout.splitlines()
    assert max(map(len, lines)) > 80
    assert all(len(line.split()) == 4 for line in lines)
    places = {line.index("/v1/") for line in lines[1:]}
    assert len(places) == 1, "columns are aligned"
