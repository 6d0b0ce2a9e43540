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
    "paths": {"keys_dir": "~/k"},
    "files": {
        "upstream": {"ca_file": "~/ca.pem"},
        "issuers": {
            "keys": {
                "issuer": "i",
                "audience": "g",
                "jwks_file": "~/set.json",
                "tenants": ["*"],
                "scopes": ["*"],
                "algorithms": ["HS256"],
            }
        },
    },
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
        return judged(from_json(to_json(values)))


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose files are read here, and not elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ca.pem").write_bytes(bytes(range(256)))
    (tmp_path / "set.json").write_text('{"keys": ["sk-CANARY"]}')


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
    flags: dict[str, Any], environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, values = load(flags=flags, environ=environ), gathered(flags=flags, environ=environ)
    for file in tmp_path.iterdir():
        file.unlink()

    assert elsewhere(values, monkeypatch) == here


def test_the_folder_of_keys_is_that_of_the_process_that_gathers(monkeypatch: pytest.MonkeyPatch) -> None:
    there = elsewhere(gathered(environ={"XDG_CONFIG_HOME": "/xdg"}), monkeypatch)

    assert there.keys_dir == Path("/xdg/gateway/keys")


def test_a_secret_is_said_by_its_document_alone() -> None:
    flags = {**ODD["secrets"], "issuers": ODD["files"]["issuers"]}
    values = gathered(flags=flags, environ={"KEY": "sk-CANARY", "OPENAI_API_KEY": "sk-CANARY"})
    document = to_json(values)
    there = from_json(document)

    assert b"sk-CANARY" in document
    assert "CANARY" not in f"{values} {there} {judged(there)!r}"
    assert isinstance(there["tenants"]["api_key"]["upstream"]["api_key"], SecretStr)
    assert revealed(judged(there).upstream.api_key) == "sk-CANARY"
