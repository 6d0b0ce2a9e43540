"""Start an installed `gateway demo`, use what it prints, and see that it answers, measures and stops.

For `.ci/run`, which installs the package the way its users do: an editable installation would not show that a
file is missing from it. Takes the path of the command.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request

import orjson

DEADLINE_SECONDS = 30


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fetched(request: urllib.request.Request | str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        return bytes(answer.read())


def main(command: str) -> None:
    listen, admin = (f"127.0.0.1:{free_port()}" for _ in range(2))
    demo = subprocess.Popen(
        [command, "demo", "--listen", listen, "--admin-listen", admin],
        stdout=subprocess.PIPE,
        text=True,
        env={
            name: value for name, value in os.environ.items() if not name.startswith(("GATEWAY_", "OPENAI_"))
        },
    )
    assert demo.stdout is not None
    try:
        signal.alarm(DEADLINE_SECONDS)  # whatever hangs, hangs no longer
        printed: dict[str, str] = {}
        for line in demo.stdout:
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                printed[name] = value
            if "OPENAI_API_KEY" in printed:
                break
        request = urllib.request.Request(
            f"{printed['OPENAI_BASE_URL']}/chat/completions",
            data=orjson.dumps(
                {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
            ),
            headers={
                "Authorization": f"Bearer {printed['OPENAI_API_KEY']}",
                "Content-Type": "application/json",
            },
        )
        answer = fetched(request)
        assert answer.endswith(b"data: [DONE]\n\n"), answer[-200:]
        metrics = fetched(f"http://{admin}/metrics")
        assert b'gateway_exchanges_total{ending="complete",operation="createChatCompletion"' in metrics
        for file in ("", "page.css", "page.js", "page.svg", "state"):
            assert fetched(f"http://{admin}/gateway/{file}"), file
    finally:
        demo.send_signal(signal.SIGINT)
        demo.stdout.close()
        code = demo.wait()
    assert code == 0, f"gateway demo ended with {code}"


if __name__ == "__main__":
    main(sys.argv[1])
