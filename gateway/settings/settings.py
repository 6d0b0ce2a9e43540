"""What an operator can set, with its default and its unit.

Sources, strongest first: command-line flags, the environment (`GATEWAY_…`, nested with `__`), the
configuration file. `load()` reports every problem at once; unknown keys are problems. Secrets are
given by reference (`env:NAME` or `file:/path`) and are masked wherever they are printed.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from gateway.operations.model_patterns import allows
from gateway.operations.scopes import ScopeProblem, expand
from gateway.operations.table import OperationTable
from gateway.settings.issuer import IssuerSettings
from gateway.settings.limits import Limits, Pattern, Permits

_SECRETS = frozenset({"admin_api_key", "api_key", "http_proxy", "redis_url"})
TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
DEFAULT_BASE_URL = "https://api.openai.com/v1"

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
ByteCount = Annotated[int, Field(gt=0)]


def _address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not port.isdigit() or not 0 <= int(port) <= 65535:
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:8080 or [::]:8080")
    return f"{host or '127.0.0.1'}:{port}"


Address = Annotated[str, AfterValidator(_address)]


_DEFAULT_PORTS = {"http": 80, "https": 443}


def _base_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected an absolute http or https URL without a query, such as https://host/v1")
    if "@" in parts.netloc:
        raise ValueError("expected no login in the URL; keys are given by api_key")
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


UserPath = Annotated[Path, AfterValidator(Path.expanduser)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
HeaderText = Annotated[str, Field(pattern=r"^[!-~]{1,256}$")]


def split_address(address: str) -> tuple[str, int]:
    """Host and port of a validated address; brackets of an IPv6 host are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TenantUpstream(_Section):
    """A tenant's own way upstream; what is unset is the common one. The strongest isolation there is."""

    base_url: BaseUrl | None = None
    """Where this tenant's `/v1` is."""

    api_key: SecretStr | None = None
    """The key that its requests go up with."""

    organization: HeaderText | None = None
    """Sent as OpenAI-Organization; what tenants send under this name never passes."""

    project: HeaderText | None = None
    """Sent as OpenAI-Project, in the same way."""


class Tenant(_Section):
    """Who pays, and what their credentials may do at most."""

    name: str | None = None
    """What people call it; shown by `GET /gateway/me`."""

    enabled: bool = True
    """`false` answers every credential of the tenant 403."""

    upstream: TenantUpstream = TenantUpstream()
    models: tuple[str, ...] | None = None
    """The models that may be used, exact names or globs such as `gpt-4o*`; unset: all."""

    default_model: str | None = None
    """Set in JSON bodies that name no model."""

    logging: Literal["full", "minimal"] = "full"
    """`minimal` leaves the subject and the model out of the tenant's log lines."""

    scopes: tuple[str, ...] = ("*",)
    """The most that a credential of this tenant may hold; `*` is everything but what must be granted by name."""

    metering: bool = False
    """Count what every answer used, also that of streams which do not say so by themselves; on in any case for
    tenants with a limit on LLM tokens."""

    limits: Limits = Limits()


def _from_environ(environ: Mapping[str, str]) -> str:
    named = environ.get("OPENAI_BASE_URL")
    if not named:
        return DEFAULT_BASE_URL
    try:
        return _base_url(named)
    except ValueError as error:
        raise SettingsInvalid([Problem("OPENAI_BASE_URL", str(error))]) from None


class Timeouts(_Section):
    """Limits for one kind of operation, in seconds; what is unset is the general limit."""

    first_byte_seconds: Seconds | None = None
    """From the end of the request to the head of the answer."""

    idle_seconds: Seconds | None = None
    """Between two pieces of the answer."""

    total_seconds: Seconds | None = None
    """The whole exchange."""


class KindTimeouts(_Section):
    """Own limits by kind of operation (`kind_of` in proxy/deadlines.py)."""

    generation: Timeouts = Timeouts()
    """A model answers: chat, responses, images, audio, …"""

    transfer: Timeouts = Timeouts()
    """Files go up or down."""

    stored: Timeouts = Timeouts()
    """Objects are created, read, listed, changed or deleted."""


