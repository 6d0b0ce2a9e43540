"""What queries of rules, of their words and of panels may ask for: series that there are, by labels they have."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from docs.instruments import instruments

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "gateway.rules.yml"
SCRAPE = frozenset({"job", "instance"})
PROMETHEUS_OWN = {"up": SCRAPE}

_NAME = r"(?<![\w:.$\"'])(?:(?:gateway|process)_\w+|gateway:[\w:]+|up)(?![\w:(\"'])"
_SERIES = re.compile(rf"({_NAME})(?:\{{([^}}]*)\}})?")
_GROUPING = re.compile(r"\b(?:by|on|group_left|group_right) ?\(([^)]*)\)")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|%q")
_MADE = re.compile(r"\"(\w+)\", \"[^\"]*\", \"\w*\", \"")  # what label_replace writes


def rules() -> list[dict[str, Any]]:
    """Every rule that is shipped, in order."""
    return [rule for group in yaml.safe_load(RULES.read_text("utf-8"))["groups"] for rule in group["rules"]]


@cache
def exposed() -> dict[str, frozenset[str]]:
    """Every series that a scrape of the gateway can show, with the labels it can have."""
    found: dict[str, frozenset[str]] = dict(PROMETHEUS_OWN)
    for name, kind, named, _, _ in instruments():
        labels = SCRAPE | set(named)
        if kind != "histogram":
            found[name] = labels
            continue
        found |= {f"{name}_bucket": labels | {"le"}, f"{name}_sum": labels, f"{name}_count": labels}
    return found


@cache
def recorded() -> dict[str, frozenset[str]]:
    """Every series that is recorded, with the labels by which its rule groups, and those that it makes."""
    found = {}
    for rule in rules():
        if "record" in rule:
            grouped = {label for labels in _grouped(rule["expr"]) for label in labels} - {"le"}
            found[rule["record"]] = frozenset(grouped | set(_MADE.findall(rule["expr"])))
    return found


def check_query(query: str) -> None:
    """Fail unless every series is exposed or recorded, and can be selected and grouped as it is."""
    known = exposed() | recorded()
    used: set[str] = set(_MADE.findall(query))
    for name, matchers in _SERIES.findall(_GROUPING.sub("by ()", query)):
        assert name in known, f"{name} in {query}"
        unknown = set(_MATCHER.findall(_QUOTED.sub("", matchers))) - known[name]
        assert not unknown, f"{name} has no label {unknown}"
        used |= known[name]
    for labels in _grouped(query):
        assert labels <= used, f"{labels - used} in {query}"


def _grouped(query: str) -> list[set[str]]:
    return [
        {label.strip() for label in labels.split(",") if label.strip()} for labels in _GROUPING.findall(query)
    ]
