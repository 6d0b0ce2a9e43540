"""`gateway restart` where there is nobody whom it could ask."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest
from aiohttp import web

from tests.kit.command import run_command
from tests.kit.redis import free_port
from tests.kit.upstream import ScriptedUpstream


async def restart(port: int) -> tuple[int, str]:
    """Its exit code and what it complains of."""
    done = await run_command("restart", "--admin-listen", f"127.0.0.1:{port}")
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.code, done.stderr


async def test_nobody_listens() -> None:
    code, said = await restart(free_port())

    assert code == 1
    assert "nobody listens there" in said


async def test_file_that_cannot_be_read_has_no_other_gateway_restarted(tmp_path: Path) -> None:
    missing = tmp_path / "gateway.toml"
    done = await run_command("restart", "--config", str(missing))

    assert done.code == 1
    assert done.stderr == f"gateway: {missing} cannot be read: No such file or directory\n"


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'{"status": "live"}'])
async def test_another_service_listens(body: bytes) -> None:
    async with answering(body) as port:
        code, said = await restart(port)

    assert code == 1
    assert "is no private listener of a gateway" in said


async def test_process_that_only_has_the_number_of_a_gateway_elsewhere_is_left_alone() -> None:
    bystander = await asyncio.create_subprocess_exec("sleep", "60")
    document = {
        "status": "live",
        "pid": bystander.pid,
        "restart": {"number": 0, "outcome": "none", "reason": ""},
    }
    async with answering(orjson.dumps(document)) as port:
        code, said = await restart(port)
    alive = bystander.returncode is None
    bystander.kill()

    assert code == 1
    assert "in a container or on another machine" in said
    assert alive
    assert await bystander.wait() == -signal.SIGKILL


async def test_variable_that_looks_like_the_number_of_workers_starts_no_worker(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    done = await run_command(
        *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--workers", "0"),
        *("--upstream", upstream.base_url, "--keys-dir", str(tmp_path / "keys")),
        GATEWAY_WORKER="2",
    )

    assert done.code == 1
    assert done.stderr.startswith("gateway: workers: ")


@asynccontextmanager
async def answering(body: bytes) -> AsyncIterator[int]:
    """A service that answers everything by this; its port."""

    async def answer(_: web.BaseRequest) -> web.Response:
        return web.Response(body=body)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
