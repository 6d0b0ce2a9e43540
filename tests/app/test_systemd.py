"""What systemd is told, over a socket as systemd's."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.app.systemd import Notifier
from tests.kit.command import running_command


class Listener:
    """Where a service's notifications arrive."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1))
        self._socket.settimeout(5)

    def hears(self) -> list[str]:
        """The lines of the next message."""
        return self._socket.recv(65536).decode().split("\n")

    def heard_nothing(self) -> bool:
        """Whether nobody has said anything."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(65536)
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["file", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    listener = Listener(str(tmp_path / "notify") if request.param == "file" else f"@{secrets.token_hex(8)}")
    yield listener
    listener.close()


def test_systemd_hears_of_every_step_in_a_services_life(systemd: Listener) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": systemd.address})

    notifier.ready("serving\non two\taddresses")
    assert systemd.hears() == ["READY=1", "STATUS=serving on two addresses"]

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading("reading the settings")
    first, moment, status = systemd.hears()
    assert (first, status) == ("RELOADING=1", "STATUS=reading the settings")
    name, _, microseconds = moment.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(microseconds) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    notifier.stopping("draining", most_seconds=605.5)
    assert systemd.hears() == ["STOPPING=1", "EXTEND_TIMEOUT_USEC=605500000", "STATUS=draining"]


async def test_the_watchdog_is_told_twice_as_often_as_it_asks_and_only_while_the_gateway_lives(
    systemd: Listener,
) -> None:
    environ = {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "200000", "WATCHDOG_PID": str(os.getpid())}
    notifier = Notifier.from_environ(environ)
    assert notifier.watchdog_seconds == 0.2
    lives = True
    telling = asyncio.create_task(notifier.tell_while_live(lambda: lives))

    began = time.monotonic()
    for _ in range(4):
        assert await asyncio.to_thread(systemd.hears) == ["WATCHDOG=1"]
    assert 0.25 < time.monotonic() - began < 2.0
    lives = False
    await asyncio.sleep(0.15)  # what was on its way is here
    while not systemd.heard_nothing():
        pass
    await asyncio.sleep(0.3)
    assert systemd.heard_nothing()
    telling.cancel()


async def test_a_loop_that_hangs_lets_the_watchdog_bite(systemd: Listener) -> None:
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": "100000"})
    telling = asyncio.create_task(notifier.tell_while_live(lambda: True))
    await asyncio.sleep(0)
    assert systemd.hears() == ["WATCHDOG=1"]

    time.sleep(0.3)

    assert systemd.heard_nothing()
    telling.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "1000000"},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "relative"},
        {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000000"},
    ],
    ids=str,
)
async def test_where_nobody_listens_nothing_is_said(environ: dict[str, str]) -> None:
    notifier = Notifier.from_environ(environ)

    notifier.ready("serving")
    notifier.stopping("draining", most_seconds=1)
    assert notifier.watchdog_seconds is None
    await asyncio.wait_for(notifier.tell_while_live(lambda: True), 1)


@pytest.mark.parametrize("usec", ["", "0", "-5", "soon", "1e9", "²"])
def test_a_watchdog_that_cannot_be_understood_is_none(usec: str) -> None:
    assert Notifier.from_environ({"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": usec}).watchdog_seconds is None


def test_another_processs_watchdog_is_not_fed() -> None:
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}
    assert Notifier.from_environ(environ).watchdog_seconds is None


def test_a_socket_that_is_gone_or_full_fails_nobody_and_keeps_nobody(tmp_path: Path) -> None:
    Notifier.from_environ({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("serving")
    Notifier.from_environ({"NOTIFY_SOCKET": f"/{'x' * 300}"}).ready("serving")
    full = Listener(str(tmp_path / "full"))
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": full.address})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as others:
        others.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                others.sendto(b"STATUS=x", full.address)
    began = time.monotonic()
    notifier.ready("serving")
    assert time.monotonic() - began < 1
    full.close()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_gateway_under_systemd_says_when_it_serves_reloads_and_stops(
    workers: int, systemd: Listener, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text("drain_notice_seconds = 0.5\ndrain_seconds = 7\n[tenants.acme]\n")
    async with running_command(
        *("serve", "--config", str(config), "--workers", str(workers), "--upstream", "http://127.0.0.1:9/v1"),
        *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--keys-dir", str(tmp_path / "keys")),
        NOTIFY_SOCKET=systemd.address,
        WATCHDOG_USEC="2000000",
    ) as gateway:
        said = await _hears(systemd)
        assert said[0] == "READY=1"
        assert f"{gateway.host}:{gateway.port}" in said[1]
        assert await _hears(systemd, also="WATCHDOG=1") == ["WATCHDOG=1"]
        for pid in _family(gateway.process.pid):
            environ = Path(f"/proc/{pid}/environ").read_bytes() if pid != gateway.process.pid else b""
            assert b"NOTIFY_SOCKET" not in environ

        config.write_text("drain_notice_seconds = broken")
        gateway.signal(signal.SIGHUP)
        assert (await _hears(systemd))[0] == "RELOADING=1"
        ready, status = await _hears(systemd)
        assert ready == "READY=1"
        assert "wrong" in status

        gateway.signal()
        stopping, patience, _ = await _hears(systemd)
        assert (stopping, patience) == ("STOPPING=1", "EXTEND_TIMEOUT_USEC=17500000"), "last lines included"
        assert await gateway.exit_code() == 0


async def _hears(systemd: Listener, also: str = "") -> list[str]:
    """What is said next, but for signs of life."""
    while (said := await asyncio.to_thread(systemd.hears)) == ["WATCHDOG=1"] and not also:
        pass
    return said


def _family(pid: int) -> list[int]:
    """A process and all that it has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(one for child in children for one in _family(int(child)))]


def test_no_process_that_is_started_can_speak_for_the_gateway(tmp_path: Path) -> None:
    code = """
import os, subprocess, sys
from gateway.app.systemd import Notifier
from tests.kit.command import running_command
Notifier.from_environ(os.environ)
print(subprocess.run(["env"], capture_output=True, text=True).stdout)
"""
    environ = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, timeout=20, check=True
    )

    assert "PATH=" in done.stdout
    assert not any(name in done.stdout for name in ("NOTIFY_SOCKET", "WATCHDOG"))
