"""What an operator can set about a tenant: a table `[tenants.ID]`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.operations.scopes import OTHERS_USAGE
from gateway.settings.limits import Limits
from gateway.settings.section import BaseUrl, HeaderText, Secret, Section, UpstreamName
from gateway.settings.workload_identity import WorkloadIdentity


class TenantUpstream(Section):
    """A tenant's own way upstream; what is unset is the common one. An account or project of its own is the strongest
    isolation there is; a key of the same project is none."""

    name: UpstreamName | None = None
    """What metrics and the log call this way; several tenants may share a name. Unset: the tenant's ID where it has a
    base_url, an api_key or a workload_identity of its own, else the name of the common one."""

    base_url: BaseUrl | None = None
    """Where this tenant's `/v1` is."""

    api_key: Secret = None
    """The key that its requests go up with."""

    workload_identity: WorkloadIdentity | None = None
    """In the place of a key, as that of the common upstream; not with an api_key in the same table."""

    organization: HeaderText | None = None
    """Sent as OpenAI-Organization; what tenants send under this name never passes."""

    project: HeaderText | None = None
    """Sent as OpenAI-Project, in the same way."""

    monthly_spend_limit_usd: int | None = Field(default=None, gt=0, le=10**9)
    """What the tenant's project may spend in a month: `gateway upstream provision` tells the upstream, and that keeps
    it, not at once. A gateway that serves takes no notice."""


class Tenant(Section):
    """Who pays, and what their credentials may do at most."""

    name: str | None = None
    """What people call it; shown by `GET /gateway/me`."""

    enabled: bool = True
    """`false` answers every credential of the tenant 403."""

    upstream: TenantUpstream = TenantUpstream()
    stored_objects: Literal["registry", "own", "refuse"] | None = None
    """What the upstream stores (files, batches, threads, …). `"registry"`: the tenant may use what it has made, as
    Redis knows. `"own"`: by the operator's word the upstream account of this tenant is no other's, so that all of it
    is open. `"refuse"`: none of it. Unset: open where nobody else can have, or have had, the account; else `"registry"`
    with `redis_url`, and `"refuse"` without."""

    models: tuple[str, ...] | None = None
    """The models that may be used, exact names or globs such as `gpt-4o*`; unset: all."""

    default_model: str | None = None
    """Set in JSON bodies that name no model."""

    logging: Literal["full", "minimal"] = "full"
    """`minimal` leaves client, subject, credential and model out of the tenant's log lines, and the model out of its
    spans."""

    scopes: tuple[str, ...] = ("*", OTHERS_USAGE)
    """The most that a credential of this tenant may hold; `*` is everything but what must be granted by name."""

    metering: bool | None = None
    """Ask streams what they used that would not say so, and estimate what nobody reports; unset: as upstream.metering
    says of whoever has no base_url of its own, else on at the public API and off elsewhere. A limit on LLM tokens needs
    it, and asks in any case."""

    unmetered: Literal["allow", "refuse"] | None = None
    """As the common `unmetered`, for this tenant."""

    limits: Limits = Limits()
