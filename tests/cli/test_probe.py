"""`gateway probe`, as a container's health check runs it."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import orjson
import pytest

from gateway.credentials.key_ring import KeyRing, add
from gateway.credentials.keys import Key
from tests.kit.asking import credential_of
from tests.kit.client import RawClient
from tests.kit.command import Completed, RunningCommand, run_command, running_command
from tests.kit.redis import RedisServer, free_port
from tests.kit.upstream import ScriptedUpstream
from tests.kit.waiting import comes_to

PATIENCE_SECONDS = 10.0


@asynccontextmanager
async def serving(
    keys_dir: Path,
    upstream: ScriptedUpstream,
    *arguments: str,
    admin: str = "127.0.0.1:0",
    module: str = "gateway",
) -> AsyncIterator[RunningCommand]:
    """A gateway of one process, as an operator starts it."""
    async with running_command(
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", admin, "--keys-dir", str(keys_dir)),
        *("--workers", "1", "--upstream", upstream.base_url, *arguments),
        module=module,
    ) as running:
        yield running


async def probe(gateway: RunningCommand, *arguments: str) -> Completed:
    return await run_command("probe", "--admin-listen", f"127.0.0.1:{gateway.admin_port}", *arguments)


async def test_a_gateway_that_serves_lives_and_is_ready_until_it_stops(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with serving(tmp_path / "keys", upstream, "--set", "drain_notice_seconds=30") as gateway:
        live, ready = await probe(gateway), await probe(gateway, "--ready")
        gateway.signal()
        await gateway.says("stopping")
        still_live, not_ready = await probe(gateway), await probe(gateway, "--ready")

    assert [done.code for done in (live, ready, still_live, not_ready)] == [0, 0, 0, 1]
    assert (live.stdout, live.stderr) == ("live: 1 of 1 workers are ready\n", "")
    assert ready.stdout == "ready: 1 of 1 workers are ready\n"
    assert (not_ready.stdout, not_ready.stderr) == ("", "gateway: not ready: The gateway is stopping.\n")


async def test_a_process_that_does_nothing_any_more_does_not_live(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with serving(tmp_path / "keys", upstream) as gateway:
        gateway.signal(signal.SIGSTOP)
        began = time.monotonic()
        done = await probe(gateway)
        seconds = time.monotonic() - began
        gateway.signal(signal.SIGCONT)
        again = await probe(gateway)

    assert (done.code, again.code) == (1, 0)
    assert "no answer within 2 seconds" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert 2.0 <= seconds < PATIENCE_SECONDS


async def test_a_process_whose_loop_stands_still_says_so_by_itself(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    hangs = ("--set", "worker_hang_seconds=1")
    async with serving(tmp_path / "keys", upstream, *hangs, module="tests.kit.stuck") as gateway:
        assert (await probe(gateway, "--ready")).code == 0
        gateway.signal(signal.SIGALRM)
        await asyncio.sleep(1.2)
        ready, live = await probe(gateway, "--ready"), await probe(gateway)

    assert (ready.code, live.code) == (1, 0), "it may yet go on"
    assert re.fullmatch(
        r"gateway: not ready: The loop of worker 0 has not turned for \d+ seconds.\n", ready.stderr
    )


async def test_of_several_workers_one_that_is_well_is_enough_and_a_supervisor_that_hangs_is_not_well(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_command(
        *("serve", "--workers", "2", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
        *("--keys-dir", str(tmp_path / "keys"), "--upstream", upstream.base_url),
    ) as gateway:
        workers = await asyncio.to_thread(pids, gateway)
        assert (await probe(gateway, "--ready")).stdout == "ready: 2 of 2 workers are ready\n"
        os.kill(workers[0], signal.SIGSTOP)
        await asyncio.sleep(1.5)
        one = await probe(gateway, "--ready")
        os.kill(workers[1], signal.SIGSTOP)
        await asyncio.sleep(1.5)
        none, live = await probe(gateway, "--ready"), await probe(gateway)
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        await comes_to(0, lambda: exit_code(gateway, "--ready"), PATIENCE_SECONDS)
        gateway.signal(signal.SIGSTOP)
        stopped = await probe(gateway)
        gateway.signal(signal.SIGCONT)

    assert one.stdout == "ready: 1 of 2 workers are ready\n"
    assert (none.code, live.code, stopped.code) == (1, 0, 1)
    assert "The loop of worker 0 has not turned" in none.stderr
    assert "The loop of worker 1 has not turned" in none.stderr


def pids(gateway: RunningCommand) -> list[int]:
    """Of its workers."""
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}/livez", timeout=5) as answer:
        return [worker["pid"] for worker in orjson.loads(answer.read())["workers"]]


async def exit_code(gateway: RunningCommand, *arguments: str) -> int:
    return (await probe(gateway, *arguments)).code


async def test_the_address_is_the_one_that_the_gateway_listens_on(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """By flag, environment and file, in this order; what is everywhere is here too."""
    port, other = free_port(), free_port()
    anywhere, anywhere_6 = f"0.0.0.0:{port}", f"[::]:{port}"
    config, broken = tmp_path / "gateway.toml", tmp_path / "broken.toml"
    config.write_text(f'# admin_listen = "127.0.0.1:1"\n  admin_listen = "{anywhere}"  # private\n')
    broken.write_text(f'admin_listen = "{anywhere}"\n[tenants.acme\nadmin_listen = "127.0.0.1:1"\n')
    wrong = f"127.0.0.1:{other}"
    async with serving(tmp_path / "keys", upstream, admin=anywhere):
        right = [
            await run_command("probe", "--admin-listen", anywhere, GATEWAY_ADMIN_LISTEN=wrong),
            await run_command("probe", "--admin-listen", f"localhost:{port}"),
            await run_command("probe", "--admin-listen", f":{port}"),
            await run_command("probe", "--config", str(config), Gateway_Admin_Listen=anywhere),
            await run_command("probe", "--config", str(config)),
            await run_command("probe", "--config", str(broken)),
        ]
        mistaken = [
            await run_command("probe", "--admin-listen", wrong),
            await run_command("probe", "--config", str(config), GATEWAY_ADMIN_LISTEN=wrong),
        ]
    async with serving(tmp_path / "keys", upstream, admin=anywhere_6):
        right += [
            await run_command("probe", "--admin-listen", anywhere_6),
            await run_command("probe", "--admin-listen", f"[::1]:{port}"),
        ]

    assert [done.code for done in right] == [0] * len(right), [done.stderr for done in right]
    for done in mistaken:
        assert (done.code, done.stdout) == (1, "")
        assert done.stderr.startswith(f"gateway: {wrong}: nobody listens there")
        assert done.stderr.count("\n") == 1


async def test_a_file_that_cannot_be_read_is_named_and_the_usual_address_asked(tmp_path: Path) -> None:
    missing = tmp_path / "gateway.toml"
    done = await run_command("probe", "--config", str(missing))

    note, line = done.stderr.splitlines()
    assert note == f"gateway: {missing} cannot be read: No such file or directory"
    assert line.startswith("gateway: 127.0.0.1:9090: ")
    assert done.code == 1


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:", "127.0.0.1:http", "9090", "127.0.0.1:99999"])
async def test_what_is_no_address_is_said(address: str) -> None:
    done = await run_command("probe", "--admin-listen", address)

    assert done.code == 1
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@contextmanager
def answering(*pieces: bytes, pause_seconds: float = 0.0) -> Iterator[str]:
    """Something else than a gateway; its address. It answers once, and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                for piece in pieces:
                    try:
                        connection.sendall(piece)
                    except OSError:
                        return
                    time.sleep(pause_seconds)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("pieces", "said"),
    [
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "what listens there does not speak HTTP"),
        ([b""], "what listens there does not speak HTTP"),
        ([b"HTTP/1.1 200 OK\r\n\r\nok"], "/livez answered 200, and not as the private listener of a gateway"),
        ([b"HTTP/1.1 404 Not Found\r\n\r\nno"], "/livez answered 404"),
        ([b'HTTP/1.1 503 No\r\n\r\n{"status": 1, "reasons": 2}'], "/livez answered 503"),
        ([b"HTTP/1.1 503 No\r\n\r\n[]"], "/livez answered 503"),
    ],
)
async def test_what_is_no_gateway_does_not_live(pieces: list[bytes], said: str) -> None:
    with answering(*pieces) as address:
        done = await run_command("probe", "--admin-listen", address)

    assert done.code == 1
    assert done.stderr.count("\n") == 1
    assert f"gateway: {address}: {said}" in done.stderr


