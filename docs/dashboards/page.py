"""One dashboard: rows of panels, what its reader can choose, and what happened meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from grafana_foundation_sdk.builders import dashboard, prometheus
from grafana_foundation_sdk.models import dashboard as models

from docs.dashboards.panels import PROMETHEUS
from docs.dashboards.queries import Ask

COLUMNS = 24
TAG = "gateway"

_SEEN_IN = {
    "job": "gateway_build_info",
    "instance": "gateway_build_info",
    "tenant": "gateway_exchanges_total",
    "operation": "gateway_exchanges_total",
    "upstream": "gateway_upstream_connections",
    "model": "gateway_model_usage_total",
}
"""Where the choices come from."""


@dataclass(frozen=True)
class Row:
    """Some panels under one heading; a collapsed one asks nothing until it is opened."""

    title: str
    panels: Sequence[models.Panel]
    collapsed: bool = False


@dataclass(frozen=True)
class Page:
    """One dashboard, as its module states it."""

    name: str
    title: str
    about: str
    ask: Ask
    rows: Sequence[Row]
    variables: Sequence[dashboard.DatasourceVariable | dashboard.TextBoxVariable] = ()
    """Those of its own."""

    def json(self) -> str:
        """As Grafana reads it from a file."""
        built = self.build()
        built.panels = list(_placed(self.rows))
        _plain(built)
        written = orjson.dumps(built, default=lambda part: part.to_json(), option=orjson.OPT_INDENT_2)
        return written.decode() + "\n"

    def build(self) -> models.Dashboard:
        """Without its panels."""
        made = (
            dashboard.Dashboard(f"Gateway / {self.title}")
            .uid(f"gateway-{self.name}")
            .description(self.about)
            .tags([TAG])
            .timezone("browser")
            .readonly()
            .tooltip(models.DashboardCursorSync.CROSSHAIR)
            .time("now-1h", "now")
            .refresh("30s")
            .version(1)
            .link(
                dashboard.DashboardLink("Gateway")
                .type(models.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .icon("external link")
                .include_vars(True)
                .keep_time(True)
            )
            .annotations(list(_happened(self.ask)))
        )
        made.with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        before: list[str] = []
        for label in self.ask.choices:
            made.with_variable(_choice(self.ask, *before, label))
            if label in ("job", "instance"):
                before.append(label)
        for variable in self.variables:
            made.with_variable(variable)
        return made.build()


def _plain(built: models.Dashboard) -> None:
    """Leave out what the SDK adds to everything and Grafana knows of something else."""
    assert built.links is not None and built.templating.list_val is not None
    assert built.annotations.list_val is not None
    placed: list[Any] = [
        *built.links,
        *built.annotations.list_val,
    ]  # by the SDK always, by Grafana in a menu alone
    for one in placed:
        one.placement = None
    for variable in built.templating.list_val:
        variable.auto = variable.auto_min = variable.auto_count = None


def _choice(ask: Ask, *labels: str) -> dashboard.QueryVariable:
    """A variable whose choices are what the last of these labels is, within what is chosen of the others."""
    *_, label = labels
    asked = ask.seen(_SEEN_IN[label], *labels)
    made = (
        dashboard.QueryVariable(label)
        .label(label.capitalize())
        .datasource(PROMETHEUS)
        .query({"query": asked, "refId": label})
        .definition(asked)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .current(models.VariableOption(text=["All"], value=["$__all"]))
    )
    # All jobs are those of gateways, not whatever else is scraped.
    return made if label == "job" else made.all_value(".*")


def _happened(ask: Ask) -> Iterator[dashboard.AnnotationQuery]:
    """What a line that jumps is often owed to."""
    started = ask.max("process_start_time_seconds", "instance") * 1000
    reloaded = ask.grown("gateway_configuration_loads_total", "instance", "result").above(0)
    replaced = ask.grown("gateway_worker_restarts_total", "instance", "cause").above(0)
    firing = ask.max("ALERTS", "alertname", alertstate="firing", severity="critical")
    for name, colour, asked, text, by_value in (
        ("Started", "green", started, "{{instance}}", True),
        ("Reloaded", "blue", reloaded, "{{instance}}: {{result}}", False),
        ("Worker replaced", "orange", replaced, "{{instance}}: {{cause}}", False),
        ("Critical alert", "red", firing, "{{alertname}}", False),
    ):
        query = prometheus.Dataquery().expr(asked.text).ref_id("Anno").range()
        yield (
            dashboard.AnnotationQuery()
            .name(name)
            .datasource(PROMETHEUS)
            .enable(True)
            .icon_color(colour)
            .target(query)
            .title_format(name)
            .text_format(text)
            .use_value_for_time(by_value)
        )


def _placed(rows: Sequence[Row]) -> Iterator[models.Panel | models.RowPanel]:
    """All rows and panels with their places, from the top down."""
    number, y = 0, 0
    for row in rows:
        number += 1
        heading = dashboard.Row(row.title).id(number).collapsed(row.collapsed)
        heading.grid_pos(models.GridPos(h=1, w=COLUMNS, x=0, y=y))
        y += 1
        x = height = 0
        inside = []
        for panel in row.panels:
            number += 1
            place = panel.grid_pos
            assert place is not None
            if x + place.w > COLUMNS:
                x, y, height = 0, y + height, 0
            panel.id_val, panel.grid_pos = number, models.GridPos(h=place.h, w=place.w, x=x, y=y)
            x, height = x + place.w, max(height, place.h)
            inside.append(panel)
        built = heading.build()
        if row.collapsed:
            built.panels = inside
            yield built
        else:
            yield built
            yield from inside
        y += height
