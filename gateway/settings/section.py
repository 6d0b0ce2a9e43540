"""What every section of the settings is made of: its kinds of values, and how a problem with one is said."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

FOLLOWED = "followed"
"""Marks a setting that takes effect while the gateway runs; any other waits for a restart or a start."""

AT_START = "at a start"
"""Marks a setting of what outlives the workers; any other takes effect when those are replaced."""

COMMON_UPSTREAM = "default"
"""What the common upstream is called by default."""

ADMINISTRATION = "administration"
"""What metrics and log call the upstream of organization administration."""

TENANT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
OTHER_TENANT = "other"
"""What metrics call every tenant that is not configured; none can have the name."""

Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
ByteCount = Annotated[int, Field(gt=0)]

_MOST_PORT = 65535


def _address(value: str) -> str:
    host, separator, port = value.rpartition(":")
    if not separator or not (port.isascii() and port.isdigit()):
        raise ValueError("expected HOST:PORT, such as 127.0.0.1:8080 or [::]:8080")
    if int(port) > _MOST_PORT:
        raise ValueError(f"expected HOST:PORT; {port} is no port, they end at {_MOST_PORT}")
    return f"{host or '127.0.0.1'}:{port}"


Address = Annotated[str, AfterValidator(_address)]


_DEFAULT_PORTS = {"http": 80, "https": 443}


def normal_base_url(value: str) -> str:
    """The one spelling of a base URL, without a trailing slash; ValueError says what it should be."""
    if not value.isprintable() or " " in value:  # urlsplit would leave some of it out
        raise ValueError("expected a URL without spaces and control characters")
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("expected an absolute http or https URL without a query, such as https://host/v1")
    if "@" in parts.netloc:
        raise ValueError("expected no login in the URL; keys are given by api_key")
    port = "" if parts.port in (None, _DEFAULT_PORTS[parts.scheme]) else f":{parts.port}"
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode("ascii")  # UnicodeError is a ValueError
    if not parts.path.isascii():
        raise ValueError("expected a path in ASCII, with other characters percent-encoded")
    return f"{parts.scheme}://{host}{port}{parts.path.rstrip('/')}"


BaseUrl = Annotated[str, AfterValidator(normal_base_url)]


def _none_where_empty(secret: SecretStr | None) -> SecretStr | None:
    return secret if secret is None or secret.get_secret_value() else None


Secret = Annotated[SecretStr | None, AfterValidator(_none_where_empty)]
"""A secret, by reference; an empty one, as an environment may have it, is none."""
HeaderText = Annotated[str, Field(pattern=r"^[!-~]{1,256}$")]


def _not_administration(name: str) -> str:
    if name == ADMINISTRATION:
        raise ValueError("is what organization administration is called; choose another name")
    return name


UpstreamName = Annotated[str, Field(pattern=rf"^{TENANT_ID.pattern}$"), AfterValidator(_not_administration)]
"""What metrics and the log call an upstream; never a URL."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of a validated address; brackets of an IPv6 host are taken off."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


class Section(BaseModel):
    """One table of the configuration: nothing unknown in it, and nothing that changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


def revealed(secret: SecretStr | None) -> str | None:
    """The text of a secret, for the one place that sends it."""
    return None if secret is None else secret.get_secret_value()
