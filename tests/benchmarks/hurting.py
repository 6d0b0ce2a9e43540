"""What one tenant can do to another: a victim's latencies while an attacker does its worst, beside its idle ones.

    python -m tests.benchmarks.hurting [--seconds 8] [--memory-mib 0] [attack …]

`gateway serve` runs as operators run it, in front of an upstream that answers at once or floods. A victim asks 50
times a second, on time, whatever becomes of its answers; an attacker of another tenant sends what the attack is
called. Attackers yield the processor to everybody else. Printed per attack: the victim's
median, p99 and slowest, p99 over its idle value, what failed, the gateway's peak memory, its longest turn of the loop,
and what answers the attacker got. `--memory-mib` bounds the gateway's address space.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson

from gateway.credentials.key_ring import ensure_ring
from tests.benchmarks.attacks import ATTACKS, Target, attack, upstream
from tests.kit.asking import credential_of
from tests.kit.client import MIB

PER_SECOND = 50
CONNECTIONS = 8
CONFIGURATION = """
[upstream]
api_key = "env:UPSTREAM_KEY"
[tenants.attacker]
stored_objects = "own"
upstream.api_key = "sk-of-the-attacker"
[tenants.limited]
stored_objects = "own"
upstream.api_key = "sk-of-the-limited"
[tenants.victim.limits]
max_tokens_per_1_minute = 1000000000
[tenants.attacker.limits]
max_tokens_per_1_minute = 1000000000
[tenants.limited.limits]
max_requests_per_1_minute = 2
"""
SERVING = re.compile(r"serving on http://([^:/ ]+):(\d+).* metrics on http://[^:/ ]+:(\d+)/")
SMALL = orjson.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello there! " * 20}]})


# The victim


async def _victim(port: int, credential: str, seconds: float) -> tuple[list[float], Counter[str]]:
    """Milliseconds from when each request was due until its answer was there, and what failed."""
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: gateway.test\r\nAuthorization: Bearer {credential}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(SMALL)}\r\n\r\n"
    ).encode()
    free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    times: list[float] = []
    failures: Counter[str] = Counter()

    async def one(due: float) -> None:
        try:
            async with asyncio.timeout(10):
                reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", port)
                writer.write(head + SMALL)
                answer = await reader.readuntil(b"\r\n\r\n")
                stated = re.search(rb"content-length: (\d+)", answer.lower())
                await reader.readexactly(int(stated[1]) if stated else 0)
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            failures[type(error).__name__] += 1
        else:
            if not answer.startswith(b"HTTP/1.1 200"):
                failures[answer[9:12].decode()] += 1
            free.append((reader, writer))
        times.append((time.monotonic() - due) * 1000)

    begin = time.monotonic()
    asked = []
    for n in range(int(seconds * PER_SECOND)):
        due = begin + n / PER_SECOND
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        asked.append(asyncio.create_task(one(due)))
    await asyncio.gather(*asked)
    for _, writer in free:
        writer.close()
    return times, failures


def _percentile(times: list[float], share: float) -> float:
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


# Putting them together


@contextmanager
def _child(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.hurting", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield child
    finally:
        child.kill()
        child.wait()


@contextmanager
def _gateway(upstream_port: int, memory_mib: int) -> Iterator[tuple[int, int, int, Path]]:
    """Its process, its two ports, and its keys."""
    with tempfile.TemporaryDirectory() as directory:
        keys, configuration, said = (Path(directory) / name for name in ("keys", "gateway.toml", "stderr"))
        ensure_ring(keys)
        configuration.write_text(
            CONFIGURATION.replace(
                "[upstream]", f'[upstream]\nbase_url = "http://127.0.0.1:{upstream_port}/v1"'
            )
        )

        def bound() -> None:
            if memory_mib:
                resource.setrlimit(resource.RLIMIT_AS, (memory_mib * MIB, memory_mib * MIB))

        command = [sys.executable, "-m", "gateway", "serve", "--config", str(configuration)]
        command += ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--keys-dir", str(keys)]
        with said.open("w") as stderr:
            process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                preexec_fn=bound,
                env={"PATH": os.environ["PATH"], "HOME": directory, "UPSTREAM_KEY": "sk-upstream"},
            )
        try:
            deadline = time.monotonic() + 20
            while not (found := SERVING.search(said.read_text())):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(said.read_text())
                time.sleep(0.05)
            yield process.pid, int(found[2]), int(found[3]), keys
        finally:
            process.terminate()
            try:
                process.wait(3)
            except subprocess.TimeoutExpired:
                process.kill()
            defects = [line for line in said.read_text().splitlines() if "Traceback" in line]
            if defects:
                print(f"  {len(defects)} tracebacks on the gateway's standard error")


def _peak_mib(pid: int) -> int:
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def _longest_turn(admin_port: int) -> str:
    """The bucket of the longest turn of the gateway's loop so far, as it tells it itself."""
    with socket.create_connection(("127.0.0.1", admin_port), 5) as connection:
        connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    counts = re.findall(
        r'^gateway_event_loop_lag_seconds_bucket\{le="([^"]+)",worker="0"\} (\S+)$', text, re.MULTILINE
    )
    most = max(float(count) for _, count in counts)
    bound = next(bound for bound, count in counts if float(count) == most)
    return f"<= {float(bound) * 1000:.0f} ms"


def run(name: str, upstream_port: int, seconds: float, memory_mib: int) -> None:
    """One attack beside a gateway of its own."""
    with _gateway(upstream_port, memory_mib) as (pid, port, admin_port, keys):
        ring, _ = ensure_ring(keys)
        victim, attacker, limited = (
            credential_of(ring, tenant=tenant) for tenant in ("victim", "attacker", "limited")
        )
        asyncio.run(_victim(port, victim, 1))
        idle, _ = asyncio.run(_victim(port, victim, seconds))
        with _child("--attack", name, "--port", str(port), "--as", attacker, limited) as attacking:
            time.sleep(1)
            times, failures = asyncio.run(_victim(port, victim, seconds))
            longest = _longest_turn(admin_port)
            peak = _peak_mib(pid)
            try:
                answers = attacking.communicate("", timeout=5)[0].strip()
            except subprocess.TimeoutExpired:
                answers = "?"
        p99, before = _percentile(times, 0.99), _percentile(idle, 0.99)
        print(
            f"{name:16} idle p50 {statistics.median(idle):5.1f} p99 {before:6.1f}  "
            f"attacked p50 {statistics.median(times):7.1f} p99 {p99:8.1f} max {max(times):8.1f} ms "
            f"({p99 / before:5.1f} x)  failed {dict(failures) or 0}  peak {peak} MiB  turn {longest}  "
            f"attacker {answers}",
            flush=True,
        )


def main() -> None:
    """Run the attacks that were named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.hurting", description=__doc__)
    parser.add_argument("attacks", nargs="*", choices=[[], *ATTACKS], default=[])
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--memory-mib", type=int, default=0)
    parser.add_argument("--upstream", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--attack", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--as", nargs=2, dest="credentials", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.upstream:
        asyncio.run(upstream())
        return
    if options.attack:
        attack(
            options.attack, Target(options.port, options.credentials[0], options.credentials[1], Counter())
        )
        return
    with _child("--upstream") as behind:
        assert behind.stdout is not None
        port = int(behind.stdout.readline())
        for name in options.attacks or ATTACKS:
            run(name, port, options.seconds, options.memory_mib)


if __name__ == "__main__":
    main()