class Upstream(_Section):
    """The API that stands behind the gateway."""

    base_url: BaseUrl | None = None
    """Where `/v1` is; default: OPENAI_BASE_URL, else the public API."""

    api_key: SecretStr | None = None
    """The gateway's own key; default: OPENAI_API_KEY."""

    admin_api_key: SecretStr | None = None
    """Opens organization administration, with this key only; unset, those operations are closed."""

    organization: HeaderText | None = None
    """Sent as OpenAI-Organization for tenants that have none of their own."""

    project: HeaderText | None = None
    """Sent as OpenAI-Project for tenants that have none of their own."""

    ca_file: UserPath | None = None
    """Certificates to trust in place of the system's (PEM)."""

    http_proxy: SecretStr | None = None
    """URL of a proxy on the way to the upstream; may hold a login, so by reference."""

    max_connections: int = Field(default=1000, ge=1)
    """Connections to one base URL at once; what exceeds them waits."""

    keepalive_seconds: Seconds = 15.0
    """How long an idle connection is kept; must stay below the upstream's own idle time."""

    connect_timeout_seconds: Seconds = 10.0
    """For a connection to be had, waiting for a free one included."""

    first_byte_timeout_seconds: Seconds = 600.0
    """From the end of the request to the head of the answer; at most 120 for stored objects, unless set for
    their kind."""

    idle_timeout_seconds: Seconds = 300.0
    """Between two pieces of the answer."""

    total_timeout_seconds: Seconds = 3600.0
    """The whole exchange."""

    websocket_timeout_seconds: Seconds = 7200.0
    """A WebSocket session."""

    timeouts: KindTimeouts = KindTimeouts()

    def resolved_base_url(self, environ: Mapping[str, str]) -> str:
        """The base URL in force, without a trailing slash."""
        return self.base_url or _from_environ(environ)


class Credentials(_Section):
    """What a credential must say to be accepted."""

    issuer: str = "gateway"
    """The `iss` of our own credentials: what they must name, and what `gateway credential issue` writes."""

    audience: str = "gateway"
    """The `aud`, in the same way."""

    leeway_seconds: float = Field(default=30.0, ge=0, le=300)
    """By how much clocks may differ."""

    max_lifetime_seconds: float = Field(default=90 * 86400.0, gt=0, le=366 * 86400)
    """From issue to expiry, at most."""

    max_bytes: int = Field(default=8192, ge=512, le=65536)
    """Of one credential."""

    cache_size: int = Field(default=10_000, ge=0)
    """Verified credentials that are remembered, per process."""


class Edge(_Section):
    """Caps and deadlines towards clients."""

    max_header_bytes: ByteCount = 64 * 1024
    """All header fields of a request together."""

    header_timeout_seconds: Seconds = 10.0
    """For a request's head to be complete."""

    body_idle_timeout_seconds: Seconds = 30.0
    """Between two pieces of a request's body."""

    write_idle_timeout_seconds: Seconds = 60.0
    """How long a client may leave its answer unread."""

    keepalive_seconds: Seconds = 75.0
    """Must stay above the idle time of a load balancer in front."""

    max_json_body_bytes: ByteCount = 64 * 2**20
    """A JSON body, which is read whole before it is forwarded."""

    max_body_bytes: ByteCount = 8 * 2**30
    """Any other body, which streams."""

    max_connections: int = Field(default=0, ge=0)
    """0: just below half of the process's file limit."""

    websocket_heartbeat_seconds: Seconds = 20.0
    """A silent side is pinged after one of these, given up after two."""

    max_websocket_message_bytes: ByteCount = 16 * 2**20
    """One message of a WebSocket."""


StoreFailure = Literal["local", "open", "closed"]


