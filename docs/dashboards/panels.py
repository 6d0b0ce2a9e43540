"""What a dashboard shows: lines, numbers, bars, tables, and where values lie.

Every panel says what it shows, what to do when it looks bad, and what it means that it is empty; it has a unit, and
leads to the log lines of what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    prometheus,
    stat,
    table,
    timeseries,
)
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from docs.dashboards.colours import GOOD, of_label, of_name
from docs.dashboards.queries import Query

PROMETHEUS = shapes.DataSourceRef(type_val="prometheus", uid="${datasource}")
LOG_FIELDS = {label: label for label in ("tenant", "operation", "upstream", "model")} | {"code": "error"}
"""What narrows the log, by the labels that say it."""

WHOLE_OF = {
    "instance": "all gateways",
    "tenant": "all tenants",
    "operation": "all operations",
    "upstream": "all upstreams",
    "model": "all models",
}
LLM_TOKENS_PER_SECOND, PER_MINUTE = "suffix: LLM tokens/s", "suffix: /min"
"""Units that Grafana has not."""

Steps = Sequence[tuple[float, str]]
"""From which value on which colour; below the first all is well."""


def lines(
    title: str,
    shows: str,
    act: str,
    *queries: Query,
    unit: str,
    empty: str,
    stacked: bool = False,
    most: float | None = None,
    alarm: float | None = None,
    logarithmic: bool = False,
    size: tuple[int, int] = (8, 8),
) -> models.Panel:
    """How something went over time. `alarm`: a dashed line there; `most`: what it cannot exceed."""
    mode = shapes.LegendDisplayMode
    legend = (
        common.VizLegendOptions()
        .display_mode(mode.TABLE if len(queries) > 1 or queries[0].labels else mode.LIST)
        .placement(shapes.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    tooltip = (
        common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI).sort(shapes.SortOrder.DESCENDING)
    )
    panel = (
        timeseries.Panel()
        .legend(legend)
        .tooltip(tooltip)
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .gradient_mode(shapes.GraphGradientMode.OPACITY)
        .show_points(shapes.VisibilityMode.AUTO)
        .span_nulls(False)
        .min(0)
        .color_scheme(_colour(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    if most is not None:
        panel.max(most)
    if logarithmic:
        panel.scale_distribution(common.ScaleDistributionConfig().type(shapes.ScaleDistribution.LOG).log(10))
    if alarm is not None:
        panel.thresholds(_thresholds([(alarm, "red")]))
        panel.thresholds_style(
            common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
        )
    for name, colour in _colours(queries).items():
        panel.override_by_name(name, [_value("color", {"mode": "fixed", "fixedColor": colour})])
    return _finished(panel, title, shows, act, queries, unit, empty, size)


def number(
    title: str,
    shows: str,
    act: str,
    query: Query,
    *,
    unit: str,
    empty: str,
    steps: Steps = (),
    leads: str | None = None,
    loud: bool = False,
    words: Mapping[int, tuple[str, str]] | None = None,
    decimals: int | None = None,
    size: tuple[int, int] = (4, 4),
) -> models.Panel:
    """How something is now, in the colour of how bad that is. `leads`: the dashboard that says more."""
    panel = (
        stat.Panel()
        .graph_mode(shapes.BigValueGraphMode.AREA)
        .color_mode(shapes.BigValueColorMode.BACKGROUND if loud else shapes.BigValueColorMode.VALUE)
        .text_mode(shapes.BigValueTextMode.VALUE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .color_scheme(_colour(models.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(steps))
    )
    if decimals is not None:
        panel.decimals(decimals)
    if words:
        panel.mappings([_worded(words)])
    return _finished(panel, title, shows, act, [query], unit, empty, size, leads=leads)


def bars(
    title: str,
    shows: str,
    act: str,
    query: Query,
    *,
    unit: str,
    empty: str,
    steps: Steps,
    most: float | None = None,
    leads: str | None = None,
    size: tuple[int, int] = (8, 8),
) -> models.Panel:
    """Who leads now."""
    panel = (
        bargauge.Panel()
        .display_mode(shapes.BarGaugeDisplayMode.BASIC)
        .orientation(shapes.VizOrientation.HORIZONTAL)
        .show_unfilled(True)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False).fields(""))
        .min(0)
        .color_scheme(_colour(models.FieldColorModeId.THRESHOLDS))
        .thresholds(_thresholds(steps))
    )
    if most is not None:
        panel.max(most)
    return _finished(panel, title, shows, act, [query], unit, empty, size, leads=leads, instant=True)


def spread(
    title: str,
    shows: str,
    act: str,
    buckets: Query,
    *,
    unit: str,
    empty: str,
    size: tuple[int, int] = (12, 8),
) -> models.Panel:
    """Where the values of a histogram lay over time."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Spectral").steps(64))
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(shapes.AxisPlacement.LEFT))
        .tooltip(heatmap.HeatmapTooltip().mode(shapes.TooltipDisplayMode.SINGLE).y_histogram(True))
        .exemplars_color("rgba(255,0,255,0.7)")
        .filter_values(heatmap.FilterValueRange().le(1e-9))
        .cell_gap(1)
        .show_legend()
    )
    assert buckets.labels == ("le",), "one histogram to a panel"
    of_buckets = replace(buckets, called="{{le}}", labels=())
    return _finished(panel, title, shows, act, [of_buckets], unit, empty, size, form=PromQueryFormat.HEATMAP)


