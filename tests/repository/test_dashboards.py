"""Dashboards ask only for series that the gateway exposes, and say what to do about what they show."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from docs import dashboards
from docs.dashboards.queries import Ask, Unanswerable, but
from docs.instruments import instruments

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
DASHBOARDS = {file.stem: orjson.loads(file.read_bytes()) for file in (GRAFANA / "dashboards").glob("*.json")}
OF_PROMETHEUS = {
    "up": set[str](),
    "scrape_duration_seconds": set[str](),
    "scrape_samples_scraped": set[str](),
    "ALERTS": {"alertname", "alertstate", "severity", "fault", "tenant", "upstream"},
}


def exposed() -> dict[str, set[str]]:
    """Every series that a scrape of the gateway can show, with the labels it can have."""
    scrape = {"job", "instance"}
    found = {name: labels | scrape for name, labels in OF_PROMETHEUS.items()}
    for name, kind, named, _, _ in instruments():
        labels = set(named)
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        for suffix in suffixes:
            found[name + suffix] = labels | scrape | ({"le"} if suffix == "_bucket" else set())
    return found


SERIES = re.compile(r"\b((?:gateway|process|scrape)_\w+|up|ALERTS)\b(?:\{([^}]*)\})?")
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


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All of them but the headings of rows, those of collapsed rows included."""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            yield from panel["panels"]
        else:
            yield panel


