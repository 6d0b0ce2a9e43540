"""A gateway is never its own upstream: not by its configuration, and not by way of others."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.credentials.key_ring import KeyRing, ensure_ring
from gateway.credentials.keys import Key
from tests.conftest import StartGateway
from tests.kit.asking import ask, assert_refused, assert_refused_beyond, credential_of
from tests.kit.client import CHAT, HANDSHAKE, JSON, QUESTION
from tests.kit.command import run_command, running_command
from tests.kit.faults.faulty_link import FaultyLink
from tests.kit.gateway import EVERY_SCOPE, Gateway, running_gateway
from tests.kit.upstream import ScriptedUpstream, Turn

SOCKET = "/v1/realtime?model=gpt-realtime"


@pytest.fixture
async def ring_of_three() -> AsyncIterator[list[Gateway]]:
    """Three gateways, each the upstream of the one before, and the first that of the last."""
    rings = [KeyRing.ephemeral() for _ in range(3)]
    keys = [credential_of(ring, tenant="acme") for ring in rings]
    link = FaultyLink(0)
    await link.open()
    back = {"base_url": f"http://127.0.0.1:{link.port}/v1", "api_key": keys[0]}
    async with running_gateway(ring=rings[2], upstream=back) as last:
        to_last = {"base_url": last.base_url, "api_key": keys[2]}
        async with running_gateway(ring=rings[1], upstream=to_last) as second:
            to_second = {"base_url": second.base_url, "api_key": keys[1]}
            async with running_gateway(ring=rings[0], upstream=to_second) as first:
                link._target_port = first.port
                yield [first, second, last]
    await link.close()


async def test_three_gateways_in_a_ring_see_it_at_the_first_return(ring_of_three: list[Gateway]) -> None:
    answer = await ask(ring_of_three[0], "POST", CHAT, QUESTION)

    refusal = assert_refused_beyond(answer, 508, "loop_detected")
    assert answer.get("x-should-retry") == "false"
    lines = [[line["status"] for line in await gateway.lines.wait(1)] for gateway in ring_of_three]
    assert lines == [[508, 508], [508], [508]]
    refused, passed = await ring_of_three[0].lines.wait(2)
    assert (refused["request_id"], refused["error"]) == (refusal, "loop_detected")
    assert (passed["request_id"], passed["upstream_request_id"]) == (
        answer.get("x-gateway-request-id"),
        refusal,
    )


async def test_a_websocket_in_a_ring_is_refused_as_plain_http(ring_of_three: list[Gateway]) -> None:
    answer = await ask(ring_of_three[0], "GET", SOCKET, headers=HANDSHAKE)

    assert_refused_beyond(answer, 508, "loop_detected")
    assert len(await ring_of_three[0].lines.wait(2)) == 2


async def test_what_went_through_before_is_passed_on_with_our_own_name_behind(
    gateway: Gateway, upstream: ScriptedUpstream
) -> None:
    for headers in (
        "CDN-Loop: cloudflare; loops=1\r\ncdn-loop: fastly\r\n",
        "CDN-Loop: cloudflare; loops=1, fastly\r\nConnection: CDN-Loop\r\n",
        "",
    ):
        await ask(gateway, "POST", CHAT, QUESTION, headers=headers + JSON)
    await ask(gateway, "GET", SOCKET, headers=HANDSHAKE + "CDN-Loop: fastly\r\n")

    [own] = upstream.requests[2].all("cdn-loop")
    assert [seen.all("cdn-loop") for seen in upstream.requests] == [
        [f"cloudflare; loops=1, fastly, {own}"],
        [f"cloudflare; loops=1, fastly, {own}"],
        [own],
        [f"fastly, {own}"],
    ]
    assert own.startswith("gateway-")
    assert not any(seen.all("via") for seen in upstream.requests)


async def test_whatever_goes_up_is_marked(start_gateway: StartGateway, upstream: ScriptedUpstream) -> None:
    async def size(turn: Turn) -> None:
        await turn.read_body()
        body = b'{"bytes":400}' if turn.seen.method == "GET" else b"{}"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        await turn.send(head % (len(body), body))

    upstream.plays(size)
    access = {"base_url": upstream.base_url, "api_key": "sk-1", "admin_api_key": "sk-admin"}
    limits = {"batch_1_day_max_input_tokens": 1000}
    gateway = await start_gateway(upstream=access, tenants={"acme": EVERY_SCOPE | {"limits": limits}})
    batch = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}

    await ask(gateway, "GET", "/v1/organization/users")
    await ask(gateway, "POST", "/v1/batches", batch, headers=JSON + "CDN-Loop: fastly\r\n")

    marks = [seen.get("cdn-loop") or "" for seen in upstream.requests]
    assert [(seen.method, seen.target) for seen in upstream.requests] == [
        ("GET", "/v1/organization/users"),
        ("GET", "/v1/files/file-1"),
        ("POST", "/v1/batches"),
    ]
    assert marks[0].startswith("gateway-")
    assert marks[1:] == [f"fastly, {marks[0]}"] * 2


async def test_replicas_have_one_name_and_keep_it_while_keys_rotate(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    old, new = Key.generate("EdDSA", clock=lambda: 1e9), Key.generate("HS256", clock=lambda: 1.1e9)
    for ring in (KeyRing([old]), KeyRing([old, new]), KeyRing([new]), KeyRing([new]), KeyRing.ephemeral()):
        await ask(await start_gateway(ring=ring), "GET", "/v1/models")
    first, rotated, retired, replica, another = (seen.get("cdn-loop") or "" for seen in upstream.requests)
    assert first == rotated
    assert retired == replica
    assert len({first, retired, another}) == 3

    halfway = await start_gateway(ring=KeyRing([old, new]))
    for name in (first, retired, first.upper(), f"fastly, {retired}; loops=3"):
        refused = await ask(halfway, "GET", "/v1/models", headers=f"CDN-Loop: {name}\r\n")
        assert_refused(refused, 508, "loop_detected")
    assert (await ask(halfway, "GET", "/v1/models", headers=f"CDN-Loop: {another}\r\n")).status == 200


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "localhost"),
        ("localhost", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("0.0.0.0", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.2"),
        ("0.0.0.0", "localhost"),
        ("[::1]", "[::1]"),
        ("127.0.0.1", "[::ffff:127.0.0.1]"),
    ],
)
async def test_serve_refuses_an_upstream_that_is_itself(listen: str, host: str, tmp_path: Path) -> None:
    port = free_port()
    shell = {"OPENAI_BASE_URL": f"http://{host}:{port}/v1", "OPENAI_API_KEY": "sk-some-key"}

    for verb in ("serve", "check"):
        done = await run_command(
            *(verb, "--listen", f"{listen}:{port}", "--admin-listen", "127.0.0.1:0"),
            *("--keys-dir", str(tmp_path / "keys")),
            **shell,
        )

        assert done.code != 0
        assert "upstream.base_url" in done.stderr
        assert "this gateway itself" in done.stderr
        assert "OPENAI_BASE_URL" in done.stderr


async def test_serve_refuses_a_credential_of_its_own_for_a_key(tmp_path: Path) -> None:
    """The shell of somebody who has just tried the gateway with an SDK."""
    ring, _ = ensure_ring(tmp_path / "keys")
    for name, given in (
        ("upstream.api_key", {"OPENAI_API_KEY": credential_of(ring)}),
        ("upstream.api_key", {"OPENAI_API_KEY": credential_of(ring, clock=lambda: 1.7e9)}),
        ("upstream.admin_api_key", {"GATEWAY_UPSTREAM__ADMIN_API_KEY": credential_of(ring)}),
        ("tenants.acme.upstream.api_key", {"GATEWAY_TENANTS__ACME__UPSTREAM__API_KEY": credential_of(ring)}),
    ):
        shell = {"OPENAI_API_KEY": "sk-some-key"} | given
        for verb in ("serve", "check"):
            done = await run_command(
                *(verb, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
                *("--keys-dir", str(tmp_path / "keys")),
                **shell,
            )
            assert done.code != 0
            assert name in done.stderr
            assert "credential of this gateway" in done.stderr
            assert all(secret not in done.stderr for secret in given.values())


async def test_a_reload_refuses_it_too_and_a_neighbour_passes(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    file, port = tmp_path / "gateway.toml", free_port()
    ring, _ = ensure_ring(tmp_path / "keys")
    neighbour = credential_of(KeyRing.ephemeral())

    def write(**changes: Any) -> None:
        access = {"base_url": upstream.base_url, "api_key": neighbour} | changes
        lines = "".join(f'{name} = "{value}"\n' for name, value in access.items())
        file.write_text(f"[tenants.acme.upstream]\n{lines}[upstream]\nbase_url = '{upstream.base_url}'\n")

    write()
    async with running_command(
        *("serve", "--config", str(file), "--listen", f"127.0.0.1:{port}", "--admin-listen", "127.0.0.1:0"),
        *("--keys-dir", str(tmp_path / "keys")),
    ) as serving:
        assert any(f"upstream {upstream.base_url}" in line for line in serving.stderr), "it says what it asks"
        write(base_url=f"http://localhost:{port}/v1")
        await serving.says("tenants.acme.upstream.base_url")
        write(api_key=credential_of(ring))
        await serving.says("tenants.acme.upstream.api_key")
