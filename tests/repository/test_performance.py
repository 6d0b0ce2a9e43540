"""What was measured is compared as docs/performance.md says, and the page leaves nothing out."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable
from pathlib import Path

import pytest

from docs import chart, performance, targets
from docs.measured import DIRECT, ENVOY, GATEWAY, UNLIMITED, Cell, Measured, Peer, Spread
from tests.repository.test_documents import DOCUMENTS, rows, section

SVG = "{http://www.w3.org/2000/svg}"


def cell(peer: str, number: int = 0, *, work: str = "json", variant: str = "", **figures: float) -> Cell:
    return Cell("a run", work, variant, peer, number, figures)


def measured(*cells: Cell) -> Measured:
    peers = {
        name: Peer(name.capitalize(), "1.2.3", "its work")
        for name in (DIRECT, "nginx", ENVOY, GATEWAY, UNLIMITED)
    }
    return Measured(ENVOY, peers, {"kernel": "6.1"}, cells)


def beside_envoy(*ratios: float) -> list[Cell]:
    """Rounds in which Envoy takes 100 µs, and the gateway so many times that."""
    return [
        told
        for number, ratio in enumerate(ratios)
        for told in (cell(ENVOY, number, cpu_us=100), cell(GATEWAY, number, cpu_us=100 * ratio))
    ]


def table_of(lines: Iterable[str]) -> list[list[str]]:
    return [[text.strip() for text in line.strip("|").split("|")] for line in lines if line.startswith("|")]


# Pairing


def test_ratios_are_formed_within_a_round_alone() -> None:
    found = measured(
        cell(ENVOY, 0, cpu_us=100),
        cell(GATEWAY, 0, cpu_us=150),
        cell(ENVOY, 1, cpu_us=200),
        cell(GATEWAY, 1, cpu_us=200),
        cell(GATEWAY, 2, cpu_us=9999),
    )
    assert list(found.ratio("json", "cpu_us", GATEWAY).values()) == [1.5, 1.0]


def test_rounds_of_different_runs_are_no_pair() -> None:
    other = Cell("another run", "json", "", ENVOY, 0, {"cpu_us": 100.0})
    assert not measured(cell(GATEWAY, 0, cpu_us=150), other).ratio("json", "cpu_us", GATEWAY)


def test_what_others_disturbed_counts_for_nothing() -> None:
    disturbed = Cell("a run", "json", "", ENVOY, 1, {"cpu_us": 900.0}, disturbed="others used 1.00 CPU")
    found = measured(
        cell(ENVOY, cpu_us=100), cell(GATEWAY, cpu_us=150), disturbed, cell(GATEWAY, 1, cpu_us=150)
    )
    assert list(found.ratio("json", "cpu_us", GATEWAY).values()) == [1.5]
    assert len(found.undisturbed().ratio("json", "cpu_us", GATEWAY)) == 2


def test_variants_are_different_works() -> None:
    found = measured(cell(ENVOY, variant="tls", cpu_us=100), cell(GATEWAY, cpu_us=150))
    assert not found.ratio("json", "cpu_us", GATEWAY)


def test_nobody_is_faster_than_the_direct_way() -> None:
    found = measured(
        cell(DIRECT, 0, p50_ms=1.0),
        cell(GATEWAY, 0, p50_ms=0.9),
        cell(DIRECT, 1, p50_ms=1),
        cell(GATEWAY, 1, p50_ms=3),
    )
    assert list(found.over_direct("json", "p50_ms", GATEWAY).values()) == [0.0, 2.0]


def test_nothing_is_a_multiple_of_nothing() -> None:
    assert not measured(cell(ENVOY, cpu_us=0), cell(GATEWAY, cpu_us=1)).ratio("json", "cpu_us", GATEWAY)


def test_a_spread_is_median_lowest_and_highest() -> None:
    assert Spread.of([3, 1, 8]) == Spread(3, 1, 8, 3)
    assert Spread.of([]) is None


# The file


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    failed = Cell("a run", "audio", "tls", "nginx", 1, failed='40 of 40: "status" 500')
    found = measured(cell(ENVOY, cpu_us=100.5), failed)
    found.save(tmp_path / "cells.json")
    assert Measured.load(tmp_path / "cells.json") == found


def test_newer_cells_replace_those_of_their_works_and_no_others() -> None:
    older = measured(
        cell(ENVOY, cpu_us=1), cell(ENVOY, variant="tls", cpu_us=2), cell(ENVOY, work="audio", cpu_us=3)
    )
    whole = older.with_newer(measured(cell("nginx", cpu_us=4)))
    assert {(c.work, c.variant, c.peer) for c in whole.cells} == {
        ("json", "", "nginx"),
        ("json", "tls", ENVOY),
        ("audio", "", ENVOY),
    }


def test_newer_cells_stand_beside_older_ones_of_their_works_where_those_are_kept() -> None:
    older = measured(*beside_envoy(1.5))
    newer = measured(Cell("another run", "json", "", "nginx", 0, {"cpu_us": 30.0}))
    whole = older.with_newer(newer, keep=True)
    assert {c.peer for c in whole.cells} == {ENVOY, GATEWAY, "nginx"}
    assert not whole.ratio("json", "cpu_us", "nginx")


# Tables


def test_a_table_has_multiples_with_their_spread_and_marks_the_gateway() -> None:
    cells = [
        c
        for n, own in enumerate((140, 150, 170))
        for c in (cell(ENVOY, n, cpu_us=100), cell(GATEWAY, n, cpu_us=own))
    ]
    head, _, row = table_of(performance.costs(measured(*cells)))
    assert head == ["work", "per", "Envoy = 1", "**Gateway**"]
    assert row[1:] == ["request", "100 µs", "**1.50 (1.40–1.70)**"]


def test_what_failed_and_what_was_not_measured_are_told_apart() -> None:
    failed = Cell("a run", "audio", "", "nginx", 0, failed="status 500")
    lines = performance.costs(
        measured(cell(ENVOY, work="audio", cpu_us=700), failed, cell(GATEWAY, cpu_us=1))
    )
    _, _, row = table_of(lines)
    assert row[2:] == ["700 µs", "failed", "–"]


def test_times_are_told_on_top_of_the_direct_way() -> None:
    names = (DIRECT, 0.2), (ENVOY, 0.5), (GATEWAY, 0.7)
    cells = [cell(name, work="latency", p50_ms=ms, p99_ms=ms) for name, ms in names]
    head, _, median, _ = table_of(performance.times(measured(*cells)))
    assert head[1:] == ["direct", "Envoy", "**Gateway**"]
    assert median[1:] == ["0.20", "0.30", "**0.50**"]


def test_without_cells_there_are_tables_without_rows() -> None:
    nothing = Measured(ENVOY, {}, {}, ())
    assert len(table_of(performance.costs(nothing))) == 2
    assert {row[-2] for row in table_of(targets.standings(nothing))[2:]} == {"not measured"}


@pytest.mark.parametrize(
    "value, text",
    [(0.1234, "0.12"), (1.5, "1.50"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346"), (0, "0.00")],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert performance.number(value) == text


# What must hold


def test_a_target_holds_by_its_median() -> None:
    cells = [
        c
        for n, own in enumerate((1.0, 1.7, 9.0))
        for c in (cell(ENVOY, n, cpu_us=1), cell(GATEWAY, n, cpu_us=own))
    ]
    found = measured(*cells)
    row = next(row for row in table_of(targets.standings(found)) if row[0] == "small JSON")
    assert row[1:3] == ["≤ 1.8 × Envoy", "≤ 1 × Envoy"]
    assert row[3:] == ["1.70 × Envoy (1.00–9.00)", "holds", "**missed**"]
    assert targets.missed(found) == ["small JSON"]


def test_what_limits_cost_is_what_goes_without_them() -> None:
    found = measured(cell(GATEWAY, cpu_us=200), cell(UNLIMITED, cpu_us=150))
    row = next(row for row in table_of(targets.standings(found)) if row[0] == "limits and metering")
    assert row[3:] == ["25.0 %", "holds", "**missed**"]


def test_targets_have_names_of_their_own() -> None:
    names = [target.name for target in targets.TARGETS]
    assert len(set(names)) == len(names)


def test_every_missed_goal_says_what_was_tried_and_what_stands_in_the_way() -> None:
    told = {row[0]: row[1:] for row in rows("docs/performance.md", "Goals that are missed")}
    assert set(targets.missed(Measured.load())) <= set(told)
    assert set(told) <= {target.name for target in targets.TARGETS}
    assert all(all(reason) for reason in told.values())


# The chart


def test_the_chart_shows_every_peer_and_says_the_same_in_words() -> None:
    found = measured(
        cell("nginx", cpu_us=30),
        cell(ENVOY, cpu_us=100),
        cell(GATEWAY, cpu_us=140),
        cell(UNLIMITED, cpu_us=99),
    )
    drawn = ET.fromstring(chart.svg(found))
    marks = [path.get("class") for path in drawn.iter(f"{SVG}path") if path.get("transform")]
    assert sorted(map(str, marks)) == sorted(
        ["nginx", ENVOY, GATEWAY] * 2
    )  # once in the legend, once in its row
    assert (title := drawn.findtext(f"{SVG}title")) and "multiples of Envoy's" in title
    assert (words := drawn.findtext(f"{SVG}desc")) and "Nginx 0.30, Envoy 1.00, Gateway 1.40" in words


def test_marks_stand_in_the_order_of_their_figures_inside_the_card() -> None:
    found = measured(cell("nginx", cpu_us=0.1), cell(ENVOY, cpu_us=100), cell(GATEWAY, cpu_us=50_000))
    drawn = ET.fromstring(chart.svg(found))
    places = {
        path.get("class"): float(str(path.get("transform")).partition("(")[2].split()[0])
        for path in drawn.iter(f"{SVG}path")
        if path.get("transform")
    }
    assert 0 < places["nginx"] < places[ENVOY] < places[GATEWAY] < chart.WIDTH


def test_the_chart_of_nothing_says_so() -> None:
    nothing = Measured(ENVOY, {}, {}, ())
    assert "Nothing has been measured yet." in chart.svg(nothing)
    assert "nothing has been measured yet" in next(chart.shown(nothing, "chart.svg"))


def test_readme_shows_the_chart_and_leads_to_the_page() -> None:
    assert "](docs/performance.svg)" in DOCUMENTS["README.md"]
    assert "](docs/performance.md)" in DOCUMENTS["README.md"]
    assert "| step | what it gave | kept |" in section("docs/performance.md", "What was tried")
