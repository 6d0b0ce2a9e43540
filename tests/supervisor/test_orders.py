"""What a worker does of what its supervisor says, which may be of another release."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

from gateway.app.inherited import bequeath
from gateway.app.messages import Message, Messages
from gateway.app.place import Place
from gateway.credentials.key_ring import ensure_ring
from gateway.settings.document import to_json
from gateway.settings.sources import gathered
from gateway.supervisor.listeners import listen


async def test_worker_that_cannot_do_what_it_is_told_says_so_and_does_what_it_is_told_next(
    tmp_path: Path,
) -> None:
    ensure_ring(tmp_path / "keys")
    ready, listeners = asyncio.Event(), listen("127.0.0.1:0", 1)
    ours, its = socket.socketpair()
    ours.setblocking(False)

    def hears(message: Message, _: bytes) -> None:
        if message["say"] == "ready":
            ready.set()

    messages = Messages(hears, lambda: None)
    await asyncio.get_running_loop().create_unix_connection(lambda: messages, sock=ours)
    with its:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "gateway", "serve"),
            pass_fds=[its.fileno(), *(one.fileno() for one in listeners)],
            env=os.environ | bequeath(Place(), its.fileno(), listeners.slots),
            stderr=asyncio.subprocess.PIPE,
        )
    try:
        async with asyncio.timeout(20):
            values = gathered(flags={"keys_dir": str(tmp_path / "keys")}, environ={})
            messages.say("settings", to_json(values), number=1)
            await ready.wait()
            messages.say("adopt")  # and not which

            await messages.ask("count")
            messages.say("end")
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
        listeners.close()

    assert process.returncode == 0
    assert b"adopt" in said
