"""Settings that one process gathers mean the same in another, which reads no file and no environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from gateway.settings.document import from_json, to_json
from gateway.settings.judging import judged
from gateway.settings.section import revealed
from gateway.settings.settings import Settings
from gateway.settings.sources import gathered, load

PRODUCTION = Path(__file__).parents[2] / "config/production.toml"

ODD: dict[str, dict[str, Any]] = {
    "nothing at all": {},
    "addresses without a host": {"listen": ":0", "admin_listen": "[::]:9090"},
    "networks": {"edge": {"trusted_proxies": ["10.0.0.0/8", "2001:db8::/32", "::1"]}},
    "patterns as keys": {
        "expected_output": {"gpt-4o*": 800, "o3.5-*": 1, "\u00fc*": 2},
        "limits": {
            "max_tokens_per_1_minute": 10**10,
            "on_store_failure": {"max_tokens_per_1_minute": "closed"},
            "models": {"gpt-4o*": {"max_images_per_1_minute": 3}, "api_key": {}},
            "subjects": {"*": {"max_concurrent_requests": 2}, "redis_url": {}},
        },
    },
    "numbers as text, and beyond any bound": {
        "drain_seconds": "5",
        "upstream": {"max_connections": 10**30},
        "edge": {"body_memory_bytes": 2**70, "body_memory_share": 0.1},
    },
    "paths": {"keys_dir": "~/k", "upstream": {"ca_file": "~/ca.pem"}},
    "secrets": {
        "redis_url": "redis://:p\u00e4ss@h/0",
        "upstream": {"api_key": "env:KEY", "admin_api_key": " sk-b ", "http_proxy": "http://u:p@proxy:1"},
        "tenants": {"api_key": {"upstream": {"api_key": "env:KEY"}}, "b.c-d_e": {}},
    },
    "issuers": {
        "issuers": {
            "http_proxy": {
                "issuer": "https://login.example",
                "audience": "g",
                "jwks": [{"kty": "OKP", "api_key": "no secret", "deep": {"api_key": ["x", 1.5, None, True]}}],
                "tenants": ["*"],
                "scopes": ["models:read"],
                "claims": {"scopes": ""},
            }
        }
    },
}


def elsewhere(values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What another process makes of it that has another home, and no variable that says anything."""
    with monkeypatch.context() as there:
        for name in tuple(os.environ):
            there.delenv(name)
        there.setenv("HOME", "/nonexistent")
        there.setenv("GATEWAY_LISTEN", "0.0.0.0:1")
        there.setenv("OPENAI_API_KEY", "sk-of-another")
        there.setattr(Path, "open", _not_read)
        return judged(from_json(to_json(values)))


def _not_read(self: Path, *_: object) -> None:
    raise AssertionError(f"{self} was opened")


@pytest.mark.parametrize("flags", ODD.values(), ids=ODD)
@pytest.mark.parametrize(
    "environ",
    [
        {"KEY": "sk-env"},
        {"KEY": "sk-env", "OPENAI_API_KEY": "sk-sdk", "OPENAI_BASE_URL": "https://\u00fc.example:443/v1/"},
        {"KEY": "sk-env", "XDG_CONFIG_HOME": "/xdg", "GATEWAY_EDGE__TRUSTED_PROXIES": '["fe80::/10"]'},
        {"KEY": "sk-env", "GATEWAY_TENANTS": '{"of-environ": {"models": ["*"]}}', "GATEWAY_REDIS_URL": ""},
    ],
)
def test_means_the_same_where_nothing_can_be_read(
    flags: dict[str, Any], environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = gathered(flags=flags, environ=environ)

    assert elsewhere(values, monkeypatch) == load(flags=flags, environ=environ)


def test_every_setting_of_production_means_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that are commented out there."""
    lines = PRODUCTION.read_text().splitlines()
    (tmp_path / "tenants.d").mkdir()
    (tmp_path / "tenants.d/more.toml").write_text('[tenants.more]\nupstream.api_key = "sk-more"\n')
    file = tmp_path / "gateway.toml"
    file.write_text("\n".join(lines))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    there = elsewhere(gathered(file, environ=os.environ), monkeypatch)

    assert there == load(file, environ=os.environ)
    assert there.keys_dir == tmp_path / "gateway/keys"


def test_a_secret_is_said_by_its_document_alone() -> None:
    values = gathered(flags=ODD["secrets"], environ={"KEY": "sk-CANARY", "OPENAI_API_KEY": "sk-CANARY"})
    document = to_json(values)
    there = from_json(document)

    assert b"sk-CANARY" in document
    assert "CANARY" not in f"{values} {there} {judged(there)!r}"
    assert isinstance(there["tenants"]["api_key"]["upstream"]["api_key"], SecretStr)
    assert revealed(judged(there).upstream.api_key) == "sk-CANARY"
