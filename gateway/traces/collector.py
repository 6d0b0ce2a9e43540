"""The collector that the settings name, if they do."""

from __future__ import annotations

import socket
from collections.abc import Callable

from gateway import __version__
from gateway.settings.section import Problem, SettingsInvalid
from gateway.settings.traces import Traces
from gateway.traces.writer import Export, SpanWriter


def spans_to(
    settings: Traces, *, worker: int, lost: Callable[[int], None], export: Export | None = None
) -> SpanWriter | None:
    """What takes the spans of one process; None where nobody wants them.

    `export` is told in the collector's place. Raises SettingsInvalid where what sends them is not installed.
    """
    if export is not None:
        return SpanWriter(export, lost=lost)
    if settings.endpoint is None:
        return None
    try:
        from gateway.traces.otlp import export_by, otlp
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise SettingsInvalid(
            [
                Problem(
                    "traces.endpoint",
                    "needs what is not installed: the extra otel, as in pip install 'streaming-gateway[otel]'",
                )
            ]
        ) from None
    exporter = otlp(settings.endpoint)
    about = {
        "service.name": settings.service_name,
        "service.version": __version__,
        "service.instance.id": f"{socket.gethostname()}/{worker}",
    }
    return SpanWriter(export_by(exporter, about), lost=lost, shut=exporter.shutdown)
