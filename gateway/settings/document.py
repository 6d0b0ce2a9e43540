"""Gathered settings on their way from the process that gathered them to another, secrets included.

For a channel that nobody else reads, and for no file and no log.
"""

from __future__ import annotations

import json  # noqa: TID251 (whole numbers of a configuration have no bound; orjson's have)
from collections.abc import Mapping
from typing import Any

from pydantic import SecretStr

from gateway.settings.kept_file import CONTENT
from gateway.settings.seen import SECRETS

_SECRETS = SECRETS | {CONTENT}


def to_json(values: Mapping[str, Any]) -> bytes:
    """Settings that can be judged, with their secrets in the clear."""
    return json.dumps(values, default=_revealed, separators=(",", ":")).encode("ascii")


def from_json(document: bytes) -> dict[str, Any]:
    """What `to_json` was given."""
    values: dict[str, Any] = _masked(json.loads(document))
    return values


def _revealed(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    raise TypeError(f"{type(value).__name__} is no setting")


def _masked(values: Mapping[str, Any]) -> dict[str, Any]:
    masked: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            masked[key] = _masked(value)
        else:
            masked[key] = SecretStr(value) if key in _SECRETS and isinstance(value, str) else value
    return masked
