"""What an operator can set about traces: `[traces]`."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from gateway.settings.section import BaseUrl, Section


def _of_traces(url: str) -> str:
    return url if urlsplit(url).path else f"{url}/v1/traces"


class Traces(Section):
    """Where spans of exchanges go; it needs the extra `otel`."""

    endpoint: Annotated[BaseUrl, AfterValidator(_of_traces)] | None = None
    """Takes spans by OTLP over HTTP, as a collector does: `http://collector:4318`, which stands for its `/v1/traces`;
    unset: there are none, and what requests say of traces passes untouched."""

    ratio: float = Field(default=1.0, ge=0, le=1)
    """The part of exchanges that is recorded where the caller traces nothing, or has no credential that counts; who
    traces else has decided for us."""

    service_name: str = Field(default="gateway", pattern=r"^[ -~]{1,128}$")
    """What the gateway is called in traces."""
