"""What the documents say is what the code does."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from docs import generate, picture
from docs.instruments import instruments
from gateway import __version__, errors
from gateway.cli import parser
from gateway.errors import BadRequest, Ending, GatewayError
from gateway.exchange.exchange import Exchange
from gateway.exchange.labels import LABELS
from gateway.exchange.log import access_record
from gateway.exchange.log_fields import EXCHANGE_FIELDS
from gateway.limits.terms import Dimension
from gateway.middleware.record import UNMATCHED
from gateway.operations.scopes import expand
from gateway.operations.table import OperationTable
from gateway.settings.settings import Settings
from gateway.settings.sources import load
from gateway.stored_errors import ObjectsUnavailable
from gateway.wire import passing
from tests.repository.rooms import BESIDE, ROOMS
from tests.repository.test_configuration import referred, with_files

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "gateway").rglob("*.py"))
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text("utf-8")
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
}

DEMO_COMMAND = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/gateway demo"
TEST_COMMAND = (
    "python3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest -n auto --dist worksteal"
)
README_LINES = 160
DECISION_LINES = 25
"""Half a screen."""


def fenced(language: str, *documents: str) -> list[str]:
    """The code blocks of some documents, or of all, in a language."""
    return [
        block
        for document in documents or DOCUMENTS
        for block in re.findall(rf"^```{language}\n(.*?)^```", DOCUMENTS[document], re.MULTILINE | re.DOTALL)
    ]


def section(document: str, title: str) -> str:
    """A document's text under a heading."""
    return DOCUMENTS[document].split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(document: str, title: str) -> list[list[str]]:
    """The cells of the table under a heading, without its two head lines."""
    lines = [line for line in section(document, title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# Form


def test_readme_can_be_read_at_once() -> None:
    assert len(DOCUMENTS["README.md"].splitlines()) <= README_LINES


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name.startswith("docs/decisions/")])
def test_a_decision_is_half_a_screen(document: str) -> None:
    assert len(DOCUMENTS[document].splitlines()) <= DECISION_LINES


def test_every_document_can_be_reached_from_readme() -> None:
    reached, pending = set(), ["README.md"]
    while pending:
        document = pending.pop()
        if document in reached or document not in DOCUMENTS:
            continue
        reached.add(document)
        pending += [
            str(((ROOT / document).parent / target).resolve().relative_to(ROOT))
            for target, _ in links(document)
        ]
    assert reached == set(DOCUMENTS)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_between_documents_lead_somewhere(document: str) -> None:
    for target, anchor in links(document):
        path = ((ROOT / document).parent / target).resolve() if target else ROOT / document
        assert path.exists(), f"{document}: {target}"
        if anchor:
            assert anchor in anchors(DOCUMENTS[str(path.relative_to(ROOT))]), f"{document}: {target}#{anchor}"


def links(document: str) -> Iterator[tuple[str, str]]:
    """The relative links of a document: path, which is empty for its own headings, and anchor."""
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", DOCUMENTS[document]):
        path, _, anchor = target.partition("#")
        yield path, anchor