async def test_an_answer_that_comes_in_drops_is_not_waited_for(upstream: ScriptedUpstream) -> None:
    with answering(*[b"H"] * 40, pause_seconds=0.1) as address:
        began = time.monotonic()
        done = await run_command("probe", "--admin-listen", address)
        seconds = time.monotonic() - began

    assert done.code == 1
    assert "no answer within 2 seconds" in done.stderr
    assert seconds < 3.8


async def test_it_imports_next_to_nothing() -> None:
    """It is run every few seconds, beside a gateway that needs the processor."""
    done = await run_command("probe", "--admin-listen", "127.0.0.1:1", PYTHONPROFILEIMPORTTIME="1")

    imported = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "gateway.cli.probe" in imported
    gateways = {name for name in imported if name.startswith("gateway")}
    assert gateways == {
        "gateway",
        "gateway.cli",
        "gateway.cli.command_line",
        "gateway.cli.drawing",
        "gateway.cli.probe",
    }
    heavy = {"aiohttp", "asyncio", "orjson", "pydantic", "cryptography", "ssl", "http.client", "inspect"}
    assert not imported & heavy


async def test_a_gateway_that_lacks_its_peers_key_says_which_and_what_to_do(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    add(old, Key.generate("EdDSA", "k-2026"))
    shared = ("--set", f'redis_url="{redis.url}"')

    async with serving(old, upstream, *shared) as peer:
        async with await RawClient.connect(peer.host, peer.port, credential_of(KeyRing.load(old))) as client:
            assert (await client.request("GET", "/gateway/me")).status == 200
        await comes_to(True, lambda: asyncio.to_thread(in_use, redis, "k-2026"), PATIENCE_SECONDS)
        async with serving(new, upstream, *shared, "--no-first-credential") as replica:
            done, lives = await probe(replica, "--ready"), await probe(replica)
            assert await exit_code(peer, "--ready") == 0
            async with await RawClient.connect(replica.host, replica.port) as client:
                await client.send(b"GET /gateway/readyz HTTP/1.1\r\nHost: lb\r\n\r\n")
                public = await client.read_answer()

            (new / "k-2026.json").write_bytes((old / "k-2026.json").read_bytes())
            (new / "k-2026.json").chmod(0o600)
            await comes_to(0, lambda: exit_code(replica, "--ready"), PATIENCE_SECONDS)

        async with serving(tmp_path / "third", upstream, *shared) as replica:
            assert await exit_code(replica, "--ready") == 1
            retired = await run_command(
                *("keys", "retire", "k-2026", "--keys-dir", str(tmp_path / "third"), *shared)
            )
            await comes_to(0, lambda: exit_code(replica, "--ready"), PATIENCE_SECONDS)

    assert (done.code, lives.code) == (1, 0)
    assert "Key k-2026 signs credentials" in done.stderr
    assert "Give every gateway the same keys" in done.stderr
    assert "gateway keys retire k-2026" in done.stderr
    assert (public.status, public.body) == (503, b'{"status":"not ready"}\n')
    assert (retired.code, retired.stderr) == (0, "")
    assert "no gateway misses it" in retired.stdout


def in_use(redis: RedisServer, kid: str) -> bool:
    return kid in redis.command("ZRANGE", "gateway:{credentials}:keys:used", 0, -1)


async def test_a_key_that_nobody_knows_cannot_be_retired(tmp_path: Path, redis: RedisServer) -> None:
    add(tmp_path / "keys", Key.generate("EdDSA"))
    for shared in ((), ("--set", f'redis_url="{redis.url}"')):
        done = await run_command("keys", "retire", "nobody", "--keys-dir", str(tmp_path / "keys"), *shared)
        assert (done.code, done.stdout) == (1, "")
        assert "no such key" in done.stderr
