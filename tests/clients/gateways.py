"""The gateways that clients are run against: `gateway demo`, and the same by TLS."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.kit.command import END_OF_GREETING, exported
from tests.kit.tls import make_certificate

_DEADLINE_SECONDS = 30


@contextmanager
def gateways(folder: Path) -> Iterator[dict[str, str]]:
    """Start them, with logs in a folder; what a client's environment says of them."""
    with ExitStack() as running:
        page_origin = f"http://localhost:{_free_port()}"
        pages = ("--set", f'cors_origins=["{page_origin}"]')
        plain = running.enter_context(_demo(folder / "demo.log", *pages))
        certificate, key = make_certificate(folder, "gateway")
        key.chmod(0o600)
        pair = ("--set", f"tls_certificate={certificate}", "--set", f"tls_key={key}")
        by_tls = running.enter_context(_demo(folder / "demo-tls.log", *pages, *pair))
        credential = folder / "credential"
        credential.write_text(plain["OPENAI_API_KEY"] + "\n", "ascii")
        yield {
            "LLM_CREDENTIAL_FILE": str(credential),
            **{name: plain[name] for name in ("OPENAI_BASE_URL", "OPENAI_API_KEY")},
            "TLS_BASE_URL": by_tls["OPENAI_BASE_URL"],
            "TLS_API_KEY": by_tls["OPENAI_API_KEY"],
            "TLS_CA_FILE": str(certificate),
            "PAGE_ORIGIN": page_origin,
        }


def _free_port() -> int:
    """One that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
    return port


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
        while END_OF_GREETING not in (said := log.read_text("utf-8")):
            if process.poll() is not None or time.monotonic() > waited_until:
                raise RuntimeError(f"gateway demo did not start:\n{said}")
            time.sleep(0.05)
        yield exported(said)
    finally:
        process.terminate()
        process.wait()
