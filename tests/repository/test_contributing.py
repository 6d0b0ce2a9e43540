"""CONTRIBUTING.md and the map of the code name the rooms and the files that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.repository.rooms import BESIDE, ROOMS

ROOT = Path(__file__).parents[2]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
NO_ROOMS = {"__init__", "__main__"}

NAMED_FILES = sorted(set(re.findall(r"`((?:\w+|\.ci)/[^`*]*|\w[\w-]*\.(?:lock|md))`", CONTRIBUTING)))


def rooms() -> set[str]:
    """What lies in the package: folders with code, and modules beside them."""
    gateway = ROOT / "gateway"
    folders = {found.parent.name for found in gateway.glob("*/__init__.py")}
    return folders | {module.stem for module in gateway.glob("*.py")} - NO_ROOMS


def branch(folder: str) -> list[str]:
    """What the map in CONTRIBUTING.md shows under a folder, in its order."""
    lines = CONTRIBUTING.split("## Where things are")[1].split("```")[1].splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(folder))
    under = []
    for line in lines[start + 1 :]:
        if not line.startswith("  "):
            break
        under.append(line.split()[0])
    return under


def test_contributing_shows_every_room_in_the_order_of_imports() -> None:
    shown = [name.removesuffix("/").removesuffix(".py") for name in branch("gateway/")]
    assert shown == [*ROOMS, *BESIDE]
    assert set(shown) == rooms()


def test_architecture_describes_every_room_in_the_order_of_imports() -> None:
    described = re.findall(r"^\| `(\w+)(?:/|\.py)` \|", ARCHITECTURE, re.MULTILINE)
    assert described == [*ROOMS, *BESIDE]


def test_every_room_has_its_folder_of_tests_and_every_folder_is_shown() -> None:
    folders = {found.parent.name for found in (ROOT / "tests").glob("*/__init__.py")}
    shown = {name.removesuffix("/") for name in branch("tests/")} - {"ROOM"}
    assert folders - shown == rooms() - {"endings", "errors", "stored_errors"}
    assert shown <= folders


@pytest.mark.parametrize(
    "name", sorted(set(re.findall(r"`((?:\w+|\.ci)/[^`*]*|\w[\w-]*\.(?:lock|md))`", CONTRIBUTING)))
)
def test_files_that_contributing_names_exist(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize(
    "name", ["cost_of", "charges_for", "settlement", "access_for", "access_record", "_change", "_show_state"]
)
def test_functions_that_contributing_sends_to_exist_in_one_place(name: str) -> None:
    assert f"`{name}`" in CONTRIBUTING
    sources = (ROOT / "gateway").rglob("*.py")
    assert sum(len(re.findall(rf"\bdef {name}\(", source.read_text("utf-8"))) for source in sources) == 1


def test_no_module_is_longer_than_contributing_says() -> None:
    [most_lines] = re.findall(r"none has more than (\d+)", CONTRIBUTING)
    sources = [*(ROOT / "gateway").rglob("*.py")]
    assert len(sources) > 100
    lines = {str(path.relative_to(ROOT)): len(path.read_text("utf-8").splitlines()) for path in sources}
    assert {path: count for path, count in lines.items() if count > int(most_lines)} == {}


def test_commands_that_contributing_shows_are_there() -> None:
    for script in re.findall(r"bash (\.ci/\w+)", CONTRIBUTING):
        assert (ROOT / script).is_file()
    for module in re.findall(r"python -m ([\w.]+)", CONTRIBUTING):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
