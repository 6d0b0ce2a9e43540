"""What every candidate is given: the upstream, credentials that all of them can check, Redis, and a folder."""

from __future__ import annotations

import base64
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path

import jwt
import orjson

from gateway.bench.certificate import CERTIFICATE_FILE

SECRET = "48-bytes-known-to-everybody-who-is-compared-here"
"""HS256 is the one signature that all peers can check which check any."""

ISSUER, AUDIENCE, KEY_ID = "compare", "gateway", "h1"
SCOPES = (
    "chat.completions:write",
    "embeddings:write",
    "audio.speech:write",
    "audio.transcriptions:write",
    "realtime:write",
)
SUBJECTS_PER_TENANT = 5
LIFETIME_SECONDS = 86_400


@dataclass(frozen=True)
class Setting:
    """Where things are, and who calls."""

    directory: Path
    """For configurations, logs and keys; gone at the end."""

    plain_port: int
    """The upstream, which the client can ask directly."""

    tls_port: int
    """The same upstream, by TLS."""

    tls: bool
    """Whether candidates speak TLS to the upstream."""

    redis_url: str
    redis_pid: int
    callers: tuple[tuple[str, str], ...]
    """A credential and its tenant, neighbours being of different tenants."""

    rival: tuple[str, str]
    """One more, who is in nobody's way but where it is told to be."""

    @property
    def upstream_port(self) -> int:
        return self.tls_port if self.tls else self.plain_port

    @property
    def upstream_url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.upstream_port}"

    @property
    def certificate(self) -> Path:
        """What the upstream proves itself with, and candidates have to trust."""
        return self.directory / CERTIFICATE_FILE

    @property
    def tenants(self) -> tuple[str, ...]:
        """Everybody who may call."""
        return tuple(dict.fromkeys(tenant for _, tenant in (*self.callers, self.rival)))

    def apart(self, name: str) -> Setting:
        """The same for one caller, with a folder of its own: for a process beside one that runs already."""
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        shutil.copy(self.certificate, directory)
        return replace(self, directory=directory, callers=self.callers[:1])


def callers(credentials: int) -> tuple[tuple[str, str], ...]:
    """That many credentials, five to a tenant, in an order in which neighbours are of different tenants."""
    tenants = max(1, credentials // SUBJECTS_PER_TENANT)
    named = ((f"tenant-{n % tenants}", f"subject-{n // tenants}") for n in range(credentials))
    return tuple((credential(tenant, subject), tenant) for tenant, subject in named)


def credential(tenant: str, subject: str) -> str:
    """One that the gateway, Envoy and HAProxy accept."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "tenant": tenant,
        "sub": subject,
        "scope": " ".join(SCOPES),
        "iat": now,
        "exp": now + LIFETIME_SECONDS,
        "jti": f"{tenant}-{subject}",
    }
    return jwt.encode(claims, SECRET, "HS256", headers={"kid": KEY_ID})


def key_set() -> str:
    """The key of these credentials, as a JWK Set."""
    secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    return orjson.dumps({"keys": [{"kty": "oct", "alg": "HS256", "kid": KEY_ID, "k": secret}]}).decode()