def anchors(text: str) -> set[str]:
    """The anchors that a code host makes of the headings."""
    headings = re.findall(r"^#+ (.*)", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_changelog_begins_with_this_version() -> None:
    versions = re.findall(r"^## \[(.+?)\]", DOCUMENTS["CHANGELOG.md"], re.MULTILINE)
    assert versions[0] == __version__


# What is generated


def test_what_is_generated_is_current() -> None:
    for path, text in generate.pages().items():
        assert path.read_text("utf-8") == text, f"{path.name} is not current: python -m docs.generate"


def test_picture_shows_the_links_in_the_order_of_the_middlewares() -> None:
    tree = ast.parse((ROOT / "gateway" / "middleware" / "__init__.py").read_text("utf-8"))
    [order] = [
        node.value
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and function.name == "build_middlewares"
        for node in function.body
        if isinstance(node, ast.Return)
    ]
    assert isinstance(order, ast.Tuple)
    calls = [
        link.func.id for link in order.elts if isinstance(link, ast.Call) and isinstance(link.func, ast.Name)
    ]
    assert [name for name, *_ in picture.LINKS] == [*calls, "forward"]


def test_every_setting_is_described() -> None:
    for model in sections(Settings):
        described = generate.descriptions(model)
        for name, field in model.model_fields.items():
            assert generate.section_of(field) or described.get(name), f"{model.__name__}.{name}"


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        inner = generate.section_of(field)
        if inner is not None:
            yield from sections(inner)


def test_every_label_has_its_values_described_and_no_other() -> None:
    assert set(LABELS) == {label for _, _, labels, _, _ in instruments() for label in labels}


def test_log_fields_described_are_those_of_the_line() -> None:
    exchange = Exchange("req", "GET", UNMATCHED, 0.0, 0.0)
    always = set(access_record(exchange, exchange.times(1.0)))
    hidden = {"client", "subject", "credential", "model"}
    assert {name for name, field in EXCHANGE_FIELDS.items() if not field.rare} | hidden == always


# Architecture


def test_architecture_lists_the_rooms_in_their_order() -> None:
    stated = [
        quoted(name)[0].removesuffix(".py").rstrip("/") for name, _ in rows("docs/architecture.md", "Rooms")
    ]
    assert stated == [*ROOMS, *BESIDE]


def test_architecture_names_files_and_what_stands_in_them() -> None:
    text = " ".join(DOCUMENTS["docs/architecture.md"].split())
    named = re.findall(r"`([\w/]+\.py)`(?: \(((?:`\w+`(?:, )?)+)\))?", text)
    assert len(named) > 30
    for path, names in named:
        code = (ROOT / "gateway" / path).read_text("utf-8")
        for name in quoted(names):
            assert re.search(rf"\b(?:class|def) {name}\b", code), f"{name} in {path}"


def test_architecture_lists_what_a_supervisor_and_its_workers_say() -> None:
    working = (ROOT / "gateway" / "app" / "working.py").read_text("utf-8")
    supervising = "\n".join(
        path.read_text("utf-8") for path in (ROOT / "gateway" / "supervisor").glob("*.py")
    )
    told = [quoted(words) for words, _ in rows("docs/architecture.md", "Several workers")]
    assert {word for words in told for word in words} == {"settings", *re.findall(r'case "(\w+)"', working)}
    heard = set(re.findall(r'(?:case|\["say"\] ==) "(\w+)"', supervising))
    assert {"beat", "ready", "keys"} < heard
    for word in heard:
        assert f"`{word}`" in section("docs/architecture.md", "Several workers")


# Commands and configuration


def test_readme_prints_the_two_commands() -> None:
    lines = [line for block in fenced("sh", "README.md") for line in block.splitlines()]
    assert DEMO_COMMAND in lines
    assert TEST_COMMAND in lines


def test_every_gateway_command_in_documents_is_one_that_the_command_line_takes() -> None:
    lines = [line.removeprefix(".venv/bin/") for block in fenced("sh") for line in block.splitlines()]
    commands = [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("gateway ")]
    assert len(commands) >= 12
    for command in commands:
        if ">" in command[:-1]:
            command[command.index(">") :] = []  # where the shell puts what is printed
        parser().parse_args(command)


def test_files_that_commands_read_are_made_by_a_command_of_the_same_document() -> None:
    for document in DOCUMENTS:
        commands = "\n".join(fenced("sh", document))
        made = set(re.findall(r"> (\S+)$", commands, re.MULTILINE))
        assert set(re.findall(r" @(\S+)", commands)) <= made, document


def test_configuration_in_readme_needs_nothing_but_the_key_that_readme_sets() -> None:
    assert set().union(*map(referred, fenced("toml", "README.md"))) == {"OPENAI_API_KEY"}


def test_toml_in_documents_loads_and_its_scopes_exist(tmp_path: Path) -> None:
    blocks = fenced("toml")
    assert len(blocks) >= 3
    for number, block in enumerate(blocks):
        folder = tmp_path / str(number)
        folder.mkdir()
        file = with_files(block, folder)
        for tenant in load(file, environ=referred(block)).tenants.values():
            expand(tenant.scopes, OperationTable.load().scopes)


def test_documents_name_settings_that_exist() -> None:
    known = set(paths(Settings))
    known |= {path.rpartition(".")[0] for path in known}
    named = [
        key
        for text in DOCUMENTS.values()
        for key in re.findall(
            r"`((?:upstream|credentials|edge|limits|tenants|issuers)\.(?!py`)[\w.…]+)`", text
        )
    ]
    assert len(set(named)) > 60
    for key in named:
        assert any(re.fullmatch(key.replace(".…", r"\..+"), path) for path in known), key


def paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key as documents write it: `tenants.ID.enabled`."""
    for name, field in model.model_fields.items():
        inner = generate.section_of(field)
        if inner is None:
            yield prefix + name
        else:
            member = f"{generate.MEMBERS.get(name, 'ID')}." if generate.is_by_name(field) else ""
            yield from paths(inner, f"{prefix}{name}.{member}")


# Alerts

FAULTS = {"client", "tenant", "limit", "gateway", "redis", "upstream", "issuer"}


def test_every_alert_leads_to_its_runbook_and_no_runbook_is_without_one() -> None:
    page = "docs/runbooks.md"
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "gateway.rules.yml").read_text("utf-8"))
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert re.findall(r"^## (\w+)$", DOCUMENTS[page], re.MULTILINE) == [alert["alert"] for alert in alerts]
    for alert in alerts:
        name, labels = alert["alert"], alert["labels"]
        assert alert["annotations"]["runbook_url"] == f"{page}#{name.lower()}"
        said = " ".join(section(page, name).split())
        fault = labels.get("fault", "as its label says")
        assert f"*{labels['severity']}*, fault: {fault}." in said, name
        assert fault in FAULTS | {"as its label says"}
        assert "**Look**" in said, name
        assert "**Do**" in said, name


def test_every_alert_names_the_culprit_and_says_what_to_do_first() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "gateway.rules.yml").read_text("utf-8"))
    for rule in (rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule):
        said = rule["annotations"]
        assert "$labels." in said["summary"], rule["alert"]
        assert said["description"], rule["alert"]
        assert said.keys() == {"summary", "description", "runbook_url"}


# Limits


def test_every_limit_is_described_and_no_other() -> None:
    stated = [
        name for names, _ in rows("docs/limits-and-usage.md", "What can be limited") for name in quoted(names)
    ]
    assert sorted(stated) == sorted(Dimension)


def test_every_unit_of_limits_stands_among_the_headers_and_no_other() -> None:
    listed = section("docs/fidelity.md", "Header fields").partition("- added downward:")[2]
    stated = {
        name.rpartition("x-ratelimit-limit-")[2].removeprefix("-")
        for name in quoted(listed)
        if name.startswith(("-", "x-ratelimit-limit-"))
    }
    assert stated == {dimension.unit for dimension in Dimension}


# Errors, headers


def test_error_table_of_documents_is_the_tree_of_errors() -> None:
    stated = {
        (int(status), kind, code)
        for status, types, codes, _ in rows("docs/errors.md", "Table")
        for kind in quoted(types)
        for code in quoted(codes)
    }
    assert stated == set(possible_errors())


def possible_errors() -> Iterator[tuple[int, str, str]]:
    """Status, type and code of every error that some module of the gateway raises."""
    text = "\n".join(source.read_text("utf-8") for source in SOURCES if "simulator" not in source.parts)
    members = {**dict(inspect.getmembers(errors)), "ObjectsUnavailable": ObjectsUnavailable}
    for error in filter(inspect.isclass, members.values()):
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


def test_header_lists_of_documents_are_those_of_the_code() -> None:
    changed = section("docs/fidelity.md", "Header fields").lower().replace("\n  ", " ")
    upward, downward = (
        re.search(rf"^- never to the {side}:(.*)$", changed, re.MULTILINE) for side in ("upstream", "client")
    )
    assert upward
    assert downward
    prefixes = {prefix.decode() for prefix in passing.NOT_UPSTREAM_PREFIXES}
    assert set(quoted(upward[1])) - {"_", "-"} == {n.decode() for n in passing.NOT_UPSTREAM} | prefixes
    assert set(quoted(downward[1])) == {n.decode() for n in passing.NOT_CLIENT - passing.HOP_BY_HOP}