def queries(dashboard: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The PromQL of every panel and of what happened, with its title."""
    for panel in panels(dashboard):
        for target in panel.get("targets", ()):
            if target["datasource"]["type"] == "prometheus":
                yield panel["title"], target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield annotation["name"], annotation["target"]["expr"]


def variables(dashboard: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def concrete(expression: str) -> str:
    """What Grafana asks when everything is chosen."""
    for variable, value in (("$__rate_interval", "5m"), ("$__range", "1h"), ("$job", "gateway")):
        expression = expression.replace(variable, value)
    return re.sub(r"\$\w+", ".*", expression)


each_dashboard = pytest.mark.parametrize("name", DASHBOARDS)


def test_every_file_is_one_that_is_generated() -> None:
    assert {file.name for file in (GRAFANA / "dashboards").iterdir()} == {
        path.name for path in dashboards.files()
    }


def test_a_query_of_nothing_that_there_is_cannot_be_written() -> None:
    ask = Ask("tenant")
    assert "tenant" in ask.rate("gateway_errors_total", "tenant", code="overloaded").labels
    for wrong in (
        lambda: ask.rate("gateway_error_total"),
        lambda: ask.rate("gateway_errors_total", "tenants"),
        lambda: ask.rate("gateway_errors_total", status="5xx"),
        lambda: ask.rate("gateway_exchanges_total", ending="completed"),
        lambda: ask.rate("gateway_exchanges_total", ending=but("completed")),
        lambda: ask.rate("gateway_exchanges_in_flight"),
        lambda: ask.sum("gateway_errors_total"),
        lambda: ask.quantile(0.95, "gateway_overhead_seconds", "tenant"),
        lambda: ask.recorded("gateway:nothing"),
        lambda: ask.seen("gateway_build_info", "tenant"),
        # Beside what has other labels, or none, nothing would be found.
        lambda: ask.rate("gateway_errors_total") / ask.rate("gateway_errors_total", "tenant"),
        lambda: ask.rate("gateway_errors_total", "tenant").or_zero(),
    ):
        with pytest.raises(Unanswerable):
            wrong()


@each_dashboard
def test_dashboard_asks_only_for_series_and_labels_that_exist(name: str) -> None:
    for _, expression in queries(DASHBOARDS[name]):
        check_expression(expression)
    for variable in variables(DASHBOARDS[name]).values():
        if variable["type"] == "query":
            selected, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()  # type: ignore[union-attr]
            check_expression(selected)
            assert label in exposed()[selected.partition("{")[0]]


@each_dashboard
def test_every_series_obeys_every_variable_that_it_has_a_label_for(name: str) -> None:
    chosen = {variable for variable, what in variables(DASHBOARDS[name]).items() if what["type"] == "query"}
    assert {"job", "instance"} <= chosen
    for title, expression in queries(DASHBOARDS[name]):
        for series, matchers in SERIES.findall(expression):
            for label in chosen & exposed().get(series, set()):
                own = re.search(rf'\b{label}(=|!=|!~)"', matchers)
                assert own or f'{label}=~"${label}"' in matchers, f"{title}: {series} by {label}"
        assert not set(re.findall(r"\$(\w+)", expression)) - chosen - {"__rate_interval", "__range"}


@each_dashboard
def test_every_panel_says_what_it_shows_and_what_to_do(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        if panel["type"] == "text":
            continue
        title, defaults = panel["title"], panel["fieldConfig"]["defaults"]
        shows, _, act = panel["description"].partition("\n\n**When it looks bad:** ")
        assert len(shows) > 10 and len(act) > 10, title
        assert defaults["unit"] and defaults["noValue"], f"{title} is empty without a word"
        assert panel["datasource"]["uid"] in ("${datasource}", "${logs}"), title
        assert all(target["datasource"] == panel["datasource"] for target in panel["targets"]), title
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)


@each_dashboard
def test_every_panel_leads_to_the_log_and_no_link_leads_nowhere(name: str) -> None:
    known = {dashboard["uid"]: set(variables(dashboard)) for dashboard in DASHBOARDS.values()}
    for panel in panels(DASHBOARDS[name]):
        if panel["type"] in ("text", "logs"):
            continue
        urls = [link["url"] for link in panel["fieldConfig"]["defaults"]["links"]]
        assert any(url.startswith("/d/gateway-log?") for url in urls), panel["title"]
        for url in urls:
            uid = url.removeprefix("/d/").partition("?")[0]
            assert set(re.findall(r"var-(\w+)=", url)) <= known[uid], url
            used = set(re.findall(r"\$\{(\w+)[:}]", url)) - {
                "__url_time_range",
                "__all_variables",
                "__field",
                "__data",
            }
            assert used <= known[DASHBOARDS[name]["uid"]], url


@each_dashboard
def test_where_tenants_multiply_a_few_are_shown(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        for target in panel.get("targets", ()):
            if "{{tenant}}" in target.get("legendFormat", "") and "ALERTS" not in target["expr"]:
                assert re.match(r"(topk|bottomk)\(\d+, ", target["expr"]), panel["title"]


@each_dashboard
def test_dashboard_panels_have_ids_of_their_own_and_do_not_overlap(name: str) -> None:
    shown = [*DASHBOARDS[name]["panels"], *panels(DASHBOARDS[name])]
    each = {id(panel): panel for panel in shown}.values()
    assert len({panel["id"] for panel in each}) == len(each)
    taken: set[tuple[int, int]] = set()
    for panel in each:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_instrument_is_on_some_dashboard() -> None:
    asked = " ".join(expression for dashboard in DASHBOARDS.values() for _, expression in queries(dashboard))
    missing = {
        name for name, *_ in instruments() if not re.search(rf"\b{name}(_bucket|_sum|_count)?\b", asked)
    }
    assert not missing


def test_a_histogram_with_exemplars_leads_to_its_request() -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    (link,) = source["jsonData"]["exemplarTraceIdDestinations"]
    log = next(dashboard for dashboard in DASHBOARDS.values() if dashboard["uid"] == "gateway-log")
    path, _, filled = link["url"].partition("?")
    assert path == f"/d/{log['uid']}"
    assert re.fullmatch(r"var-(\w+)=\$\$\{__value\.raw\}", filled)[1] in variables(log)  # type: ignore[index]
    for dashboard in DASHBOARDS.values():
        for panel in panels(dashboard):
            for target in panel.get("targets", ()):
                named = re.search(r"(overhead|first_byte)_seconds_bucket", target.get("expr", ""))
                assert bool(target.get("exemplar")) == bool(named), panel["title"]


def test_a_dashboard_fits_into_a_config_map() -> None:
    for file in (GRAFANA / "dashboards").iterdir():
        assert file.stat().st_size < 256 * 1024, "kubectl apply keeps a copy of it in an annotation"


def test_prometheus_reads_every_query(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is not installed (Debian: apt-get install prometheus)"
    asked = {concrete(text) for dashboard in DASHBOARDS.values() for _, text in queries(dashboard)}
    rules = [
        {"record": f"asked:{number}", "expr": expression} for number, expression in enumerate(sorted(asked))
    ]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": rules}]}))
    checked = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert len(rules) > 100
