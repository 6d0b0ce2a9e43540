"""`gateway demo`: the gateway in front of an embedded upstream; no key, nothing on disk, and no Redis unless asked."""

from __future__ import annotations

import argparse
import secrets
import sys
from typing import Any

from aiohttp import web

from gateway.app.build import build_app
from gateway.app.serving import run_loop, serve
from gateway.cli.options import add_log_format, add_set, put_assignments
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing
from gateway.exchange.process_log import Speaker, speak_as
from gateway.settings.settings import Settings
from gateway.settings.sources import load
from gateway.simulator import build_simulator

_TENANT = "demo"
_SCARCE_MODEL = "gpt-4.1"
"""With a limit of its own that is used up at once."""

_GREETING = """\
A gateway is running, in front of a simulator of the API: its answers are canned, no model is behind them.

  gateway   {base}
  metrics   {metrics}
  what runs {page}
  tenant    {tenant} (600 requests a minute, 2 of them to {scarce}; counted {where})

A credential for 24 hours. In another shell, which is to be the service's:

export OPENAI_BASE_URL={base}
export OPENAI_API_KEY={credential}
ask() {{ curl -sS -H "Authorization: Bearer $OPENAI_API_KEY" "$OPENAI_BASE_URL/$@"; echo; }}
chat() {{ ask chat/completions -N -H "Content-Type: application/json" "$@"; }}

Then, in that other shell: what models there are, an answer as it is made, a refusal, a limit that the third
request meets, a stream that breaks off, who you are and what you have left, and what was counted of all that.

ask models
chat -d '{{"model": "gpt-4o-mini", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
ask realtime/client_secrets -d '{{}}'
for n in 1 2 3; do chat -d '{{"model": "{scarce}", "messages": [{{"role": "user", "content": "Hello"}}]}}'; done
chat -H x-simulate:cut=900 -d '{{"model": "gpt-4o", "stream": true, "messages": [{{"role": "user", "content": "Go"}}]}}'
curl -sS {me} -H "Authorization: Bearer $OPENAI_API_KEY"
curl -sS {metrics} | grep exchanges_total

or with the official SDK (pip install openai); tool calls and response_format are answered too:

python3 -c 'from openai import OpenAI
for chunk in OpenAI().chat.completions.create(model="gpt-4o-mini", stream=True,
        messages=[{{"role": "user", "content": "Hello"}}]):
    print(chunk.choices[0].delta.content or "", end="", flush=True)'

Below, one line per exchange. Ctrl-C ends it.
"""


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser("demo", help="run the gateway in front of an embedded simulator of the API")
    command.add_argument(
        "--listen",
        default="127.0.0.1:8080",
        metavar="HOST:PORT",
        help="public listener; by default %(default)s",
    )
    command.add_argument(
        "--admin-listen",
        default="127.0.0.1:9090",
        metavar="HOST:PORT",
        help="private listener: metrics and health; by default %(default)s",
    )
    command.add_argument(
        "--redis",
        metavar="URL",
        help="count limits and usage there, as several gateways would; by default in memory",
    )
    add_set(command)
    add_log_format(command)
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run until Ctrl-C."""
    if options.log_format is None:
        options.log_format = "text" if sys.stdout.isatty() else "json"
    speak_as(Speaker("gateway", options.log_format))
    run_loop(_demo(options))
    return 0


async def _demo(options: argparse.Namespace) -> None:
    upstream_key = f"sk-simulated-{secrets.token_hex(16)}"
    simulator = web.AppRunner(
        build_simulator(api_key=upstream_key), access_log=None, handler_cancellation=True
    )
    await simulator.setup()
    try:
        await web.TCPSite(simulator, "127.0.0.1", 0).start()
        port = simulator.addresses[0][1]
        settings = load(flags=_flags(options, f"http://127.0.0.1:{port}/v1", upstream_key), environ={})
        ring = KeyRing.ephemeral()
        app = build_app(settings, ring=ring)
        await serve(app, listening=lambda public, private: _greet(settings, ring, public, private))
    finally:
        await simulator.cleanup()


def _flags(options: argparse.Namespace, upstream: str, upstream_key: str) -> dict[str, Any]:
    """The demo's settings; what the command line sets wins."""
    limits = {
        "max_requests_per_1_minute": 600,
        "models": {_SCARCE_MODEL: {"max_requests_per_1_minute": 2}},
    }
    flags: dict[str, Any] = {
        "listen": options.listen,
        "admin_listen": options.admin_listen,
        "drain_notice_seconds": 0,
        "drain_seconds": 5,
        "log": {"format": options.log_format},
        "upstream": {"base_url": upstream, "api_key": upstream_key, "metering": True},
        "tenants": {_TENANT: {"limits": limits}},
    }
    if options.redis is not None:
        flags["redis_url"] = options.redis
    put_assignments(flags, options.set)
    return flags


def _greet(settings: Settings, ring: KeyRing, public: str, private: str) -> None:
    issued = issue(
        ring,
        settings.credentials,
        tenant=_TENANT,
        subject="you",
        scopes=("*",),
        ttl_seconds=86400,
    )
    scheme = "http" if settings.tls_certificate is None else "https"
    print(
        _GREETING.format(
            base=f"{scheme}://{public}/v1",
            me=f"{scheme}://{public}/gateway/me",
            metrics=f"http://{private}/metrics",
            page=f"http://{private}/",
            tenant=_TENANT,
            scarce=_SCARCE_MODEL,
            where="in memory" if settings.redis_url is None else "in Redis",
            credential=issued.credential,
        ),
        flush=True,
    )
