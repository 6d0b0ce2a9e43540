"""Dashboards as code: made of the registry, written to deploy/grafana/dashboards/ by `python -m docs.generate`.

They stand here, beside what writes the tables of the documents: both say again what the code declares, and a test
holds both current. One module to a dashboard; `queries` has the words for what is asked, `panels` those for what is
shown, `page` lays it out, `faults` says whose fault an error is, `colours` which colour means what.
"""

from __future__ import annotations

from pathlib import Path

from docs.dashboards import internals, log, models, overview, tenants, upstreams

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"
PAGES = (overview.PAGE, tenants.PAGE, models.PAGE, upstreams.PAGE, internals.PAGE, log.PAGE)
"""All of them, in the order in which they are read."""


def files() -> dict[Path, str]:
    """Every file of a dashboard, as it ought to be."""
    return {FOLDER / f"{page.name}.json": page.json() for page in PAGES}
