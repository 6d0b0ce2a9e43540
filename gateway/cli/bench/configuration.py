"""A user's configuration as it can be measured: the same work for every request, and nothing real at the end of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.cli.options import check_tenant
from gateway.limits.terms import MOST_PERMITS, Dimension
from gateway.operations.model_patterns import allows
from gateway.operations.scopes import expand
from gateway.operations.table import OperationTable
from gateway.policy.tenants import tenant_policies
from gateway.settings.section import Problem, SettingsInvalid, revealed
from gateway.settings.settings import Settings

_OF_THE_RUN = {
    "listen",
    "admin_listen",
    "keys_dir",
    "issuers",
    "tenants_path",
    "tenants",
    "upstream",
    "limits",
    "tls_certificate",
    "tls_key",
}
_ELSEWHERE = {"base_url", "api_key", "admin_api_key", "ca_file", "http_proxy", "workload_identity"}
_SCOPES = {
    "chat": "chat.completions:write",
    "speech": "audio.speech:write",
    "transcriptions": "audio.transcriptions:write",
}
_LIMITS = frozenset(dimension.value for dimension in Dimension)
_MODELS = {"chat": "gpt-4o-mini", "speech": "tts-1", "transcriptions": "whisper-1"}


def chosen_tenant(settings: Settings, wanted: str | None) -> str:
    """The tenant to measure: `wanted`, else `default`, else the first. Raises ValueError and SettingsInvalid."""
    tenant = wanted or ("default" if "default" in settings.tenants else next(iter(settings.tenants)))
    check_tenant(settings, tenant)
    if not settings.tenants[tenant].enabled:
        raise SettingsInvalid([Problem(f"tenants.{tenant}", "is disabled; name another one with --tenant")])
    if _SCOPES["chat"] not in scopes_of(settings, tenant):
        raise SettingsInvalid(
            [
                Problem(
                    f"tenants.{tenant}.scopes",
                    f"do not have {_SCOPES['chat']}, with which all is measured; name another one with --tenant",
                )
            ]
        )
    return tenant


def redis_prefix(settings: Settings) -> str:
    """Of all keys, after the configured one; what a run that was killed left behind, the next one sweeps."""
    return f"{settings.redis_prefix}bench:"


def scopes_of(settings: Settings, tenant: str) -> frozenset[str]:
    """All that a credential of the tenant may hold."""
    return expand(settings.tenants[tenant].scopes, OperationTable.load().scopes)


def models_of(settings: Settings, tenant: str) -> dict[str, str]:
    """A model for chat, speech and transcriptions each, as far as the tenant may use them."""
    allowed = settings.tenants[tenant].models
    scopes = scopes_of(settings, tenant)
    return {work: _model(usual, allowed) for work, usual in _MODELS.items() if _SCOPES[work] in scopes}


def _model(usual: str, allowed: tuple[str, ...] | None) -> str:
    if not allowed or allows(allowed, usual):
        return usual
    return allowed[0].replace("*", "x")


def document(
    settings: Settings, tenant: str, *, base_url: str, ca_file: str, limited: bool
) -> dict[str, Any]:
    """The settings for a gateway on free ports of loopback, as plain data with its secrets.

    What costs something is as configured; every limit is there, and too large to be reached. The tenant is the only
    one; other issuers are not asked, and the upstream is `base_url`.
    """
    measured = settings.tenants[tenant]
    found = settings.model_dump(mode="json", exclude_unset=True, exclude=_OF_THE_RUN)
    upstream = settings.upstream.model_dump(mode="json", exclude_unset=True, exclude=_ELSEWHERE)
    own = measured.model_dump(
        mode="json", exclude_unset=True, exclude={"upstream", "limits", "stored_objects"}
    )
    own["upstream"] = measured.upstream.model_dump(
        mode="json", exclude_unset=True, exclude={"base_url", "api_key", "workload_identity"}
    )
    own["metering"] = _asks_for_usage(settings, tenant)
    if limited:
        limits = settings.limits_of(measured).model_dump(mode="json", exclude_none=True)
        own["limits"] = _unreachable(limits)
    return {
        **found,
        "listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "workers": 1,
        "drain_notice_seconds": 0.0,
        "drain_seconds": 1.0,
        "redis_url": revealed(settings.redis_url),
        "redis_prefix": redis_prefix(settings),
        "upstream": {
            **upstream,
            "base_url": base_url,
            "api_key": "sk-of-the-bench",
            **({"ca_file": ca_file} if ca_file else {}),
        },
        "tenants": {tenant: own},
    }


def _asks_for_usage(settings: Settings, tenant: str) -> bool:
    """Whether streams are asked what they used, by the upstream that is configured."""
    return tenant_policies(settings, OperationTable.load())[tenant].asks_for_usage


def _unreachable(limits: Mapping[str, Any]) -> dict[str, Any]:
    """The same limits, each as large as one can be."""
    found: dict[str, Any] = {}
    for name, value in limits.items():
        if name in _LIMITS:
            found[name] = MOST_PERMITS // Dimension(name).permits_per_unit
        elif name in ("models", "subjects"):
            found[name] = {pattern: _unreachable(table) for pattern, table in value.items()}
        else:
            found[name] = value
    return found


def described(settings: Settings, tenant: str) -> str:
    """What is on, in a line."""
    capacities = settings.limits_of(settings.tenants[tenant])
    limits = [dimension.value for dimension in capacities.capacities()]
    for name, tables in (("models", capacities.models), ("subjects", capacities.subjects)):
        limits += [
            f"{name}.{dimension.value}" for table in tables.values() for dimension in table.capacities()
        ]
    where = "in Redis" if settings.redis_url else "in memory"
    metering = any(Dimension(name.rpartition(".")[2]).is_reported for name in limits)
    return (
        f"limits {where}: {', '.join(dict.fromkeys(limits)) or 'none'}; "
        f"usage of streams {'read' if metering or _asks_for_usage(settings, tenant) else 'not read'}"
    )