def grid(
    title: str,
    shows: str,
    act: str,
    columns: Mapping[str, tuple[Query, str, Steps]],
    *,
    by: Sequence[str],
    empty: str,
    size: tuple[int, int] = (24, 9),
) -> models.Panel:
    """A table with a line per value of its labels `by`, sorted by its first column: query, unit and steps of each."""
    panel = table.Panel().filterable(True).cell_height(shapes.TableCellHeight.SM)
    titles = list(columns)
    references = [f"Value #{_reference(at)}" if len(titles) > 1 else "Value" for at in range(len(titles))]
    panel.sort_by([common.TableSortByFieldState().display_name(titles[0]).desc(True)])
    for column, (query, unit, steps) in columns.items():
        assert set(query.labels) == set(by), column
        panel.override_by_name(
            column,
            [
                _value("unit", unit),
                _value("thresholds", _thresholds(steps).build()),
                _value("custom.cellOptions", {"type": "color-text" if steps else "auto"}),
            ],
        )
    queries = [query for query, _, _ in columns.values()]
    for transformation in (
        models.DataTransformerConfig("merge", options={}),
        models.DataTransformerConfig(
            "organize",
            options={
                "excludeByName": {"Time": True},
                "renameByName": dict(zip(references, titles, strict=True)),
                "indexByName": {name: at for at, name in enumerate([*by, *references])},
            },
        ),
    ):
        panel.with_transformation(transformation)
    return _finished(
        panel, title, shows, act, queries, "short", empty, size, form=PromQueryFormat.TABLE, instant=True
    )


def described(shows: str, act: str, *notes: str) -> str:
    """What stands behind the question mark of a panel."""
    return "\n\n".join([shows, f"**When it looks bad:** {act}", *notes])


def _finished(
    panel: Any,
    title: str,
    shows: str,
    act: str,
    queries: Sequence[Query],
    unit: str,
    empty: str,
    size: tuple[int, int],
    *,
    leads: str | None = None,
    form: PromQueryFormat = PromQueryFormat.TIME_SERIES,
    instant: bool = False,
) -> models.Panel:
    """What every panel has, whatever it looks like."""
    for at, query in enumerate(queries):
        asked = (
            prometheus.Dataquery()
            .expr(query.text)
            .ref_id(_reference(at))
            .legend_format(_legend(query))
            .format(form)
            .datasource(PROMETHEUS)
        )
        if query.has_exemplars:
            asked.exemplar(True)
        panel.with_target(asked.instant() if instant else asked.range())
    ignored = frozenset.union(*(query.ignores for query in queries))
    notes = [f"Of {WHOLE_OF[label]}, whichever are chosen above." for label in WHOLE_OF if label in ignored]
    finished: models.Panel = (
        panel.title(title)
        .description(described(shows, act, *notes))
        .datasource(PROMETHEUS)
        .unit(unit)
        .no_value(empty)
        .data_links(_links(queries, leads, of_rows=form is PromQueryFormat.TABLE))
        .span(size[0])
        .height(size[1])
        .build()
    )
    return finished


def _links(queries: Sequence[Query], leads: str | None, *, of_rows: bool) -> list[dashboard.DashboardLink]:
    """Where a click leads: the log lines of what was clicked on, and a dashboard that says more."""
    clicked = "__data.fields" if of_rows else "__field.labels"
    labels = set.intersection(*(set(query.labels) for query in queries))
    narrowed = "".join(
        f"&var-{field}=${{{clicked}.{label}}}" for label, field in LOG_FIELDS.items() if label in labels
    )
    chosen = f"${{job:queryparam}}{narrowed}" if narrowed else "${__all_variables}"
    links = [dashboard.DashboardLink("Its log lines").url(f"/d/gateway-log?${{__url_time_range}}&{chosen}")]
    if leads is not None:
        into = f"/d/gateway-{leads}?${{__url_time_range}}&${{__all_variables}}"
        links.insert(0, dashboard.DashboardLink(f"More: {leads}").url(into))
    return links


def _legend(query: Query) -> str:
    return " ".join(filter(None, [query.called, *(f"{{{{{label}}}}}" for label in query.labels)])) or "all"


def _reference(at: int) -> str:
    return chr(ord("A") + at)


def _colours(queries: Sequence[Query]) -> dict[str, str]:
    """The colours of series that mean the same everywhere, by their names here."""
    found: dict[str, str] = {}
    for query in queries:
        match query.labels:
            case ():
                found |= of_name(query.called)
            case (label,) if not query.called:
                found |= of_label(label)
    return found


def _colour(mode: models.FieldColorModeId) -> dashboard.FieldColor:
    return dashboard.FieldColor().mode(mode)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    base = models.Threshold(None, GOOD)
    return (
        dashboard.ThresholdsConfig()
        .mode(models.ThresholdsMode.ABSOLUTE)
        .steps([base, *(models.Threshold(value, colour) for value, colour in steps)])
    )


def _worded(words: Mapping[int, tuple[str, str]]) -> models.ValueMap:
    return models.ValueMap(
        {
            str(value): models.ValueMappingResult(text=text, color=colour, index=at)
            for at, (value, (text, colour)) in enumerate(words.items())
        }
    )


def _value(name: str, value: Any) -> models.DynamicConfigValue:
    return models.DynamicConfigValue(name, value)
