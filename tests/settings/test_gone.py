"""Settings of earlier releases are refused by name, with what is written in their place; and the registry's needs."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest

from gateway.credentials.key_ring import ensure_ring
from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load
from tests.kit.command import run_command, running_command
from tests.kit.upstream import ScriptedUpstream

UPSTREAM = {"base_url": "http://api.test/v1", "api_key": "sk-common"}


def problems(environ: dict[str, str] | None = None, **flags: Any) -> dict[str, str]:
    """What is wrong with a configuration, by key."""
    with pytest.raises(SettingsInvalid) as caught:
        load(flags={"upstream": UPSTREAM, "tenants": {"a": {}}} | flags, environ=environ or {})
    return {problem.key: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("word", ["refuse", "allow", "anything"])
def test_shared_objects_is_gone_and_its_refusal_says_what_to_write(word: str) -> None:
    by_flag = problems(shared_objects=word)
    by_variable = problems({"GATEWAY_SHARED_OBJECTS": word})

    assert by_flag.keys() == {"shared_objects"}
    assert by_variable.keys() == {"GATEWAY_SHARED_OBJECTS"}
    for text in (*by_flag.values(), *by_variable.values()):
        assert text.startswith("is no setting any more")
        assert "redis_url" in text
        assert 'stored_objects = "registry", "own" or "refuse" under [tenants.ID]' in text
        assert "did you mean" not in text


def test_it_is_told_beside_all_else_that_is_wrong() -> None:
    tenants = {"a": {"stored_objects": "registry"}, "b": {"stored_objects": "allow"}}

    found = problems(shared_objects="allow", tenants=tenants, drain_seconds=-1)

    assert found.keys() >= {
        *("shared_objects", "tenants.a.stored_objects", "tenants.b.stored_objects", "drain_seconds")
    }


def test_a_registry_needs_redis() -> None:
    tenants = {"a": {"stored_objects": "registry"}, "b": {}}

    found = problems(tenants=tenants)

    assert found.keys() == {"tenants.a.stored_objects"}
    assert "redis_url" in found["tenants.a.stored_objects"]
    assert load(
        flags={"upstream": UPSTREAM, "tenants": tenants, "redis_url": "redis://h"}, environ={}
    ).tenants


async def test_neither_a_start_nor_a_reload_takes_it(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    ensure_ring(tmp_path / "keys")
    file = tmp_path / "gateway.toml"
    sound = f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "sk-common"\n[tenants.a]\n'
    file.write_text(sound)
    serve = (
        *("serve", "--config", str(file), "--keys-dir", str(tmp_path / "keys")),
        *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
    )
    async with running_command(*serve) as process:
        file.write_text(f'shared_objects = "allow"\n{sound}')
        process.signal(signal.SIGHUP)
        await process.says("shared_objects: is no setting any more")
    refused = await asyncio.wait_for(run_command(*serve), 20)

    assert refused.code != 0
    assert "shared_objects: is no setting any more" in refused.stderr