class Settings(BaseSettings):
    """The whole configuration of one gateway process."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix="GATEWAY_", env_nested_delimiter="__"
    )

    listen: Address = "127.0.0.1:8080"
    """The public listener, HOST:PORT."""

    admin_listen: Address = "127.0.0.1:9090"
    """The private listener: metrics and health. Keep it off the public network."""

    keys_dir: UserPath = Field(
        default_factory=lambda: (
            Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "gateway/keys"
        )
    )
    """The keys that sign and verify credentials; default: gateway/keys in the user's configuration folder."""

    redis_url: SecretStr | None = None
    """Counts limits and usage, and keeps revocations, for several gateways together; unset: each process for
    itself."""

    on_store_failure: StoreFailure = "local"
    """While Redis is away: each gateway grants its share, everything, or nothing (503)."""

    expected_replicas: int = Field(default=1, ge=1, le=10_000)
    """Gateways that share the limits, as long as Redis was never reached: each grants that part of them."""

    expected_output: dict[Pattern, Permits] = Field(default_factory=dict)
    """LLM tokens that one answer is expected to have where the request states no maximum, by model: exact name,
    else the longest pattern that matches, else 1000. A guess, which is settled when usage is known."""

    shared_objects: Literal["refuse", "allow"] = "refuse"
    """Whether tenants that share an upstream key may use stored objects, each other's included."""

    allow_uncontained: bool = False
    """Open the operations whose sessions run past the gateway: /v1/chatkit/sessions and /v1/realtime/calls."""

    drain_seconds: float = Field(default=600.0, ge=0, le=86400)
    """How long running exchanges may take to finish at a stop."""

    drain_notice_seconds: float = Field(default=5.0, ge=0, le=600)
    """How long a stopping process keeps accepting while load balancers notice that it is not ready."""

    upstream: Upstream = Upstream()
    credentials: Credentials = Credentials()
    edge: Edge = Edge()
    limits: Limits = Limits()
    """For every tenant that sets none of its own."""

    issuers: dict[str, IssuerSettings] = Field(default_factory=dict)
    """Other issuers whose credentials count, by a short name for logs and metrics."""

    tenants_path: UserPath | None = None
    """A file, or a folder of `*.toml` files, with further [tenants.ID] tables; followed while running.
    Relative to the configuration file."""

    tenants: dict[str, Tenant] = Field(default_factory=lambda: {"default": Tenant()})

    @field_validator("tenants")
    @classmethod
    def _tenant_ids(cls, value: dict[str, Tenant]) -> dict[str, Tenant]:
        for tenant_id in value:
            if not TENANT_ID.fullmatch(tenant_id) or tenant_id == "other":
                raise ValueError(
                    f"{tenant_id!r} cannot name a tenant: use 1 to 64 letters, digits, '.', '_' or '-', "
                    "beginning with a letter or digit, and not the word 'other'"
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

    def limits_of(self, tenant: Tenant) -> Limits:
        """The limits in force for a tenant: its own where set, else the common ones."""
        return tenant.limits.resolved(self.limits)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration: where, what, and what would be right."""

    key: str
    message: str

    def __str__(self) -> str:
        return f"{self.key}: {self.message}"


class SettingsInvalid(Exception):
    """A configuration with one or more problems; none of it is in force."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


def load(
    file: Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings from flags, environment and file, in this order of strength.

    Raises SettingsInvalid with every problem found. `flags` is nested like the file.
    """
    environ = os.environ if environ is None else environ
    problems: list[Problem] = []
    from_file = _read(file, problems) if file is not None else {}
    if problems:
        raise SettingsInvalid(problems)
    try:
        from_environ = _Environ(Settings, environ)()
    except SettingsError as error:
        from_environ = {}
        problems.append(Problem("GATEWAY_…", f"{error}; expected JSON for a list or a table"))
    merged = _merge(_merge(from_file, from_environ), dict(flags or {}))
    if merged.get("tenants_path"):
        place = Path(str(merged["tenants_path"])).expanduser()
        merged["tenants_path"] = place = file.parent / place if file is not None else place
        _read_tenants(place, merged, problems)
    problems += [*_dangling(merged, environ), *_unknown_scopes(merged)]
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as invalid:
        raise SettingsInvalid([*_problems(invalid), *problems]) from None
    problems += _contradictions(settings)
    if problems:
        raise SettingsInvalid(problems)
    return settings


def resolve_secret(reference: SecretStr | None, environ: Mapping[str, str]) -> str | None:
    """The secret behind `env:NAME` or `file:/path`; any other text is the secret itself.

    Raises SettingsInvalid when the reference leads nowhere.
    """
    if reference is None:
        return None
    text = reference.get_secret_value()
    if text.startswith("env:"):
        value = environ.get(text[4:])
        if not value:
            raise SettingsInvalid([Problem(text, "this environment variable is not set")])
        return value
    if text.startswith("file:"):
        path = Path(text[5:]).expanduser()
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsInvalid([Problem(text, f"cannot be read: {error}")]) from None
    return text


class _Environ(EnvSettingsSource):
    """The process environment, taken as an argument so that nothing else is read."""

    def __init__(self, settings: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._environ = environ
        super().__init__(settings)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {key.lower(): value for key, value in self._environ.items()}


def _read(file: Path, problems: list[Problem]) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            return tomllib.load(stream)
    except OSError as error:
        problems.append(Problem(str(file), f"cannot be read: {error.strerror}"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(Problem(str(file), f"is not TOML: {error}"))
    return {}


def tenant_files(place: Path) -> list[Path]:
    """The files that a `tenants_path` names. Raises OSError when it cannot be read."""
    return sorted(place.glob("*.toml")) if place.is_dir() else [place]


def _read_tenants(place: Path, merged: dict[str, Any], problems: list[Problem]) -> None:
    """Add the tenants of further files; a tenant is described in one place only."""
    tenants = merged.setdefault("tenants", {})
    if not isinstance(tenants, dict):
        return  # said when the whole is judged
    where = dict.fromkeys(tenants, "the configuration")
    for path in tenant_files(place):
        document = _read(path, problems)
        problems += [
            Problem(f"{path}: {key}", "only [tenants.ID] tables belong here")
            for key in document
            if key != "tenants"
        ]
        found = document.get("tenants", {})
        if not isinstance(found, dict):
            problems.append(Problem(f"{path}: tenants", "expected [tenants.ID] tables"))
            continue
        for tenant_id in found:
            if tenant_id in where:
                problems.append(Problem(f"tenants.{tenant_id}", f"is in {where[tenant_id]} and in {path}"))
            where[tenant_id] = str(path)
            tenants[tenant_id] = found[tenant_id]


def _merge(weak: dict[str, Any], strong: dict[str, Any]) -> dict[str, Any]:
    merged = dict(weak)
    for key, value in strong.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _problems(invalid: ValidationError) -> list[Problem]:
    problems = []
    for error in invalid.errors(include_url=False):
        key = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            known = _keys_beside(error["loc"])
            near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(sorted(known))}"
            problems.append(Problem(key, f"is not a setting; {hint}"))
        else:
            shown = isinstance(error["input"], int | float) or _is_harmless(error["loc"])
            got = f" (got {error['input']!r})" if shown and error["type"] != "missing" else ""
            problems.append(Problem(key, error["msg"].removeprefix("Value error, ") + got))
    return problems


def _is_harmless(location: tuple[int | str, ...]) -> bool:
    """Whether what was written at a place can be shown: nothing near a key, a login or a secret can."""
    return not {"upstream", "tenants", "issuers", *_SECRETS}.intersection(map(str, location))


def _dangling(values: Mapping[str, Any], environ: Mapping[str, str], parents: str = "") -> Iterator[Problem]:
    """References to secrets that lead nowhere, at any depth; looked for even where the rest is not valid."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _dangling(value, environ, f"{parents}{key}.")
        elif key in _SECRETS and isinstance(value, str):
            try:
                resolve_secret(SecretStr(value), environ)
            except SettingsInvalid as invalid:
                yield from (Problem(parents + key, str(problem)) for problem in invalid.problems)


def _unknown_scopes(values: Mapping[str, Any]) -> Iterator[Problem]:
    tenants = values.get("tenants")
    known = OperationTable.load().scopes
    for tenant_id, tenant in tenants.items() if isinstance(tenants, dict) else ():
        scopes = tenant.get("scopes") if isinstance(tenant, dict) else None
        if not isinstance(scopes, list | tuple) or not all(isinstance(scope, str) for scope in scopes):
            continue
        try:
            expand(scopes, known)
        except ScopeProblem as problem:
            yield from (Problem(f"tenants.{tenant_id}.scopes", text) for text in problem.problems)


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        if field is None:
            continue  # a tenant's id: its table is described by the field above it
        for candidate in (field.annotation, *get_args(field.annotation)):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                model = candidate
    return list(model.model_fields)


def _contradictions(settings: Settings) -> list[Problem]:
    problems = []
    public, private = split_address(settings.listen), split_address(settings.admin_listen)
    if public == private and public[1] != 0:
        problems.append(
            Problem("admin_listen", f"is the same address as listen ({settings.listen}); choose another port")
        )
    for tenant_id, tenant in settings.tenants.items():
        if tenant.default_model is None or tenant.models is None:
            continue
        if not allows(tenant.models, tenant.default_model):
            problems.append(
                Problem(
                    f"tenants.{tenant_id}.default_model",
                    f"{tenant.default_model!r} is not among the tenant's models; add it there or name another",
                )
            )
    if not settings.tenants:
        problems.append(Problem("tenants", "there is none; add at least one [tenants.ID] table"))
    return problems
