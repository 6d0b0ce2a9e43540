"""The settings themselves: frozen, with defaults that are valid, and which of them wait for a restart."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.settings.section import SettingsInvalid
from gateway.settings.settings import Settings, waiting_for_restart
from gateway.settings.sources import load


def test_settings_are_frozen() -> None:
    settings = load(environ={})

    with pytest.raises(ValueError, match="frozen"):
        settings.listen = "x:1"
    with pytest.raises(ValueError, match="frozen"):
        settings.upstream.base_url = "http://x"


def test_limits_of_a_tenant_are_its_own_where_set_else_the_common_ones() -> None:
    settings = load(
        flags={
            "limits": {"max_requests_per_1_minute": 10, "max_tokens_per_1_minute": 1000},
            "tenants": {"a": {"limits": {"max_requests_per_1_minute": 99}}, "b": {}},
        },
        environ={},
    )

    def of(name: str) -> tuple[int | None, int | None]:
        limits = settings.limits_of(settings.tenants[name])
        return limits.max_requests_per_1_minute, limits.max_tokens_per_1_minute

    assert (of("a"), of("b")) == ((99, 1000), (10, 1000))


def test_every_key_has_a_default_that_is_valid() -> None:
    assert Settings.model_validate(Settings().model_dump(exclude_unset=True)) == load(environ={})


@pytest.mark.parametrize(
    ("flags", "waiting"),
    [
        ({"tenants": {"acme": {}}, "on_store_failure": "open", "limits": {"max_requests_per_1_day": 1}}, []),
        ({"upstream": {"api_key": "env:NEW"}}, []),
        ({"upstream": {"http_proxy": "http://proxy"}, "redis_url": "redis://new"}, ["redis_url", "upstream"]),
        (
            {"upstream": {"timeouts": {"stored": {"idle_seconds": 1}}}, "drain_seconds": 1},
            ["drain_seconds", "upstream"],
        ),
    ],
)
def test_what_is_not_followed_waits_for_a_restart(flags: dict[str, Any], waiting: list[str]) -> None:
    changed = load(flags=flags, environ={"NEW": "sk-new"})

    assert sorted(waiting_for_restart(load(environ={}), changed)) == waiting


@pytest.mark.parametrize("environ", [{"GATEWAY_REDIS_URL": ""}, {"GATEWAY_REDIS_URL": " "}, {}])
def test_secret_that_is_empty_is_none(environ: dict[str, str]) -> None:
    settings = load(environ=environ, flags={"upstream": {"api_key": "", "http_proxy": ""}})

    assert (settings.redis_url, settings.upstream.api_key, settings.upstream.http_proxy) == (None, None, None)


def test_workers_that_could_keep_no_limit_are_refused_also_where_redis_is_named_by_nothing() -> None:
    limited = {"workers": 2, "limits": {"max_requests_per_1_minute": 1}}
    with pytest.raises(SettingsInvalid, match="set redis_url, or workers = 1"):
        load(environ={"GATEWAY_REDIS_URL": ""}, flags=limited)
