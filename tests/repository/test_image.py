"""The image holds what is locked and nothing else, belongs to nobody with rights, and asks itself how it is."""

from __future__ import annotations

import re
from pathlib import Path

import orjson

from gateway import __version__
from gateway.cli import parser
from gateway.settings.sources import load

ROOT = Path(__file__).parents[2]
DOCKERFILE = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE)
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line]
LAST = INSTRUCTIONS[max(at for at, (word, _) in enumerate(INSTRUCTIONS) if word == "FROM") :]


def said(word: str) -> str:
    """What the last stage says by an instruction that it has once."""
    [rest] = [rest for name, rest in LAST if name == word]
    return rest


def command(word: str) -> list[str]:
    """The words of a command, which is no shell's."""
    return [str(part) for part in orjson.loads("[" + said(word).partition("[")[2])]


def test_nothing_is_installed_but_by_hash_or_from_what_was_built_here() -> None:
    installs = re.findall(
        r"pip\S* (?:--python \S+ )?(?:install|wheel) ([^&\n]*)", DOCKERFILE.replace("\\\n", " ")
    )
    assert (
        len(installs) == DOCKERFILE.count(" install --no-cache") + DOCKERFILE.count(" wheel --no-cache") > 3
    )
    for install in installs:
        assert "--require-hashes" in install or "--no-index" in install, install


def test_what_it_is_made_from_can_be_named_by_digest() -> None:
    assert INSTRUCTIONS[0][0] == "ARG"
    name, _, default = INSTRUCTIONS[0][1].partition("=")
    assert re.fullmatch(r"python:3\.\d+-slim-\w+(@sha256:[0-9a-f]{64})?", default)
    assert {rest.split()[0] for word, rest in INSTRUCTIONS if word == "FROM"} == {f"${{{name}}}"}


def test_the_last_stage_is_files_alone_and_their_user_a_number() -> None:
    assert not any(word in ("RUN", "ADD") for word, _ in LAST)
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", said("USER"))
    owners = re.findall(r"--chown=(\S+) /var/lib/gateway /var/lib/gateway$", DOCKERFILE, re.MULTILINE)
    assert owners == [said("USER")]


def test_it_tells_its_version() -> None:
    assert f'org.opencontainers.image.version="{__version__}"' in said("LABEL")


def test_it_serves_and_asks_by_verbs_that_there_are() -> None:
    for words in (
        [*command("ENTRYPOINT"), *command("CMD")],
        command("HEALTHCHECK"),
    ):
        assert words[0] == "gateway"
        assert parser(words[1]).parse_args(words[1:]).run


def test_its_variables_are_settings_and_its_keys_lie_in_the_volume() -> None:
    variables = dict(re.findall(r"(GATEWAY_\w+)=(\S+)", said("ENV")))
    settings = load(environ=variables)
    assert str(settings.keys_dir) == said("VOLUME")
    ports = [address.rpartition(":")[2] for address in (settings.listen, settings.admin_listen)]
    assert said("EXPOSE").split() == ports


def test_ci_runs_its_steps() -> None:
    assert '"$bin/python" .ci/image.py' in (ROOT / ".ci" / "run").read_text("utf-8")
