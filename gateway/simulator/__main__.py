"""`python -m gateway.simulator`: the simulator alone, on a port of its own."""

from __future__ import annotations

import argparse
from functools import partial

import uvloop
from aiohttp import web

from gateway.simulator.app import build_simulator


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway.simulator", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9999)
    parser.add_argument("--api-key", help="accept this key only (default: any)")
    parser.add_argument(
        "--admin-api-key", help="administer the organization with this key only (default: as above)"
    )
    parser.add_argument("--pace", type=float, default=0.02, help="seconds between the pieces of a stream")
    options = parser.parse_args()
    web.run_app(
        build_simulator(
            api_key=options.api_key, admin_api_key=options.admin_api_key, pace_seconds=options.pace
        ),
        host=options.host,
        port=options.port,
        access_log=None,
        handler_cancellation=True,
        loop=uvloop.new_event_loop(),
        # Whoever waits for this line may read it through a pipe.
        print=partial(print, flush=True),
    )


if __name__ == "__main__":
    main()
