"""What is wrong on a command line is named, with what was probably meant."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.kit.command import environment, run_command, words


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--listn", "127.0.0.1:0"), "there is no option --listn here; did you mean --listen?"),
        (("serv",), "'serv' is none of serve, restart, "),
        (("serv",), "; did you mean serve?"),
        (("credential", "lst"), "; did you mean list?"),
        (("keys", "generate", "--algorithm", "RS265"), "; did you mean RS256?"),
        (("usage", "--tennant", "a"), "there is no option --tennant here; did you mean --tenant?"),
        (("usage", "--tennant", "a"), "the following arguments are required: --tenant"),
        (("usage", "--tenant", "a", "b"), "'b' is one argument too many"),
        (("keys", "list", "--key-dir=x"), "there is no option --key-dir here; did you mean --keys-dir?"),
        (("usage", "--tenant"), "argument --tenant: expected one argument"),
        (("--config", "gateway.toml", "serve"), "--config has to stand behind what is to be done"),
        (("probe", "--redy"), "there is no option --redy here; did you mean --ready?"),
        (("explain",), "the following arguments are required: METHOD, PATH\n"),
        (("completion", "tcsh"), "'tcsh' is none of bash, zsh, fish"),
    ],
)
async def test_wrong_usage_exits_with_2_and_says_what_was_meant(
    arguments: tuple[str, ...], said: str
) -> None:
    done = await run_command(*arguments)

    assert (done.code, done.stdout) == (2, "")
    assert said in done.stderr
    assert "--help` says what there is" in done.stderr


async def test_what_may_be_a_credential_is_not_repeated() -> None:
    for secret in ("eyJhbGciOiJFZERTQSJ9.e30.c2ln", "sk-" + "x" * 20, "--" + "x" * 60):
        done = await run_command("usage", "--tenant", "a", secret)
        assert done.code == 2
        assert secret not in done.stderr


async def test_argument_that_is_no_text_is_shown_as_what_it_is(tmp_path: Path) -> None:
    keys = ("--keys-dir", str(tmp_path / "keys"))
    issued = await run_command("credential", "issue", "--tenant", "default", "--scope", "inference", *keys)
    (tmp_path / "jwt").write_text(issued.stdout)
    asked = ("explain", "POST", "/v1/chat/completions", f"@{tmp_path / 'jwt'}", *keys, "--model", "\udcff")
    for done in (await run_command(*asked), await run_command(*asked, "--json")):
        assert (done.code, done.stderr) == (0, "")
        assert "\\udcff" in done.stdout


async def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    for arguments in (
        ("check", "--config", missing),
        ("credential", "inspect", f"@{missing}"),
        ("explain", "GET", "/v1/models", f"@{missing}"),
        ("keys", "list", "--keys-dir", missing),
    ):
        done = await run_command(*arguments)
        assert (done.code, done.stdout) == (1, "")
        assert done.stderr.startswith(f"gateway: {missing}: ")
        assert "Errno" not in done.stderr


async def test_reader_who_leaves_early_gets_no_traceback() -> None:
    for arguments in (("routes",), ("routes", "--json"), ("--help",)):
        code, stderr = await asyncio.to_thread(_unread, arguments)
        assert (code, stderr) == (141, b"")


def _unread(arguments: tuple[str, ...]) -> tuple[int, bytes]:
    reading, writing = os.pipe()
    os.close(reading)
    with subprocess.Popen(
        words(arguments), stdout=writing, stderr=subprocess.PIPE, env=environment({})
    ) as process:
        os.close(writing)
        assert process.stderr is not None
        said = process.stderr.read()
        return process.wait(30), said


async def test_full_disk_is_said(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = await asyncio.to_thread(
            subprocess.run,
            words(("routes",)),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment({}),
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b"gateway: No space left on device\n")


async def test_interrupt_ends_a_command_without_a_traceback(tmp_path: Path) -> None:
    """One that waits for what somebody else has to write."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    process = await asyncio.create_subprocess_exec(
        *words(("credential", "inspect", f"@{pipe}")),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment({}),
    )
    writing = await asyncio.to_thread(os.open, pipe, os.O_WRONLY)  # waits for who reads
    process.send_signal(signal.SIGINT)
    stdout, stderr = await process.communicate()
    os.close(writing)
    assert (process.returncode, stdout, stderr) == (130, b"", b"")


async def test_closed_standard_input_is_an_empty_one() -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *words(("credential", "inspect"), "gateway")],
        capture_output=True,
        check=False,
        env=environment({}),
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"gateway: no credential was given: expected @FILE")
