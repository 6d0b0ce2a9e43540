"""When a change takes effect: what is in force after a reload, and after workers have been replaced."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.settings.effect import followed, restarted, when
from gateway.settings.judging import judged
from gateway.settings.settings import Settings, waiting_for_restart
from gateway.settings.sources import gathered

BARE = gathered(environ={"OPENAI_API_KEY": "sk-old"})
FULL = gathered(
    environ={"OPENAI_API_KEY": "sk-new", "OPENAI_BASE_URL": "https://elsewhere.example/v1"},
    flags={
        "listen": "0.0.0.0:80",
        "admin_listen": "[::1]:81",
        "admin_hosts": ["metrics.example"],
        "workers": 3,
        "keys_dir": "/elsewhere",
        "redis_url": "redis://elsewhere",
        "on_store_failure": "closed",
        "drain_seconds": 1,
        "upstream": {
            "organization": "org",
            "max_connections": 7,
            "timeouts": {"stored": {"idle_seconds": 1}},
        },
        "edge": {"keepalive_seconds": 7},
        "limits": {"max_requests_per_1_minute": 3, "models": {"m*": {"max_requests_per_1_day": 1}}},
        "credentials": {"audience": "others"},
        "tenants": {"a": {"upstream": {"api_key": "sk-a"}}},
    },
)
AT_ONCE = ("on_store_failure", "credentials", "limits", "tenants", "issuers")
AT_A_START = ("listen", "admin_listen", "admin_hosts", "workers")


@pytest.mark.parametrize(("now", "new"), [(BARE, FULL), (FULL, BARE), (BARE, BARE), (FULL, FULL)])
def test_a_reload_takes_over_what_is_followed_and_nothing_else(
    now: dict[str, Any], new: dict[str, Any]
) -> None:
    before, wanted, after = judged(now), judged(new), judged(followed(now, new))

    assert waiting_for_restart(before, after) == []
    for name in AT_ONCE:
        assert getattr(after, name) == getattr(wanted, name)
    assert after.upstream == before.upstream.model_copy(
        update={
            name: getattr(wanted.upstream, name)
            for name in ("api_key", "admin_api_key", "organization", "project", "ca_file")
        }
    )
    assert judged(followed(followed(now, new), now)) == before


@pytest.mark.parametrize(("now", "new"), [(BARE, FULL), (FULL, BARE)])
def test_a_restart_takes_over_all_but_what_outlives_the_workers(
    now: dict[str, Any], new: dict[str, Any]
) -> None:
    after = judged(restarted(now, new))

    for name in Settings.model_fields:
        assert getattr(after, name) == getattr(judged(now if name in AT_A_START else new), name), name


def test_what_an_older_release_does_not_know_is_kept() -> None:
    """The supervisor may be of an older release than the workers that judge."""
    later = {**FULL, "of_a_later_release": 1, "edge": {"of_a_later_release": 2}}

    assert restarted(BARE, later)["of_a_later_release"] == 1
    again = followed(restarted(BARE, later), BARE)
    assert (again["of_a_later_release"], again["edge"]) == (1, {"of_a_later_release": 2})


def test_what_waits_is_said_with_what_it_waits_for() -> None:
    assert "gateway restart" in when("edge", replaceable=True)
    for name in AT_A_START:
        assert when(name, replaceable=True) == "at the next start"
    assert when("edge", replaceable=False) == "at the next start"
