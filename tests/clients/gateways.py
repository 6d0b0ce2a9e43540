"""The gateways that clients are run against: `gateway demo`, and the same by TLS."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gateway.settings.settings import Settings
from tests.kit.tls import make_certificate

_DEADLINE_SECONDS = 30


@contextmanager
def gateways(folder: Path) -> Iterator[dict[str, str]]:
    """Start them, with logs in a folder; what a client's environment says of them."""
    with ExitStack() as running:
        plain = running.enter_context(_demo(folder / "demo.log"))
        environ = {name: plain[name] for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY")}
        if "tls_certificate" in Settings.model_fields:
            certificate, key = make_certificate(folder, "gateway")
            by_tls = running.enter_context(
                _demo(
                    folder / "demo-tls.log",
                    *("--set", f"tls_certificate={certificate}", "--set", f"tls_key={key}"),
                )
            )
            environ |= {
                "TLS_BASE_URL": by_tls["OPENAI_BASE_URL"],
                "TLS_API_KEY": by_tls["OPENAI_API_KEY"],
                "TLS_CA_FILE": str(certificate),
            }
        yield environ


@contextmanager
def _demo(log: Path, *options: str) -> Iterator[dict[str, str]]:
    """A demo on free ports; the variables that it says to export. Raise RuntimeError if it does not start."""
    words = (
        sys.executable,
        "-m",
        "gateway",
        "demo",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    )
    with log.open("wb") as file:
        process = subprocess.Popen([*words, *options], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        waited_until = time.monotonic() + _DEADLINE_SECONDS
        while "Ctrl-C ends it" not in (said := log.read_text("utf-8")):
            if process.poll() is not None or time.monotonic() > waited_until:
                raise RuntimeError(f"gateway demo did not start:\n{said}")
            time.sleep(0.05)
        yield dict(re.findall(r"^export (\w+)=(\S+)$", said, re.MULTILINE))
    finally:
        process.terminate()
        process.wait()
