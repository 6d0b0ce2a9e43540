"""`gateway demo`: the gateway in front of an embedded upstream; no key, no Redis, nothing on disk."""

from __future__ import annotations

import argparse
import secrets
from typing import Any

from aiohttp import web

from gateway.app.build import build_app
from gateway.app.serving import run_loop, serve
from gateway.credentials.issue import issue
from gateway.credentials.key_ring import KeyRing
from gateway.operations.scopes import expand
from gateway.operations.table import OperationTable
from gateway.settings.settings import Settings
from gateway.settings.sources import load
from gateway.simulator import build_simulator

_TENANT = "demo"

_GREETING = """\
A gateway is running, in front of a simulator of the API: its answers are canned, no model is behind them.

  gateway   {base}
  metrics   http://{private}/metrics
  tenant    {tenant} (600 requests a minute)

A credential for 24 hours. In another shell, which is to be the service's:

export OPENAI_BASE_URL={base}
export OPENAI_API_KEY={credential}

Then, in that other shell:

curl {base}/models -H "Authorization: Bearer $OPENAI_API_KEY"
curl -N {base}/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\
  -d '{{"model": "gpt-4o-mini", "stream": true, "messages": [{{"role": "user", "content": "Hello"}}]}}'
curl {base}/audio/speech -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\
  -d '{{"model": "tts-1", "voice": "alloy", "input": "Hello", "response_format": "wav"}}' -o hello.wav

or with the official SDK (pip install openai):

python3 -c 'from openai import OpenAI
for chunk in OpenAI().chat.completions.create(model="gpt-4o-mini", stream=True,
        messages=[{{"role": "user", "content": "Hello"}}]):
    print(chunk.choices[0].delta.content or "", end="", flush=True)'

Below, one line per exchange. Ctrl-C ends it.
"""


def register(verbs: Any) -> None:
    """Add the command."""
    command = verbs.add_parser(
        "demo", help="run the gateway in front of an embedded simulator of the API", allow_abbrev=False
    )
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
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run until Ctrl-C."""
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
        settings = load(
            flags={
                "listen": options.listen,
                "admin_listen": options.admin_listen,
                "drain_notice_seconds": 0,
                "drain_seconds": 5,
                "upstream": {
                    "base_url": f"http://127.0.0.1:{port}/v1",
                    "api_key": upstream_key,
                    "metering": True,
                },
                "tenants": {_TENANT: {"limits": {"max_requests_per_1_minute": 600}}},
            },
            environ={},
        )
        ring = KeyRing.ephemeral()
        app = build_app(settings, ring=ring)
        await serve(app, listening=lambda public, private: _greet(settings, ring, public, private))
    finally:
        await simulator.cleanup()


def _greet(settings: Settings, ring: KeyRing, public: str, private: str) -> None:
    issued = issue(
        ring,
        settings.credentials,
        tenant=_TENANT,
        subject="you",
        scopes=expand(["*"], OperationTable.load().scopes),
        ttl_seconds=86400,
    )
    print(
        _GREETING.format(
            base=f"http://{public}/v1",
            private=private,
            tenant=_TENANT,
            credential=issued.credential,
        ),
        flush=True,
    )
