"""What an operator can set about projects that tenants are given at the upstream: `[provisioning]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from gateway.settings.section import TENANT_ID, Section

MOST_KEY_SECONDS = 365 * 86400
LEAST_KEY_SECONDS = 3600


class Provisioning(Section):
    """What `gateway upstream provision` makes at the upstream; nothing of it matters to a gateway that serves."""

    deployment: Annotated[str, Field(pattern=rf"^{TENANT_ID.pattern}$")] = "default"
    """Projects are called `gateway:DEPLOYMENT:TENANT`, and are found again by that. Choose another where several
    gateways with tenants of one name have one organization; who changes it later finds none of the former."""

    key_files_dir: Path | None = None
    """Where keys of tenants are written whose `upstream.api_key` names no file yet. Unset: `upstream-keys` beside
    keys_dir."""

    key_lifetime_seconds: int = Field(default=90 * 86400, ge=LEAST_KEY_SECONDS, le=MOST_KEY_SECONDS)
    """From a key's making to its expiry: rotate it before."""
