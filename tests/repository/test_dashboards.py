"""Dashboards ask only for series that the gateway exposes."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest

from docs.instruments import instruments

ROOT = Path(__file__).parents[2]


def exposed() -> dict[str, set[str]]:
    """Every series that a scrape of the gateway can show, with the labels it can have."""
    scrape = {"job", "instance"}
    found: dict[str, set[str]] = {"up": scrape}
    for name, kind, named, _, _ in instruments():
        labels = set(named)
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for suffix in suffixes:
            found[name + suffix] = labels | scrape | ({"le"} if suffix == "_bucket" else set())
    return found


SERIES = re.compile(r"\b((?:gateway|process)_\w+|up)\b(?:\{([^}]*)\})?")
GROUPING = re.compile(r"\b(?:by|on) ?\(([^)]*)\)")


def check_expression(expression: str) -> None:
    """Fail unless every series exists and can be selected and grouped as it is."""
    known = exposed()
    expression = GROUPING.sub(lambda match: match[0].replace("gateway", ""), expression)
    used: set[str] = set()
    for name, matchers in SERIES.findall(re.sub(r"gateway:[\w:]+", "", expression)):
        assert name in known, f"{name} in {expression}"
        unknown = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) - known[name]
        assert not unknown, f"{name} has no label {unknown}"
        used |= known[name]
    for labels in GROUPING.findall(expression):
        if used:
            assert {label.strip() for label in labels.split(",")} <= used, expression


DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboard_asks_only_for_series_and_labels_that_exist(file: Path) -> None:
    dashboard = orjson.loads(file.read_bytes())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    assert len(expressions) > 20
    for expression in expressions:
        check_expression(expression)
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            selected, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            check_expression(selected)
            assert label in exposed()[selected.partition("{")[0]]


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_dashboard_panels_have_ids_of_their_own_and_do_not_overlap(file: Path) -> None:
    panels = orjson.loads(file.read_bytes())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
