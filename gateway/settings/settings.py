"""What an operator can set, with its default and its unit."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.limits.terms import OnStoreFailure
from gateway.operations.model_patterns import allows
from gateway.redis.schema import DEFAULT_PREFIX
from gateway.redis.schemes import scheme_of
from gateway.settings.edge import Edge
from gateway.settings.issuer import IssuerSettings
from gateway.settings.kept_file import KeptFile
from gateway.settings.limits import Limits, Pattern, Permits
from gateway.settings.log import Log
from gateway.settings.provisioning import Provisioning
from gateway.settings.section import (
    AT_START,
    FOLLOWED,
    OTHER_TENANT,
    TENANT_ID,
    Address,
    Problem,
    Seconds,
    Secret,
    Section,
    split_address,
)
from gateway.settings.tenant import Tenant
from gateway.settings.traces import Traces
from gateway.settings.upstream import Upstream

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9.])?$")]

# Scheme, host and port, no more; with a port that a browser leaves out it would never match.
_ORIGIN = re.compile(
    r"(?!https://[^/]*:443$)(?!http://[^/]*:80$)[a-z][a-z0-9+.-]*://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?"
)


_LEAST_KEY_LETTERS = 16


def _origin(value: str) -> str:
    if value not in ("*", "null") and not _ORIGIN.fullmatch(value):
        raise ValueError(
            "expected an origin as browsers send it, such as https://app.example.com or http://localhost:3000: "
            "in lower case, without a path and without a port that goes without saying; or *"
        )
    return value


Origin = Annotated[str, AfterValidator(_origin)]

# Braces say which part of a key decides where a cluster keeps it, and the prefix is no such part.
RedisPrefix = Annotated[str, Field(pattern=r"^[!-z|~]{1,64}$")]


class Credentials(Section):
    """What a credential must say to be accepted."""

    issuer: str = "gateway"
    """The `iss` of our own credentials: what they must name, and what `gateway credential issue` writes."""

    audience: str = "gateway"
    """The `aud`, in the same way."""

    leeway_seconds: float = Field(default=30.0, ge=0, le=300)
    """By how much clocks may differ."""

    max_lifetime_seconds: float = Field(default=90 * 86400.0, gt=0, le=366 * 86400)
    """From issue to expiry, at most."""

    max_bytes: int = Field(default=8192, ge=512, le=16_000)
    """Of one credential; no header may have more than 16,384 bytes."""

    cache_size: int = Field(default=10_000, ge=0)
    """Verified credentials that each worker remembers."""


def _redis_url(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None:
        scheme_of(secret.get_secret_value())
    return secret


def _long_enough(secret: SecretStr | None) -> SecretStr | None:
    if secret is not None and len(secret.get_secret_value()) < _LEAST_KEY_LETTERS:
        raise ValueError(
            f"expected at least {_LEAST_KEY_LETTERS} characters that nobody can guess, as of: openssl rand -hex 32"
        )
    return secret


class Settings(BaseSettings):
    """The whole configuration of a gateway."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="GATEWAY_", env_nested_delimiter="__"
    )

    listen: Annotated[Address, AT_START] = "127.0.0.1:8080"
    """The public listener, HOST:PORT."""

    tls_certificate: Annotated[KeptFile | None, FOLLOWED] = None
    """Serve by TLS on `listen`, with this certificate and those that vouch for it, the server's own first (PEM). What
    the file holds is followed for new connections; so are links that come to lead elsewhere."""

    tls_key: Annotated[KeptFile | None, FOLLOWED] = None
    """The private key of that certificate (PEM, not encrypted)."""

    cors_origins: tuple[Origin, ...] = ()
    """Origins whose pages may ask from a browser and read the answers, as `https://app.example.com`, or `*`: all.
    Empty: what upstreams say of that passes."""

    admin_listen: Annotated[Address, AT_START] = "127.0.0.1:9090"
    """The private listener: metrics, health, and a page for operators. Keep it off the public network."""

    admin_hosts: Annotated[tuple[HostName, ...], AT_START] = ()
    """Names under which it may be asked for more than metrics and health; by address and as localhost it always may."""

    admin_key: Annotated[Secret, AfterValidator(_long_enough), FOLLOWED] = None
    """Opens the private listener's page and `/gateway/state` to whoever asks from another machine, as Bearer or, for
    browsers, as the password of Basic; unset: they are shown on this machine alone."""

    keys_dir: Path = Field(default_factory=lambda: default_keys_dir(os.environ))
    """The keys that sign and verify credentials."""

    workers: Annotated[int | None, AT_START] = Field(default=None, ge=1, le=512)
    """Processes that serve, one for each core, behind one address; unset: with `redis_url`, and outside of containers,
    as many as there are cores for them, else 1. Caps are the machine's, and each worker has its part of them."""

    redis_url: Annotated[Secret, AfterValidator(_redis_url)] = None
    """Counts limits and usage, and keeps revocations, for several workers and gateways together; unset: each process
    counts for itself."""

    redis_prefix: RedisPrefix = DEFAULT_PREFIX
    """What every key there begins with, so that several deployments can share a Redis; best ended by a `:`."""

    on_store_failure: Annotated[OnStoreFailure, FOLLOWED] = OnStoreFailure.LOCAL
    """While Redis is away: each worker grants its share, everything, or nothing (503)."""

    expected_replicas: int = Field(default=1, ge=1, le=10_000)
    """Gateways that share the limits, as long as Redis was never reached: each, with all its workers, grants that part
    of them."""

    expected_output: dict[Pattern, Permits] = Field(default_factory=dict)
    """LLM tokens that one answer is expected to have where the request states no maximum, by model: exact name, else
    the longest pattern that matches. A guess, which is settled when usage is known; of models that are not named here
    it is learned from their answers."""

    unseen_tokens_per_second: float = Field(default=50.0, ge=0, le=100_000)
    """LLM tokens a second that are charged where a client leaves before anybody has said what was used, since the
    upstream was asked, up to what was reserved: models think without being seen. What went by counts where that is
    more."""

    unmetered: Annotated[Literal["allow", "refuse"], FOLLOWED] = "allow"
    """Whether tenants may use what none of their limits counts. `"refuse"` answers that 403, also what is not known and
    what comes later; what costs nothing stays open. A limit on requests counts no use."""

    allow_uncontained: bool = False
    """Open what starts or steers sessions that run past the gateway: all of /v1/chatkit, /v1/live,
    /v1/agents/sessions and /v1/agents/automations, and of /v1/realtime all but the WebSocket and what mints secrets."""

    drain_seconds: float = Field(default=600.0, ge=0, le=86400)
    """How long running exchanges, WebSockets included, may take to finish at a stop."""

    drain_notice_seconds: float = Field(default=5.0, ge=0, le=600)
    """How long a stopping process keeps accepting while load balancers notice that it is not ready; and how long one
    that is replaced keeps connections that wait for a next request."""

    worker_hang_seconds: Annotated[Seconds, AT_START] = 10.0
    """A worker whose loop has not turned for so long is replaced; where its threads were goes to standard error. One
    process alone is not ready meanwhile."""

    upstream: Upstream = Upstream()
    credentials: Annotated[Credentials, FOLLOWED] = Credentials()
    edge: Edge = Edge()
    log: Log = Log()
    traces: Traces = Traces()
    limits: Annotated[Limits, FOLLOWED] = Limits()
    """For every tenant that sets none of its own."""

    issuers: Annotated[dict[str, IssuerSettings], FOLLOWED] = Field(default_factory=dict)
    """Other issuers whose credentials count, by a short name for logs and metrics."""

    provisioning: Annotated[Provisioning, FOLLOWED] = Provisioning()

    tenants_path: Annotated[Path | None, FOLLOWED] = None
    """A file, or a folder of `*.toml` files, with further [tenants.ID] tables; followed while running.
    Relative to the configuration file."""

    tenants: Annotated[dict[str, Tenant], FOLLOWED] = Field(default_factory=lambda: {"default": Tenant()})

    @field_validator("tenants")
    @classmethod
    def _tenant_ids(cls, value: dict[str, Tenant]) -> dict[str, Tenant]:
        for tenant_id in value:
            if not TENANT_ID.fullmatch(tenant_id) or tenant_id == OTHER_TENANT:
                raise ValueError(
                    f"{tenant_id!r} cannot name a tenant: use 1 to 64 letters, digits, '.', '_' or '-', "
                    f"beginning with a letter or digit, and not the word {OTHER_TENANT!r}"
                )
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 (no hidden files)
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # load() reads the environment itself, from what it is given

    @property
    def is_apart(self) -> bool:
        """Whether several workers have nowhere to count together."""
        return self.redis_url is None and (self.workers or 1) > 1

    def limits_of(self, tenant: Tenant) -> Limits:
        """The limits in force for a tenant: its own where set, else the common ones."""
        return tenant.limits.resolved(self.limits)


