"""What an operator can set about the API that stands behind the gateway: `[upstream]`."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from gateway.settings.kept_file import KeptFile
from gateway.settings.section import (
    COMMON_UPSTREAM,
    FOLLOWED,
    BaseUrl,
    HeaderText,
    Seconds,
    Secret,
    Section,
    UpstreamName,
)
from gateway.settings.workload_identity import WorkloadIdentity

_PROXY = "expected the URL of an HTTP proxy, such as http://proxy.internal:3128"

DEFAULT_BASE_URL = "https://api.openai.com/v1"


def _http_proxy(secret: SecretStr | None) -> SecretStr | None:
    if secret is None:
        return None
    scheme, separator, _ = secret.get_secret_value().partition("://")
    if not separator:
        raise ValueError(_PROXY)
    if scheme.lower() not in ("http", "https"):
        raise ValueError(f"{scheme}:// cannot be used; {_PROXY}")
    try:
        parts = urlsplit(secret.get_secret_value())
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        named = False
    if not named:
        raise ValueError(f"its host or port is none; {_PROXY}")
    return secret


class Timeouts(Section):
    """Deadlines for one kind of operation; what is unset is the general deadline."""

    first_byte_seconds: Seconds | None = None
    """From the end of the request to the head of the answer."""

    idle_seconds: Seconds | None = None
    """Between two pieces of the answer."""

    total_seconds: Seconds | None = None
    """The whole exchange."""


class KindTimeouts(Section):
    """Deadlines of their own for three kinds of operation."""

    generation: Timeouts = Timeouts()
    """A model answers: chat, responses, images, audio, …"""

    transfer: Timeouts = Timeouts()
    """Files go up or down."""

    stored: Timeouts = Timeouts()
    """Objects are created, read, listed, changed or deleted."""


class Upstream(Section):
    """The API that stands behind the gateway."""

    name: UpstreamName = COMMON_UPSTREAM
    """What metrics and the log call it, where they say whose answers, connections and limits they mean."""

    # From a factory, as that of keys_dir: the default depends on the environment, so no file can state it.
    base_url: BaseUrl = Field(default_factory=lambda: DEFAULT_BASE_URL)
    """Where `/v1` is; unset: what OPENAI_BASE_URL says, else the public API."""

    api_key: Annotated[Secret, FOLLOWED] = None
    """The gateway's own key; unset, and without a workload_identity: OPENAI_API_KEY."""

    workload_identity: Annotated[WorkloadIdentity | None, FOLLOWED] = None
    """In the place of a key: what opens the upstream for an hour or so, and is renewed in the background."""

    admin_api_key: Annotated[Secret, FOLLOWED] = None
    """Opens organization administration, with this key only; unset, those operations are closed."""

    organization: Annotated[HeaderText | None, FOLLOWED] = None
    """Sent as OpenAI-Organization for tenants that have none of their own."""

    project: Annotated[HeaderText | None, FOLLOWED] = None
    """Sent as OpenAI-Project for tenants that have none of their own."""

    metering: Annotated[bool | None, FOLLOWED] = None
    """Ask streams what they used that would not say so, and estimate what nobody reports; unset: on at the public API,
    off elsewhere, for other servers may reject `stream_options` with 400 or 422."""

    ca_file: Annotated[KeptFile | None, FOLLOWED] = None
    """Certificates to trust in place of the system's (PEM); what the file holds is followed for new connections."""

    http_proxy: Annotated[Secret, AfterValidator(_http_proxy)] = None
    """URL of a proxy on the way to the upstream; may hold a login, so by reference."""

    max_connections: int = Field(default=1000, ge=1)
    """Connections to one base URL at once, of all workers together; what exceeds them waits."""

    tenant_share: float = Field(default=0.5, gt=0, le=1)
    """The part of them, in each worker, that one tenant may always take; more only while a tenth of all stays free."""

    connection_wait_seconds: Seconds = 5.0
    """For a connection to come free, while all of them or all of the tenant's are in use; then 503."""

    keepalive_seconds: Seconds | None = None
    """How long an idle connection is kept; must stay below the upstream's own idle time. Unset: 15 at the public API, 4
    elsewhere, for many servers close at 5."""

    connect_timeout_seconds: Seconds = 10.0
    """For a new connection to be made."""

    first_byte_timeout_seconds: Seconds = 600.0
    """From the end of the request to the head of the answer; at most 120 for stored objects, unless set for
    their kind."""

    idle_timeout_seconds: Seconds = 300.0
    """Between two pieces of the answer."""

    total_timeout_seconds: Seconds = 3600.0
    """The whole exchange."""

    websocket_timeout_seconds: Seconds = 7200.0
    """A WebSocket session."""

    model_list_seconds: float = Field(default=0.0, ge=0, le=7 * 86400)
    """How often the gateway itself asks each way upstream which models it has, from the start on; 0: never. Metrics
    name models of the configuration, and those on lists that clients were given or that are asked for; all others are
    `other`."""

    timeouts: KindTimeouts = KindTimeouts()
