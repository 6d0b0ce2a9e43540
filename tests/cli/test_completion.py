"""`gateway completion` completes, asked by the shells themselves; zsh and fish where they are installed."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kit.command import environment, run_command

BASH = """
source "$1"
shift
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
completer=$(complete -p gateway | sed 's/.*-F \\([^ ]*\\).*/\\1/')
"$completer" gateway "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


def ask(script: Path, *words: str) -> list[str]:
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", str(script), "gateway", *words],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
        env=environment({}),
        cwd=script.parent,
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.fixture
async def script(tmp_path: Path) -> Path:
    done = await run_command("completion", "bash")
    assert (done.code, done.stderr) == (0, "")
    path = tmp_path / "gateway.bash"
    path.write_text(done.stdout)
    (tmp_path / "gateway.toml").touch()
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("cre",), {"credential"}),
        (("credential", "i"), {"issue", "inspect"}),
        (("routes", "--s"), {"--scope"}),
        (("keys", "generate", "--algorithm", "E"), {"EdDSA", "ES256"}),
        (("check", "--config", "gateway.t"), {"gateway.toml"}),
        (("completion", ""), {"bash", "zsh", "fish"}),
    ],
)
async def test_bash_completes_commands_options_and_values(
    script: Path, words: tuple[str, ...], expected: set[str]
) -> None:
    assert set(await asyncio.to_thread(ask, script, *words)) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_script_is_one_that_its_shell_can_read(tmp_path: Path, shell: str) -> None:
    done = await run_command("completion", shell)
    assert (done.code, done.stderr) == (0, "")
    for word in ("credential", "--keys-dir"):
        assert word.removeprefix("--") in done.stdout
    path = tmp_path / "script"
    path.write_text(done.stdout)
    if shutil.which(shell) is not None:
        read = await asyncio.to_thread(
            subprocess.run, [shell, "-n", str(path)], capture_output=True, check=False, timeout=30
        )
        assert (read.returncode, read.stderr) == (0, b"")
