"""Candidates at work: their configuration written, their processes started on one core and ended for good."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway import __version__
from tests.benchmarks.compare.candidates import CACHING_ENVOY, DIRECT, GATEWAY, PORTKEY, UNLIMITED, Candidate
from tests.benchmarks.compare.setting import AUDIENCE, ISSUER, SCOPES, SECRET, Setting, key_set
from tests.kit.redis import free_port

TEMPLATES = Path(__file__).parent / "peers"
STOP_SECONDS = 5.0


@dataclass(frozen=True)
class Running:
    """A candidate that answers."""

    candidate: Candidate
    pid: int | None
    """None: there is no process, as between client and upstream."""

    port: int
    began: float
    """When its process was started, by the monotonic clock."""


def words(candidate: Candidate, setting: Setting, port: int) -> dict[str, str]:
    """What stands in templates and arguments between two @."""
    limits = "limits.max_requests_per_1_minute = 1000000000\nlimits.max_tokens_per_1_minute = 30000000000\n"
    return {
        "NAME": candidate.name,
        "DIRECTORY": str(setting.directory),
        "PORT": str(port),
        "ADMIN_PORT": str(free_port()),
        "SCHEME": "https" if setting.tls else "http",
        "UPSTREAM_PORT": str(setting.upstream_port),
        "UPSTREAM_URL": setting.upstream_url,
        "CERTIFICATE": str(setting.certificate),
        "TRUSTED": str(setting.certificate) if setting.tls else "",
        "SECRET": SECRET,
        "ISSUER": ISSUER,
        "AUDIENCE": AUDIENCE,
        "KEY_SET": key_set(),
        "SCOPES": ", ".join(f'"{scope}"' for scope in SCOPES),
        "REDIS": f'redis_url = "{setting.redis_url}"' if candidate.limited else "",
        "CA_FILE": f'ca_file = "{setting.certificate}"' if setting.tls else "",
        "TENANTS": ", ".join(f'"{tenant}"' for tenant in setting.tenants),
        "LIMITS": "\n".join(
            f"[tenants.{tenant}]\n{limits if candidate.limited else ''}" for tenant in setting.tenants
        ),
        "NGINX_CREDENTIALS": "\n".join(
            f'    "Bearer {credential}" {tenant};' for credential, tenant in (*setting.callers, setting.rival)
        ),
        "HAPROXY_TLS": (
            f"ssl verify required ca-file {setting.certificate} sni str(localhost) verifyhost localhost"
            if setting.tls
            else ""
        ),
        "JWT_CACHE": (
            "                  jwt_cache_config: {jwt_cache_size: 10000}"
            if candidate is CACHING_ENVOY
            else ""
        ),
        "ENVOY_TLS": _ENVOY_TLS.replace("@CERTIFICATE@", str(setting.certificate)) if setting.tls else "",
    }


_ENVOY_TLS = """\
    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context: {validation_context: {trusted_ca: {filename: "@CERTIFICATE@"}}}
"""


def filled(text: str, known: Mapping[str, str]) -> str:
    """A text with what stands between two @ put in; what is not known stays."""
    return re.sub(r"@([A-Z_]+)@", lambda found: known.get(found[1], found[0]), text)


def configure(candidate: Candidate, setting: Setting, port: int) -> dict[str, str]:
    """Write the candidate's configuration into the setting's folder; what was put in."""
    known = words(candidate, setting, port)
    for template, file in candidate.templates:
        (setting.directory / file).write_text(filled((TEMPLATES / template).read_text("utf-8"), known))
    return known


def headers(candidate: Candidate, setting: Setting) -> list[tuple[str, str]]:
    """Header fields to send besides the credential."""
    return [(name, filled(value, {"UPSTREAM_URL": setting.upstream_url})) for name, value in candidate.fields]


def version(candidate: Candidate, peers: Path) -> str:
    """What it says of its version: the first number with dots in it."""
    if candidate in (GATEWAY, UNLIMITED):
        return __version__
    command = candidate.find(peers)
    if candidate is PORTKEY:
        package = peers / "portkey/node_modules/@portkey-ai/gateway/package.json"
        said = package.read_text("utf-8").partition('"version"')[2]
    elif command and candidate.version:
        done = subprocess.run([*command, *candidate.version], capture_output=True, text=True, timeout=60)
        said = done.stdout + done.stderr
    else:
        return ""
    found = re.search(r"\b\d+\.\d+\.\d+\b", said)
    return found[0] if found else ""


@contextmanager
def running(candidate: Candidate, setting: Setting, peers: Path, cores: set[int]) -> Iterator[Running]:
    """The candidate, started on these cores and listening; ended with all that it started."""
    if candidate is DIRECT:
        yield Running(candidate, None, setting.plain_port, time.monotonic())
        return
    command = candidate.find(peers)
    if command is None:
        raise FileNotFoundError(f"{candidate.label} is not installed: {candidate.install}")
    port = free_port()
    known = configure(candidate, setting, port)
    command += [word for argument in candidate.arguments if (word := filled(argument, known))]
    environment = {name: filled(value, known) for name, value in (candidate.environment or {}).items()}
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OPENAI_"))
    }
    said = setting.directory / f"{candidate.name}.err"
    began = time.monotonic()
    with said.open("wb") as errors, (setting.directory / f"{candidate.name}.out").open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=errors,
            env=inherited | {name: value for name, value in environment.items() if value},
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
    try:
        _wait_until_listening(process, port, candidate.ready_seconds, said)
        yield Running(candidate, process.pid, port, began)
    finally:
        end(process)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, seconds: float, said: Path) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.002)
    raise RuntimeError(f"it does not listen: {said.read_text('utf-8', 'replace')[-2000:]}")


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads a group of its own, and what else is in that group."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(STOP_SECONDS)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
