"""The gateway that `gateway bench` measures, as a process of its own: `python -m gateway.cli.bench.measured`.

Reads one JSON object from standard input: `settings`, whole and with its secrets; `keys_dir`. From then
on it is what `gateway serve` is. A signal TURN begins to look where it spends its time; the next prints `seen {…}`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import orjson

from gateway.app.build import build_app
from gateway.app.serving import run_loop, serve
from gateway.bench.processes import end_with_parent
from gateway.bench.sampling import NOWHERE, Sampler
from gateway.credentials.key_ring import KeyRing
from gateway.exchange.process_log import Speaker, speak_as
from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load

_PATH, _CALLER, _LIMITS = "heads, bodies, connections", "credential and policy", "limits"
_METERING, _LOG, _METRICS = "metering", "log", "metrics"
AREAS: Final = {
    "gateway": _PATH,
    "gateway.cli": NOWHERE,
    "gateway.credentials": _CALLER,
    "gateway.policy": _CALLER,
    "gateway.operations": _CALLER,
    "gateway.exchange.standing": _CALLER,
    "gateway.middleware.standings": _CALLER,
    "gateway.middleware.caller": _CALLER,
    "gateway.middleware.authenticate": _CALLER,
    "gateway.middleware.authorize": _CALLER,
    "gateway.limits": _LIMITS,
    "gateway.redis": _LIMITS,
    "gateway.middleware.limit": _LIMITS,
    "gateway.middleware.admission": _LIMITS,
    "gateway.usage": _METERING,
    "gateway.middleware.meter": _METERING,
    "gateway.exchange.log": _LOG,
    "gateway.exchange.exchange_log": _LOG,
    "gateway.exchange.harmless": _LOG,
    "gateway.exchange.metrics": _METRICS,
    "gateway.exchange.tallies": _METRICS,
}
"""Of the code, by the beginning of a module's name."""


def main() -> int:
    """Serve until told to stop."""
    end_with_parent()
    given = orjson.loads(sys.stdin.buffer.read())
    speak_as(Speaker("gateway"))
    keys_dir = Path(given["keys_dir"])
    try:
        app = build_app(
            load(flags=given["settings"], environ={}),
            ring=KeyRing.load(keys_dir),
            keys_dir=keys_dir,
        )
    except SettingsInvalid as invalid:
        for problem in invalid.problems:
            print(f"gateway: {problem}", file=sys.stderr)
        return 1
    Sampler(AREAS, _tell).install()
    run_loop(serve(app))
    return 0


def _tell(seen: dict[str, int]) -> None:
    print(f"seen {orjson.dumps(seen).decode()}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
