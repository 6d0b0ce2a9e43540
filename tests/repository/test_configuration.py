"""The configuration files that an operator copies say what the settings are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from docs.generate import is_by_name, section_of
from gateway.cli import main
from gateway.settings.document import from_json, to_json
from gateway.settings.judging import judged
from gateway.settings.settings import Settings
from gateway.settings.sources import gathered, load

ROOT = Path(__file__).parents[2]
PRODUCTION = ROOT / "config" / "production.toml"


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
    text = uncommented(PRODUCTION)
    assert set(mentioned(tomllib.loads(text), Settings)) == set(fields(Settings))
    load(with_files(text, tmp_path), environ=referred(text))


def test_production_toml_means_the_same_in_another_process(tmp_path: Path) -> None:
    text = uncommented(PRODUCTION)
    file, environ = with_files(text, tmp_path), referred(text)
    assert judged(from_json(to_json(gathered(file, environ=environ)))) == load(file, environ=environ)


def uncommented(file: Path) -> str:
    """A configuration with the keys that it shows in comments."""
    return re.sub(r"^# (?=\[|[a-z_0-9]+ = )", "", file.read_text("utf-8"), flags=re.MULTILINE)


def with_files(text: str, folder: Path) -> Path:
    """A configuration, beside the files that it names."""
    for name in re.findall(
        r'^(?:(?:jwks_)?ca_file|jwks_file|tls_certificate|tls_key) = "(.*)"', text, flags=re.MULTILINE
    ):
        (folder / Path(name).name).write_text("what it holds")
        text = text.replace(name, str(folder / Path(name).name))
    (folder / "tenants.d").mkdir()
    file = folder / "production.toml"
    file.write_text(text, encoding="utf-8")
    return file


def referred(text: str) -> dict[str, str]:
    """An environment that has every variable which a configuration refers to."""
    return dict.fromkeys(re.findall(r'"env:(\w+)"', text), "redis://127.0.0.1:6379")


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
            for member in value.values() if is_by_name(field) else [value]:
                yield from mentioned(member, section)


def declared(model: type[BaseModel], name: str) -> tuple[str, str]:
    return next(owner.__name__ for owner in model.__mro__ if name in owner.__annotations__), name