_NO_REGISTRY = '"registry" is kept in Redis; set redis_url, or "own" or "refuse" here'


def default_keys_dir(environ: Mapping[str, str]) -> Path:
    """Where the keys are when nobody says so."""
    return Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "gateway/keys"


def waiting_for_restart(now: Settings, new: Settings) -> list[str]:
    """The settings that have changed and are not followed."""
    return [name for name in type(now).model_fields if _waits(name, now, new)]


def _waits(name: str, now: BaseModel, new: BaseModel) -> bool:
    if FOLLOWED in type(now).model_fields[name].metadata:
        return False
    before, after = getattr(now, name), getattr(new, name)
    if isinstance(before, Section):
        return any(_waits(member, before, after) for member in type(before).model_fields)
    return bool(before != after)


def contradictions(settings: Settings) -> list[Problem]:
    """What is right by itself and wrong together."""
    problems = []
    if _collide(split_address(settings.listen), split_address(settings.admin_listen)):
        problems.append(
            Problem(
                "admin_listen",
                f"{settings.admin_listen} has the port of listen ({settings.listen}) on the same address; "
                "choose another port",
            )
        )
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        unset, is_set = ("tls_key", "tls_certificate")[:: 1 if settings.tls_key is None else -1]
        problems.append(Problem(unset, f"is not set, and {is_set} is; TLS needs both"))
    for tenant_id, tenant in settings.tenants.items():
        default = tenant.default_model
        if default is not None and tenant.models is not None and not allows(tenant.models, default):
            problems.append(
                Problem(
                    f"tenants.{tenant_id}.default_model",
                    f"{default!r} is not among the tenant's models; add it there or name another",
                )
            )
        if tenant.stored_objects == "registry" and settings.redis_url is None:
            problems.append(Problem(f"tenants.{tenant_id}.stored_objects", _NO_REGISTRY))
    if not settings.tenants:
        problems.append(Problem("tenants", "there is none; add at least one [tenants.ID] table"))
    if settings.is_apart:
        problems += uncounted(settings)
    return problems


def _collide(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether what comes to one of two listeners could be meant for the other."""
    if one[1] != other[1] or one[1] == 0:
        return False
    first, second = sorted((one[0], other[0]))  # what stands for any address comes first
    match first:
        case "0.0.0.0":
            return ":" not in second
        case "127.0.0.1" | "::1":
            return second in (first, "localhost")
        case "::":
            return ":" in second or second == "localhost"
        case _:
            return first == second


def uncounted(settings: Settings) -> list[Problem]:
    """The problem of limits that several workers would have to keep together without Redis, if there are any."""
    for tenant_id, tenant in settings.tenants.items():
        limits = settings.limits_of(tenant)
        if any(table.capacities() for table in (limits, *limits.models.values(), *limits.subjects.values())):
            return [
                Problem(
                    "workers",
                    f"several of them cannot keep limits together without Redis, and the tenant {tenant_id} has some; "
                    "set redis_url, or workers = 1",
                )
            ]
    return []
