"""The shipped configuration of Prometheus, in which every duration is shorter by one factor, and nothing else differs.

Thresholds stay as they are: what is a rate or a share means the same over a shorter time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

SHIPPED = Path(__file__).parents[2] / "deploy" / "prometheus"
FACTOR = 60.0
"""By how much the day passes faster: a minute of the rules is a second of the test."""

SCRAPE_SECONDS = 1.0
"""Longer than the shipped interval by that factor: gateways share the machine with those who ask and look."""

LOOKBACK_SECONDS = 300.0
"""Prometheus' own, before it is shortened: for how long a sample that nothing follows still counts."""

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = r"\d+(?:ms|[smhdw])"
_IN_QUERY = re.compile(
    rf"(?<=\[)(?:{_DURATION})+(?=[\]:])|(?<=:)(?:{_DURATION})+(?=\])|(?<=offset )(?:{_DURATION})+"
)


def shortened(duration: str) -> str:
    """A duration as Prometheus writes it, by the factor shorter."""
    seconds = sum(float(amount) * _UNITS[unit] for amount, unit in re.findall(r"(\d+)(ms|[smhdw])", duration))
    return f"{max(1, round(seconds * 1000 / FACTOR))}ms"


def shortened_query(expression: str) -> str:
    """A query whose ranges and offsets are shorter."""
    return _IN_QUERY.sub(lambda found: shortened(found[0]), expression)


def shipped_rules() -> Iterator[dict[str, Any]]:
    """Every rule that is shipped, as it stands in the file."""
    for group in yaml.safe_load((SHIPPED / "gateway.rules.yml").read_text("utf-8"))["groups"]:
        yield from group["rules"]


def shortened_rules() -> dict[str, Any]:
    """The shipped rules, their ranges and how long each has to hold shorter."""
    document = yaml.safe_load((SHIPPED / "gateway.rules.yml").read_text("utf-8"))
    for group in document["groups"]:
        if "interval" in group:
            group["interval"] = shortened(group["interval"])
        for rule in group["rules"]:
            rule["expr"] = shortened_query(rule["expr"])
            for how_long in ("for", "keep_firing_for"):
                if how_long in rule:
                    rule[how_long] = shortened(rule[how_long])
    return document


def configuration(jobs: Mapping[str, Sequence[str]], alertmanagers: Sequence[str]) -> dict[str, Any]:
    """The shipped configuration with the shipped scrape once for each job, and other targets."""
    document = yaml.safe_load((SHIPPED / "prometheus.yml").read_text("utf-8"))
    every = f"{round(SCRAPE_SECONDS * 1000)}ms"
    document["global"] |= {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every}
    (scrape,) = document["scrape_configs"]
    document["scrape_configs"] = [
        scrape | {"job_name": job, "static_configs": [{"targets": list(targets)}]}
        for job, targets in jobs.items()
    ]
    for alertmanager in document["alerting"]["alertmanagers"]:
        alertmanager["static_configs"] = [{"targets": list(alertmanagers)}]
    return document
