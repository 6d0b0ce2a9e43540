"""`gateway top` over real gateways, on a terminal, in a pipe and for programs."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiohttp import web

from gateway.proxy.acceptor import listening_sockets
from tests.kit.client import JSON, RawClient
from tests.kit.command import RunningCommand, run_command, running_command
from tests.kit.live_terminal import LiveTerminal, live_terminal
from tests.kit.redis import free_port
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import until

CHAT = b'{"model":"gpt-4o","messages":[]}'
KEY = "an-operators-key-of-32-characters"


@asynccontextmanager
async def two_gateways(directory: Path, upstream: ScriptedUpstream) -> AsyncIterator[list[RunningCommand]]:
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                running_command(
                    *("serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
                    *("--upstream", upstream.base_url, "--keys-dir", str(directory / name)),
                    *("--set", "drain_notice_seconds=0", "--set", "drain_seconds=0"),
                )
            )
            for name in ("one", "two")
        ]


def urls(gateways: list[RunningCommand], *more: str) -> list[str]:
    named = [f"http://127.0.0.1:{gateway.admin_port}" for gateway in gateways]
    return [word for url in (*named, *more) for word in ("--url", url)]


async def ask(gateway: RunningCommand, count: int = 1) -> None:
    async with await RawClient.connect(gateway.host, gateway.port, gateway.first_credential or "") as client:
        for _ in range(count):
            await client.request("POST", "/v1/chat/completions", CHAT, headers=JSON)


async def streams(turn: Turn) -> None:
    """An answer that goes on until the test is over."""
    await turn.read_body()
    await turn.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    await turn.chunk(b"data: {}\n\n")
    await asyncio.Event().wait()


@pytest.mark.parametrize("columns", [80, 200])
async def test_live_view_adds_up_gateways_and_shows_who_does_not_answer(
    tmp_path: Path, upstream: ScriptedUpstream, columns: int
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    async with (
        two_gateways(tmp_path, upstream) as gateways,
        live_terminal(
            "top", *urls(gateways, nobody), "--interval", "0.3", columns=columns, lines=30
        ) as terminal,
    ):
        await terminal.shows("2 of 3 gateways ready")
        await terminal.shows(f"! gateway {nobody} cannot be reached: Connection refused")
        upstream.plays(streams)
        runs = []
        for gateway in gateways:
            client = await RawClient.connect(gateway.host, gateway.port, gateway.first_credential or "")
            body = b'{"model":"gpt-4o","stream":true,"messages":[]}'
            await client.send(client.request_bytes("POST", "/v1/chat/completions", body, headers=JSON))
            await client.read_head()
            runs.append(client)
        await terminal.shows("2 running")
        await terminal.shows("AGE")
        assert terminal.text.count("gpt-4o") == 2
        assert max(map(len, terminal.lines)) <= columns
        for name in ("TENANT", "UPSTREAM", "REQUEST ID", "GATEWAY"):
            assert name in terminal.text
        terminal.press("i")
        await terminal.shows("alone")
        await terminal.shows("1 running")
        for client in runs:
            await client.close()
        terminal.press("q")
        assert await terminal.exit_code() == 0
        assert terminal.is_as_before


async def looked_at(terminal: LiveTerminal) -> list[str]:
    """The tenants that stand there, in their order."""
    await asyncio.sleep(0.3)
    return [line.split()[0] for line in terminal.lines if line.startswith("tenant-")]


async def test_keys_sort_filter_and_show_one_table_alone() -> None:
    async with (
        listening(lambda _: web.json_response(body=orjson.dumps(a_state()))) as port,
        live_terminal("top", "--url", f"http://127.0.0.1:{port}", "--interval", "0.3") as terminal,
    ):
        await terminal.shows("tenant-b")
        terminal.press("1s")
        assert await looked_at(terminal) == ["tenant-a", "tenant-b", "tenant-c"], "by name"
        terminal.press("r")
        assert await looked_at(terminal) == ["tenant-c", "tenant-b", "tenant-a"]
        terminal.press("ssss")
        assert await looked_at(terminal) == ["tenant-b", "tenant-c", "tenant-a"], "by what runs"
        terminal.press("/NT-C")
        await terminal.shows("only rows with: NT-C_")
        assert await looked_at(terminal) == ["tenant-c"]
        terminal.press("\r")
        await terminal.shows("only rows with 'NT-C' (Esc: all)")
        terminal.press("\x1b")
        assert len(await looked_at(terminal)) == 3
        terminal.press("5")
        await terminal.shows("requests/minute")
        assert "nothing runs" not in terminal.text
        terminal.press("0")
        await terminal.shows("nothing runs")
        terminal.press("?")
        await terminal.shows("hold still, or go on")
        terminal.press("? ")
        await terminal.shows("HELD")


async def test_view_follows_the_size_of_its_terminal() -> None:
    async with (
        listening(lambda _: web.json_response(body=orjson.dumps(a_state()))) as port,
        live_terminal("top", "--url", f"http://127.0.0.1:{port}", "--interval", "60") as terminal,
    ):
        await terminal.shows("tenant-b")
        assert "LLM IN/S" not in terminal.text
        terminal.resize(200, 40)
        await terminal.shows("LLM IN/S")
        terminal.resize(40, 10)
        await asyncio.sleep(0.5)
        assert terminal.lines[0].startswith(" gateway top")
        assert "tenant-b" in terminal.text


@pytest.mark.parametrize(
    ("key", "number", "code"),
    [("\x03", None, 130), ("", signal.SIGTERM, 143)],
    ids=["Ctrl-C", "SIGTERM"],
)
async def test_whoever_ends_it_the_terminal_is_as_it_was(
    key: str, number: signal.Signals | None, code: int
) -> None:
    async with (
        listening(lambda _: web.json_response(body=orjson.dumps(a_state()))) as port,
        live_terminal("top", "--url", f"http://127.0.0.1:{port}") as terminal,
    ):
        await terminal.shows("tenant-b")
        assert not terminal.is_as_before
        if number is None:
            terminal.press(key)
        else:
            terminal.process.send_signal(number)
        assert await terminal.exit_code() == code
        assert terminal.is_as_before
        assert b"Traceback" not in terminal.raw


async def test_shell_has_the_terminal_while_it_is_stopped() -> None:
    async with (
        listening(lambda _: web.json_response(body=orjson.dumps(a_state()))) as port,
        live_terminal("top", "--url", f"http://127.0.0.1:{port}") as terminal,
    ):
        await terminal.shows("tenant-b")
        terminal.press("\x1a")
        stat = Path(f"/proc/{terminal.process.pid}/stat")
        await until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", 5)
        await until(lambda: terminal.is_as_before, 5)
        terminal.process.send_signal(signal.SIGCONT)
        await until(lambda: not terminal.is_as_before, 5)
        terminal.press("?")
        await terminal.shows("hold still, or go on")


async def test_names_of_others_do_nothing_to_the_terminal() -> None:
    state = a_state()
    state["tenants"][0]["tenant"] = "evil\x1b]0;owned\x07\x1b[2J"
    state["errors"] = [{"code": "\x9b31mred", "count": 1}]
    state["oldest"] = [{**running("1"), "model": "[bold]not a style[/bold]\r\n\x1b[31m"}]
    async with (
        listening(lambda _: web.json_response(body=orjson.dumps(state))) as port,
        live_terminal("top", "--url", f"http://127.0.0.1:{port}", lines=40, columns=200) as terminal,
    ):
        await terminal.shows("[bold]not a style")
        for hostile in (b"owned\x07", b"\x1b[2J\x1b", b"\x9b31m", b"\xc2\x9b"):
            assert hostile not in terminal.raw
        assert "evil\\x1b]0;owned" in terminal.text


def exchanges(tables: Any) -> Any:
    return next(row["exchanges"] for row in tables["tenants"] if row["tenant"] == "default")


async def test_programs_get_sums_and_each_gateway(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    async with two_gateways(tmp_path, upstream) as gateways:
        await ask(gateways[0], 3)
        await ask(gateways[1], 2)
        sound = await run_command("top", "--once", "--json", "--interval", "1.2", *urls(gateways))
        partly = await run_command("top", "--once", "--json", "--interval", "0.3", *urls(gateways, nobody))

    assert (sound.code, sound.stderr) == (0, "")
    document = orjson.loads(sound.stdout)
    assert exchanges(document["together"]) == {"total": 5.0, "per_second": 0.0}
    assert [exchanges(of["tables"])["total"] for of in document["gateways"]] == [3.0, 2.0]
    assert [of["ready"] for of in document["gateways"]] == [True, True]
    assert partly.code == 1
    missing = orjson.loads(partly.stdout)["gateways"][2]
    assert (missing["url"], missing["ready"]) == (nobody, False)
    assert missing["problem"] == "cannot be reached: Connection refused"
    assert exchanges(orjson.loads(partly.stdout)["together"])["total"] == 5.0
    assert missing["problem"] in partly.stderr


async def test_in_a_pipe_it_is_shown_once_as_plain_lines(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with two_gateways(tmp_path, upstream) as gateways:
        await ask(gateways[0])
        address = f"127.0.0.1:{gateways[0].admin_port}"
        piped = await run_command("top", "--admin-listen", address, "--interval", "1.2")

    assert (piped.code, piped.stderr) == (0, "")
    assert "\x1b" not in piped.stdout
    rows = [line.split() for line in piped.stdout.splitlines()]
    assert ["default", "0", "0", "0", "0", "0", "0", "-"] in rows
    assert any(row[:4] == ["TENANT", "REQ/S", "FAIL/S", "429/S"] for row in rows)


async def test_key_comes_from_the_environment_or_a_file_and_never_from_the_command_line(
    tmp_path: Path,
) -> None:
    shown: list[str | None] = []

    def answer(request: web.Request) -> web.Response:
        shown.append(request.headers.get("Authorization"))
        return web.json_response(body=orjson.dumps(a_state()))

    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    async with listening(answer) as port:
        once = ("top", "--once", "--interval", "0.2", "--url", f"http://127.0.0.1:{port}")
        for more, environ in (
            ((), {"GATEWAY_ADMIN_KEY": KEY}),
            ((), {"GATEWAY_ADMIN_KEY": f"file:{file}"}),
            (("--key", f"file:{file}"), {}),
            (("--key", "env:OPS"), {"OPS": KEY}),
        ):
            done = await run_command(*once, *more, **environ)
            assert done.code == 0, done.stderr
            assert shown == [f"Bearer {KEY}"] * 2
            shown.clear()
        for told in (("--key", KEY), ("--url", f"http://ops:{KEY}@127.0.0.1:{port}"), ("--key", "env:NONE")):
            refused = await run_command(*once, *told)
            assert refused.code == 1
            assert KEY not in refused.stderr + refused.stdout
    assert not shown


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            web.json_response({"error": {"message": "This takes a key.\x1b[31m"}}, status=401),
            "401: 'This takes",
        ),
        (web.Response(text="<html>", status=200), "no gateway's private listener"),
        (web.json_response({"version": "9"}), "no gateway's private listener"),
        (web.json_response([1]), "no gateway's private listener"),
        (web.Response(status=302, headers={"Location": "http://127.0.0.1:1/"}), "302 was answered"),
        (web.Response(text="Ask by address.\n", status=421), "421: Ask by address."),
    ],
)
async def test_who_does_not_answer_with_its_state_is_told_why(answer: web.Response, said: str) -> None:
    body, status, headers = answer.body, answer.status, dict(answer.headers)

    def play(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status, headers=headers)

    async with listening(play) as port:
        done = await run_command("top", "--once", "--interval", "0.2", "--url", f"http://127.0.0.1:{port}")

    assert done.code == 1
    assert said in done.stderr
    assert "\x1b" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--json",), 2, "--json goes with --once"),
        (("--interval", "0"), 2, "expected seconds"),
        (("--once", "--url", "ftp://x"), 1, "expected http://HOST:PORT"),
        (("--once", "--url", "http://"), 1, "expected http://HOST:PORT"),
    ],
)
async def test_what_cannot_be_meant_is_said(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = await run_command("top", *arguments)

    assert done.code == code
    assert said in done.stderr


def running(number: str) -> dict[str, Any]:
    return {
        "request_id": f"req_gw_{number}",
        "tenant": "tenant-a",
        "operation": "createResponse",
        "model": "gpt-4o",
        "upstream": "default",
        "age_seconds": 75.0,
        "worker": 0,
        "bytes_out": 2048,
        "transport": "http",
    }


def a_tenant(name: str, in_flight: int, used: float) -> dict[str, Any]:
    return {
        "tenant": name,
        "name": None,
        "enabled": True,
        "in_flight": in_flight,
        "exchanges": 10,
        "failed": 0,
        "throttled": 0,
        "llm_tokens": {"input": 0.0, "output": 0.0},
        "limits": [{"dimension": "max_requests_per_1_minute", "used_ratio": used, "limit": 60}],
        "used": {"today": None, "month": None, "read": None},
    }


def a_state() -> dict[str, Any]:
    """The document of a gateway with three tenants."""
    return {
        "version": "0.1.0",
        "time": 1_800_000_100.0,
        "started": 1_800_000_000.0,
        "instance": "gw:8080",
        "ready": True,
        "reasons": [],
        "workers": [],
        "tenants": [
            a_tenant("tenant-b", 9, 0.5),
            a_tenant("tenant-a", 1, 0.25),
            a_tenant("tenant-c", 4, 0.0),
        ],
        "oldest": [],
        "slowest": [],
        "upstreams": [],
        "errors": [],
        "redis": [],
        "credentials": None,
        "configuration": {"valid": True, "loaded": None},
        "left_out": {"tenants": 0, "credentials": False},
    }


@asynccontextmanager
async def listening(answer: Callable[[web.Request], web.Response]) -> AsyncIterator[int]:
    """Something that answers as a test has it; its port."""

    async def handle(request: web.Request) -> web.Response:
        return answer(request)

    app = web.Application()
    app.router.add_get("/gateway/state", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    (listener,) = listening_sockets("127.0.0.1", 0, backlog=16)
    await web.SockSite(runner, listener).start()
    try:
        yield listener.getsockname()[1]
    finally:
        await runner.cleanup()
