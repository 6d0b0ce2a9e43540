"""What the repository's documents and configuration say is what the code does."""

from __future__ import annotations

import inspect
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from gateway import __version__, errors
from gateway.cli import main, parser
from gateway.errors import BadRequest, Ending, GatewayError
from gateway.exchange.exchange import Exchange
from gateway.exchange.log import access_record
from gateway.exchange.metrics import USAGE_KINDS
from gateway.limits.terms import Dimension
from gateway.middleware.record import UNMATCHED
from gateway.operations.scopes import expand
from gateway.operations.table import OperationTable
from gateway.settings.settings import Settings
from gateway.settings.sources import load
from gateway.wire import passing
from tests.repository.test_dashboards import instruments

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
SOURCES = sorted((ROOT / "gateway").rglob("*.py"))
PRODUCTION = ROOT / "config" / "production.toml"

DEMO_COMMAND = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/gateway demo"
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest"


def fenced(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    """The README's text under a heading."""
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of the table under a heading, without its two head lines."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# Commands and configuration


def test_readme_prints_the_two_commands() -> None:
    blocks = [line for block in fenced("sh") for line in block.splitlines()]
    assert DEMO_COMMAND in blocks
    assert TEST_COMMAND in blocks


def test_every_gateway_command_in_readme_is_one_that_the_command_line_takes() -> None:
    lines = [line.removeprefix(".venv/bin/") for block in fenced("sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("gateway ")]
    assert len(commands) >= 6
    for command in commands:
        parser().parse_args(command)


def test_toml_in_readme_loads_and_its_scopes_exist(tmp_path: Path) -> None:
    blocks = fenced("toml")
    assert blocks
    for block in blocks:
        file = tmp_path / "gateway.toml"
        file.write_text(block, encoding="utf-8")
        for tenant in load(file, environ=referred(block)).tenants.values():
            expand(tenant.scopes, OperationTable.load().scopes)


def test_readme_names_settings_that_exist() -> None:
    known = set(paths(Settings))
    for cell, *_ in rows("Configuration"):
        for key in quoted(cell):
            assert any(re.fullmatch(key.replace(".…", r"\..+"), path) for path in known), key


def test_gateway_toml_needs_nothing_but_a_key_in_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", "--config", str(ROOT / "config" / "gateway.toml")]
    assert main(command) == 1
    assert "OPENAI_API_KEY" in capsys.readouterr().err
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    assert main(command) == 0


def test_production_toml_states_the_defaults() -> None:
    assert load(PRODUCTION, environ={}) == load(environ={})
    stated = tomllib.loads(PRODUCTION.read_text("utf-8"))
    assert set(mentioned(stated, Settings)) == set(fields(Settings, with_default=True))


def test_production_toml_mentions_every_key_with_a_value_that_is_valid(tmp_path: Path) -> None:
    text = PRODUCTION.read_text("utf-8")
    uncommented = re.sub(r"^# (?=\[|[a-z_0-9]+ = )", "", text, flags=re.MULTILINE)
    assert set(mentioned(tomllib.loads(uncommented), Settings)) == set(fields(Settings))
    file = tmp_path / "production.toml"
    file.write_text(uncommented, encoding="utf-8")
    (tmp_path / "tenants.d").mkdir()
    load(file, environ=referred(uncommented))


def referred(text: str) -> dict[str, str]:
    """An environment that has every variable which a configuration refers to."""
    return dict.fromkeys(re.findall(r'"env:(\w+)"', text), "redis://127.0.0.1:6379")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The table that a key opens, or that each of its members is; None for a plain value."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if inspect.isclass(kind) and issubclass(kind, BaseModel):
            return kind
    return None


def is_there_by_default(name: str, field: FieldInfo) -> bool:
    """Whether a table exists without being written: one by a fixed name, or the tenant `default`."""
    return section_of(field) is field.annotation or name == "tenants"


def fields(model: type[BaseModel], *, with_default: bool = False) -> Iterator[tuple[str, str]]:
    """Every key that some table can hold, with the model that declares it; or those with a default in force."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            if not with_default or field.default not in (None, PydanticUndefined):
                yield declared(model, name)
        elif not with_default or is_there_by_default(name, field):
            yield from fields(section, with_default=with_default)


def mentioned(table: dict[str, Any], model: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """The keys of a parsed table, as `fields` gives them."""
    for name, value in table.items():
        field = model.model_fields[name]
        section = section_of(field)
        if section is None:
            yield declared(model, name)
        else:
            for member in [value] if section is field.annotation else value.values():
                yield from mentioned(member, section)


def declared(model: type[BaseModel], name: str) -> tuple[str, str]:
    return next(owner.__name__ for owner in model.__mro__ if name in owner.__annotations__), name


def paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key as README writes it: `tenants.ID.enabled`."""
    for name, field in model.model_fields.items():
        section = section_of(field)
        if section is None:
            yield prefix + name
        else:
            yield from paths(section, f"{prefix}{name}.{'' if section is field.annotation else 'ID.'}")


# Errors, headers, log


def test_error_table_of_readme_is_the_tree_of_errors() -> None:
    stated = {
        (int(status), kind, code)
        for status, types, codes, _ in rows("Errors")
        for kind in quoted(types)
        for code in quoted(codes)
    }
    assert stated == set(possible_errors())


def possible_errors() -> Iterator[tuple[int, str, str]]:
    """Status, type and code of every error that some module of the gateway raises."""
    text = "\n".join(source.read_text("utf-8") for source in SOURCES if "simulator" not in source.parts)
    for _, error in inspect.getmembers(errors, inspect.isclass):
        if not issubclass(error, GatewayError) or f"{error.__name__}(" not in without_classes(text):
            continue
        if error.ending is Ending.CLIENT_LEFT:
            continue  # never sent
        # A refusal by a limit is of the type that the limit counts.
        units = {dimension.unit for dimension in Dimension}
        for kind in units if error is errors.LimitExceeded else {error.type}:
            yield error.status, kind, error.code
    for code in re.findall(r'(?:\bcode=|\bBodyRefused\(\s*)"(\w+)"', text):
        yield BadRequest.status, BadRequest.type, code


@lru_cache
def without_classes(text: str) -> str:
    return re.sub(r"^class \w+\(", "", text, flags=re.MULTILINE)


def test_header_lists_of_readme_are_those_of_the_code() -> None:
    changed = section("What is changed on the way").lower().replace("\n  ", " ")
    upward, downward = (
        re.search(rf"^- never to the {side}:(.*)$", changed, re.MULTILINE) for side in ("upstream", "client")
    )
    assert upward
    assert downward
    prefixes = {prefix.decode() for prefix in passing.NOT_UPSTREAM_PREFIXES}
    assert set(quoted(upward[1])) - {"_", "-"} == {n.decode() for n in passing.NOT_UPSTREAM} | prefixes
    assert set(quoted(downward[1])) == {n.decode() for n in passing.NOT_CLIENT - passing.HOP_BY_HOP}


def test_log_fields_of_readme_are_those_of_the_line() -> None:
    exchange = Exchange("req", "GET", UNMATCHED, 0.0, 0.0)
    always = set(access_record(exchange, now=1.0))
    stated = [field for cell, _ in rows("The log") for field in quoted(cell)]
    assert set(stated) == always | {"usage", "error", "detail"}
    assert len(stated) == len(set(stated))


# Metrics


def test_metrics_table_of_readme_is_the_instruments() -> None:
    stated = {quoted(name)[0]: (kind, set(quoted(labels))) for name, kind, labels, _ in rows("Metrics")}
    assert stated == instruments()


@pytest.mark.parametrize(
    ("words", "known"),
    [("An `ending`", [ending.value for ending in Ending]), ("A `kind` of usage", USAGE_KINDS)],
    ids=["ending", "kind"],
)
def test_label_values_of_readme_are_those_of_the_code(words: str, known: Iterable[str]) -> None:
    sentence = re.search(rf"{words} is (.*?)\. ", section("Metrics"), re.DOTALL)
    assert sentence
    assert set(quoted(sentence[1])) == set(known)


def test_changelog_begins_with_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    versions = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert versions[0] == __version__


def test_links_between_documents_lead_somewhere() -> None:
    for document in ROOT.glob("*.md"):
        text = document.read_text("utf-8")
        headings = {
            re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)", text, re.M)
        }
        for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
            path, _, anchor = target.partition("#")
            assert (ROOT / path).exists(), f"{document.name}: {target}"
            assert not anchor or anchor in headings, f"{document.name}: {target}"
