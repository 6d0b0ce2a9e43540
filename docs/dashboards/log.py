"""The log lines of what was clicked on, where Loki has them; where it has not, how else to find them."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard, logs, loki, text
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models

from docs.dashboards.page import Page, Row
from docs.dashboards.panels import described
from docs.dashboards.queries import Ask
from gateway.exchange.log_fields import EXCHANGE_FIELDS

ask = Ask("tenant", "operation", "upstream", "model")
LOKI = shapes.DataSourceRef(type_val="loki", uid="${logs}")

_TYPED = {
    "request_id": "The id that clients have as x-gateway-request-id, and exemplars as request_id.",
    "error": "The code of the gateway's own error.",
    "ending": "How the exchange ended.",
}
"""What a reader types, or a click fills in; empty: whatever it is."""

_OTHERWISE = """
Nothing above? The gateway writes one JSON line per exchange to its standard output, whoever collects it:

```sh
docker compose logs --no-log-prefix gateway | jq 'select(.request_id == "${request_id}")'
journalctl -u gateway -o cat | jq 'select(.tenant == "NAME" and .ending != "complete")'
kubectl logs -l app.kubernetes.io/name=gateway --tail=-1 | jq 'select(.error == "upstream_timeout")'
```

What each field means stands in docs/metrics-and-log.md. `upstream_request_id` is what the upstream's support asks for.
"""


def _narrowed() -> str:
    """One query by all that is chosen. A field that a line has not is empty, and any choice of All lets it pass."""
    fields = [*(f'{label}=~"${label}"' for label in ask.choices[2:])]
    fields += [f'{field}=~"${{{field}}}.*"' for field in _TYPED]
    unknown = {field.partition("=")[0] for field in fields} - EXCHANGE_FIELDS.keys()
    assert not unknown, unknown
    # The one that is quick to find goes first, before any line is parsed.
    return " | ".join(['${lines} |= "${request_id}"', "json", *fields])


def _lines() -> models.Panel:
    return (
        logs.Panel()
        .title("Log lines")
        .description(
            described(
                "The lines of what is chosen above, newest first; open one for its fields.",
                "`error`, `detail` and `upstream_status` say what happened, `subject` and `client` who it was. "
                "Nothing at all: the variable Lines does not select the gateway's lines in your Loki.",
            )
        )
        .datasource(LOKI)
        .with_target(loki.Dataquery().expr(_narrowed()).ref_id("A").query_type("range").datasource(LOKI))
        .unit("short")
        .no_value("No line is like that, or there is no Loki: see below.")
        .show_time(True)
        .wrap_log_message(True)
        .enable_log_details(True)
        .sort_order(shapes.LogsSortOrder.DESCENDING)
        .span(24)
        .height(18)
        .build()
    )


def _otherwise() -> models.Panel:
    return text.Panel().title("Without Loki").content(_OTHERWISE).span(24).height(7).build()


PAGE = Page(
    "log",
    "Log",
    "The log lines of what was clicked on, by request id, tenant, upstream, model or error. Needs Loki; says what "
    "to do without.",
    ask,
    [Row("Lines", [_lines(), _otherwise()])],
    [
        dashboard.DatasourceVariable("logs").label("Loki").type("loki"),
        dashboard.TextBoxVariable("lines")
        .label("Lines")
        .description("What selects the gateway's lines in your Loki.")
        .default_value('{service_name=~".*gateway.*"}'),
        *(
            dashboard.TextBoxVariable(name).label(name).description(what).default_value("")
            for name, what in _TYPED.items()
        ),
    ],
)
