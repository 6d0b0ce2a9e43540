"""Secrets stay secret: unique strings wherever one can stand, looked for wherever one could come out.

One real `gateway serve` goes through a day's worth of trouble; then every place is searched.
"""

from __future__ import annotations

import asyncio
import gzip
import secrets
import signal
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
import pytest_asyncio

from gateway.credentials.key_ring import ensure_ring
from gateway.wire.frame_format import accept_key
from tests.kit.asking import credential_of, form
from tests.kit.client import CHAT, FORM, HANDSHAKE, JSON, RawAnswer, RawClient
from tests.kit.command import RunningCommand, run_command, running_command
from tests.kit.redis import running_redis
from tests.kit.upstream import ScriptedUpstream, Turn

pytestmark = pytest.mark.asyncio(loop_scope="module")


def canary(name: str, prefix: str = "") -> str:
    return f"{prefix}CANARY{name}{secrets.token_hex(8)}"


@dataclass
class Canaries:
    """What must stay where it is. By purpose."""

    upstream_key: str = field(default_factory=lambda: canary("upstream", "sk-"))
    tenant_key: str = field(default_factory=lambda: canary("tenant", "sk-"))
    admin_key: str = field(default_factory=lambda: canary("admin", "sk-admin-"))
    redis_password: str = field(default_factory=lambda: canary("redis"))
    minted: str = field(default_factory=lambda: canary("minted", "ek_"))
    mistaken_key: str = field(default_factory=lambda: canary("mistaken", "sk-"))
    prompt: str = field(default_factory=lambda: canary("prompt"))
    answer: str = field(default_factory=lambda: canary("answer"))
    query: str = field(default_factory=lambda: canary("query"))
    file: str = field(default_factory=lambda: canary("file"))
    cookie: str = field(default_factory=lambda: canary("cookie"))
    header: str = field(default_factory=lambda: canary("header"))
    subprotocol: str = field(default_factory=lambda: canary("subprotocol"))
    upstream_error: str = field(default_factory=lambda: canary("error"))
    broken: str = field(default_factory=lambda: canary("broken"))
    configuration: str = field(default_factory=lambda: canary("configuration", "sk-"))
    credential: str = ""
    """The signature of a good credential: who has it, has the whole."""

    expired: str = ""


OURS = ("upstream_key", "tenant_key", "admin_key", "redis_password", "minted", "configuration")
"""What no answer may ever show."""


@dataclass
class Story:
    """What came out, by place."""

    canaries: Canaries
    places: dict[str, bytes] = field(default_factory=dict)
    answers: dict[str, bytes] = field(default_factory=dict)
    """Head and body of every answer, by what was asked."""

    statuses: dict[str, int] = field(default_factory=dict)
    sent_up: list[bytes] = field(default_factory=list)


def saying(
    status: int, body: bytes, *, fields: bytes = b"", chunked: bool = False
) -> Callable[[Turn], Awaitable[None]]:
    """A script: one answer to everything."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        head = b"HTTP/1.1 %d Said\r\nContent-Type: application/json\r\n%b" % (status, fields)
        if chunked:
            await turn.send(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for at in range(0, len(body), 10):
                await turn.chunk(body[at : at + 10])
            await turn.send(b"0\r\n\r\n")
        else:
            await turn.send(head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    return script


def raw(data: bytes) -> Callable[[Turn], Awaitable[None]]:
    """A script: these bytes, and gone."""

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(data)
        turn.close()

    return script


async def accepting(turn: Turn) -> None:
    """A script: accept a WebSocket, and hang up."""
    accept = accept_key(turn.seen.get("sec-websocket-key") or "").encode()
    await turn.send(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Protocol: realtime\r\nSec-WebSocket-Accept: %b\r\n\r\n\x88\x02\x03\xe8" % accept
    )
    await asyncio.sleep(0.1)
    turn.close()


@dataclass
class Teller:
    """Asks the gateway everything, and keeps what it says."""

    story: Story
    process: RunningCommand
    upstream: ScriptedUpstream
    credentials: dict[str, str]

    async def ask(
        self,
        name: str,
        method: str,
        target: str,
        body: bytes | None = None,
        *,
        script: Callable[[Turn], Awaitable[None]] | None = None,
        headers: str = JSON,
        credential: str = "good",
    ) -> RawAnswer:
        if script is not None:
            self.upstream.plays(script)
        credential = self.credentials.get(credential, credential)
        async with await RawClient.connect(self.process.host, self.process.port, credential) as client:
            answer = await client.request(method, target, body, headers=headers)
        head = "".join(f"{field}: {value}\n" for field, value in answer.fields)
        self.story.answers[name] = head.encode() + answer.body
        if (answer.get("content-encoding") or "") in ("gzip", "deflate"):
            self.story.answers[name] += zlib.decompressobj(wbits=47).decompress(answer.body)
        self.story.statuses[name] = answer.status
        return answer

    async def send(self, name: str, data: bytes) -> None:
        """Bytes that are no request."""
        async with await RawClient.connect(self.process.host, self.process.port) as client:
            await client.send(data)
            try:
                answer = await client.read_answer()
                self.story.answers[name] = answer.body
                self.story.statuses[name] = answer.status
            except (asyncio.IncompleteReadError, ConnectionError):
                self.story.statuses[name] = 0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def story(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Story]:
    """The whole day."""
    directory = tmp_path_factory.mktemp("canaries")
    canaries = Canaries()
    told = Story(canaries)
    ring, _ = ensure_ring(directory / "keys")
    named = {"tenant": "acme", "subject": "alice"}
    credentials = {
        "good": credential_of(ring, **named),
        "owner": credential_of(ring, tenant="owner"),
        "restricted": credential_of(ring, models=["good"], **named),
        "expired": credential_of(ring, clock=lambda: 1_700_000_000.0, **named),
    }
    canaries.credential = credentials["good"].rsplit(".", 1)[1]
    canaries.expired = credentials["expired"].rsplit(".", 1)[1]
    secret = directory / "admin-key"
    secret.write_text(canaries.admin_key)
    async with ScriptedUpstream() as upstream:
        with running_redis("--requirepass", canaries.redis_password) as redis:
            url = redis.url.replace("redis://", f"redis://:{canaries.redis_password}@")
            config = directory / "gateway.toml"
            config.write_text(
                f'redis_url = "env:LIMITS"\ndrain_notice_seconds = 0\n'
                f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "env:KEY"\n'
                f'admin_api_key = "file:{secret}"\nfirst_byte_timeout_seconds = 1\n'
                '[tenants.acme]\nscopes = ["*", "org.*", "realtime:mint", "unlisted:*"]\nmetering = true\n'
                "limits.max_requests_per_1_minute = 1000\n"
                f'[tenants.owner]\nscopes = ["*"]\nupstream.api_key = "{canaries.tenant_key}"\n'
                'stored_objects = "own"\n'
            )
            async with running_command(
                *("serve", "--config", str(config), "--keys-dir", str(directory / "keys")),
                *("--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"),
                KEY=canaries.upstream_key,
                LIMITS=url,
                PYTHONASYNCIODEBUG="1",
                PYTHONWARNINGS="always",
            ) as process:
                teller = Teller(told, process, upstream, credentials)
                await ordinary(teller, canaries)
                await refused(teller, canaries)
                await upstream_in_trouble(teller, canaries)
                await upstream_that_talks(teller, canaries)
                redis.stop()
                for number in range(3):
                    await teller.ask(
                        f"without redis {number}", "GET", "/v1/models", script=saying(200, b"{}"), headers=""
                    )
                await asyncio.sleep(1.2)
                config.write_text(
                    f'redis_url = "redis://:{canaries.configuration}@h:port/0"\nupstream = "{canaries.configuration}"\n'
                    f'[tenants.acme]\nupstream.api_keys = "{canaries.configuration}"\n'
                    f'upstream.base_url = "http://u:{canaries.configuration}@h/v1"\n'
                )
                process.signal(signal.SIGHUP)
                await process.says("not reloaded", within_seconds=3)
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(f"http://127.0.0.1:{process.admin_port}/metrics") as metrics,
                ):
                    told.places["metrics"] = await metrics.read()
                pid = process.process.pid
                told.places["command line"] = Path(f"/proc/{pid}/cmdline").read_bytes()
                told.places["status"] = Path(f"/proc/{pid}/status").read_bytes()
                process.signal(signal.SIGTERM)
                await process.exit_code()
            told.places["log"] = "\n".join(process.stdout).encode()
            told.places["standard error"] = "\n".join(process.stderr).encode()
        await commands(told, directory, config, credentials, canaries, upstream)
        told.sent_up = [sent.raw_head for sent in upstream.requests]
    yield told


async def ordinary(teller: Teller, canaries: Canaries) -> None:
    """What works."""
    prompt = {
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": canaries.prompt}],
        "user": canaries.prompt,
    }
    extra = (
        JSON
        + f"Cookie: a={canaries.cookie}\r\nX-API-Key: {canaries.cookie}\r\nX-Trace: {canaries.header}\r\n"
    )
    said = orjson.dumps(
        {"choices": [{"message": {"content": canaries.answer}}], "usage": {"total_tokens": 3}}
    )
    await teller.ask("chat", "POST", CHAT, orjson.dumps(prompt), headers=extra, script=saying(200, said))
    events = b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\ndata: [DONE]\n\n' % canaries.answer.encode()
    await teller.ask(
        "stream",
        "POST",
        CHAT,
        orjson.dumps(prompt | {"stream": True}),
        script=raw(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b"
            % (len(events), events)
        ),
    )
    await teller.ask(
        "own key", "GET", "/v1/models", headers="", credential="owner", script=saying(200, b"{}")
    )
    await teller.ask("query", "GET", f"/v1/files?after={canaries.query}&{canaries.query}=1", headers="")
    upload = form(("purpose", canaries.file.encode()), ("file", canaries.file.encode()), file_at=1)
    await teller.ask("upload", "POST", "/v1/files", upload, headers=FORM)
    await teller.ask("unlisted", "GET", f"/v1/x{canaries.query}?{canaries.query}", headers="")
    await teller.ask("administration", "GET", f"/v1/organization/users?after={canaries.query}", headers="")
    await teller.ask("me", "GET", f"/gateway/me?x={canaries.query}", headers="")
    await teller.ask("jwks", "GET", "/.well-known/jwks.json", headers="")
    await teller.ask("usage", "GET", "/gateway/usage", headers="")
    secret = orjson.dumps({"value": canaries.minted, "expires_at": 4_000_000_000})
    minted = await teller.ask(
        "minted", "POST", "/v1/realtime/client_secrets", b"{}", script=saying(200, secret)
    )
    teller.credentials["minted"] = orjson.loads(minted.body)["value"]
    teller.upstream.plays(accepting)
    offered = f"realtime, openai-insecure-api-key.{teller.credentials['good']}, openai-beta.realtime-v1"
    await teller.send(
        "socket by subprotocol",
        f"GET /v1/realtime?model=gpt-realtime HTTP/1.1\r\nHost: gateway.test\r\n{HANDSHAKE}"
        f"Sec-WebSocket-Protocol: {offered}, openai-organization.{canaries.subprotocol}\r\n\r\n".encode(),
    )


async def refused(teller: Teller, canaries: Canaries) -> None:
    """What the gateway refuses, for reasons that lie near a secret."""
    prompt = canaries.prompt.encode()
    for name, credential in (
        ("expired", "expired"),
        ("mistaken key", canaries.mistaken_key),
        ("truncated", teller.credentials["good"][:-1]),
        ("with blanks", f"{canaries.mistaken_key} {canaries.mistaken_key}"),
        ("twice", f"{teller.credentials['good']}, Bearer {canaries.mistaken_key}"),
    ):
        await teller.ask(name, "GET", f"/v1/models?{canaries.query}", headers="", credential=credential)
    await teller.ask(
        "basic", "GET", "/v1/models", headers=f"Authorization: Basic {canaries.mistaken_key}\r\n"
    )
    for name, body in (
        ("broken json", b'{"messages":"%b' % prompt),
        ("twice named", b'{"model":"a","model":"b","x":"%b"}' % prompt),
        ("no object", b'["%b"]' % prompt),
        ("bad type", b'{"n":"%b"}' % prompt),
        ("not utf-8", b'{"x":"%b\xff"}' % prompt),
        ("store", b'{"model":"m","store":true,"x":"%b"}' % prompt),
    ):
        await teller.ask(name, "POST", CHAT, body, script=saying(200, b"{}"))
    await teller.ask("model", "POST", CHAT, b'{"model":"bad","x":"%b"}' % prompt, credential="restricted")
    broken = form(("model", b"bad"), ("prompt", prompt)).replace(b"form-data", prompt)
    await teller.ask(
        "broken form", "POST", "/v1/audio/transcriptions", broken, headers=FORM, credential="restricted"
    )
    await teller.ask("target", "GET", f"/v1/a//{canaries.query}", headers="")
    await teller.ask("nowhere", "GET", f"/{canaries.query}", headers="")
    await teller.ask(
        "method", "TRACE", f"/v1/models?{canaries.query}", headers=f"X-Trace: {canaries.header}\r\n"
    )
    authorization = f"Authorization: Bearer {teller.credentials['good']}\r\n".encode()
    host = b"Host: gateway.test\r\n"
    query = canaries.query.encode()
    for name, data in (
        ("no colon", b"GET /v1/models?%b HTTP/1.1\r\n%bAuthorization Bearer %b\r\n\r\n" % (query, host, query)),
        ("bad line", b"GET /v1/models?%b HTTP/1.1 %b\r\n%b%b\r\n" % (query, query, host, authorization)),
        ("bad name", b"GET /v1/models HTTP/1.1\r\n%b%bX %b: %b\r\n\r\n" % (host, authorization, query, query)),
        ("bad value", b"GET /v1/models HTTP/1.1\r\n%b%bX: %b\x00\r\n\r\n" % (host, authorization, query)),
        ("bad length", b"POST /v1/models HTTP/1.1\r\n%b%bContent-Length: %b\r\n\r\n" % (host, authorization, query)),
        ("bad chunk", b"POST /v1/embeddings HTTP/1.1\r\n%b%bTransfer-Encoding: chunked\r\n\r\n%b\r\n"
         % (host, authorization, prompt)),
        ("bad version", b"GET /v1/models?%b HTTP/7.7\r\n%b%b\r\n" % (query, host, authorization)),
        ("long header", b"GET /v1/models HTTP/1.1\r\n%b%bX: %b%b\r\n\r\n" % (host, authorization, query, b"x" * 20000)),
        ("long line", b"GET /v1/models?%b%b HTTP/1.1\r\n%b%b\r\n" % (query, b"x" * 20_000, host, authorization)),
        ("not http", b"\x16\x03\x01" + prompt + b"\r\n\r\n"),
    ):  # fmt: skip
        await teller.send(name, data)


async def upstream_in_trouble(teller: Teller, canaries: Canaries) -> None:
    """An upstream that breaks in the middle of something that nobody should read."""
    said = canaries.broken.encode()
    ok = b"HTTP/1.1 200 OK\r\n"
    for name, data in (
        ("broken chunk", ok + b"Transfer-Encoding: chunked\r\n\r\n%b\r\n" % said),
        ("broken chunk later", ok + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n%b\r\n" % said),
        ("broken header", ok + b"%b\r\n\r\n" % said),
        ("broken header name", ok + b"X %b: y\r\n\r\n" % said),
        ("broken status", b"HTTP/1.1 %b\r\n\r\n" % said),
        ("broken length", ok + b"Content-Length: %b\r\n\r\n" % said),
        ("no http", said + b"\r\n\r\n"),
        ("short body", ok + b"Content-Length: 1000\r\n\r\n%b" % said),
        ("two lengths", ok + b"Content-Length: 3\r\nContent-Length: 4\r\nX: %b\r\n\r\nabc" % said),
        ("nothing", b""),
    ):
        body = b'{"model":"m","x":"%b"}' % canaries.prompt.encode()
        teller.upstream.plays(raw(data))
        try:
            await teller.ask(name, "POST", CHAT, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            teller.story.statuses[name] = 0
    for name, head in (
        ("wrong accept", b"Sec-WebSocket-Accept: %b\r\n" % said),
        ("wrong subprotocol", b"Sec-WebSocket-Accept: x\r\nSec-WebSocket-Protocol: %b\r\n" % said),
    ):
        switching = b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n%b\r\n" % head
        await teller.ask(
            name, "GET", f"/v1/realtime?model=m&x={canaries.query}", headers=HANDSHAKE, script=raw(switching)
        )


async def upstream_that_talks(teller: Teller, canaries: Canaries) -> None:
    """An upstream whose errors quote what it was sent."""

    def quoting(secret: str, words: str = "Incorrect API key provided") -> bytes:
        return orjson.dumps({"error": {"message": f"{words}: {secret}", "code": "invalid_api_key"}})

    key = quoting(canaries.upstream_key)
    compressed = zlib.compressobj(wbits=-15)
    for name, script in (
        ("401", saying(401, key)),
        ("401 chunked", saying(401, key, chunked=True)),
        ("403", saying(403, key)),
        ("403 chunked", saying(403, key, chunked=True)),
        ("403 gzip", saying(403, gzip.compress(key), fields=b"Content-Encoding: gzip\r\n")),
        ("403 zlib", saying(403, zlib.compress(key), fields=b"Content-Encoding: deflate\r\n")),
        (
            "403 deflate",
            saying(
                403, compressed.compress(key) + compressed.flush(), fields=b"Content-Encoding: deflate\r\n"
            ),
        ),
        ("403 brotli", saying(403, b"\x0b\x80" + key + b"\x03", fields=b"Content-Encoding: br\r\n")),
        ("403 in other words", saying(403, quoting(canaries.upstream_key, "May not do this"))),
        ("400", saying(400, quoting(canaries.upstream_key, "Bad header Authorization: Bearer"))),
        ("429 chunked", saying(429, quoting(canaries.upstream_key, "Slow down"), chunked=True)),
        ("500", saying(500, quoting(canaries.upstream_key, "Failed for"))),
        ("500 late", saying(500, b" " * 60_000 + key)),
    ):
        await teller.ask(f"upstream says {name}", "POST", CHAT, b'{"model":"m"}', script=script)
        await teller.ask(
            f"upstream says {name} to an upgrade", "GET", "/v1/realtime?model=m", headers=HANDSHAKE
        )
    for status in (400, 401, 403):
        own = saying(status, quoting(canaries.tenant_key, "Not with this key"))
        await teller.ask(f"own key {status}", "GET", "/v1/models", headers="", credential="owner", script=own)
        admin = saying(status, quoting(canaries.admin_key, "Not with this"))
        await teller.ask(f"admin key {status}", "GET", "/v1/organization/users", headers="", script=admin)
        minted = saying(status, quoting(canaries.minted, "Not with this"))
        await teller.ask(
            f"minted {status}",
            "GET",
            "/v1/realtime?model=m",
            headers=HANDSHAKE,
            credential="minted",
            script=minted,
        )
    error = orjson.dumps({"error": {"message": canaries.upstream_error, "code": canaries.upstream_error}})
    for status in (400, 404, 429, 500, 503):
        await teller.ask(f"error {status}", "POST", CHAT, b'{"model":"m"}', script=saying(status, error))


async def commands(
    told: Story,
    directory: Path,
    config: Path,
    credentials: dict[str, str],
    canaries: Canaries,
    upstream: ScriptedUpstream,
) -> None:
    """What an operator runs beside it."""
    config.write_text(
        f'redis_url = "redis://:{canaries.redis_password}@127.0.0.1:1/0"\nkeys_dir = "{directory / "keys"}"\n'
        f'[upstream]\nbase_url = "{upstream.base_url}"\napi_key = "{canaries.upstream_key}"\n'
        f'admin_api_key = "{canaries.admin_key}"\n[tenants.acme]\n'
    )
    asked = [
        (*arguments, "--config", str(config))
        for arguments in (
            ("check",),
            ("explain", "GET", f"/v1/files?{canaries.query}"),
            ("credential", "inspect"),
        )
    ]
    done = await asyncio.gather(
        *(run_command(*arguments, GATEWAY_CREDENTIAL=credentials["good"]) for arguments in asked),
        run_command(*asked[1], GATEWAY_CREDENTIAL=credentials["expired"]),
    )
    shown = [command.stdout + command.stderr for command in done]
    assert any("acme" in text for text in shown)
    told.places["commands"] = "\n".join(shown).encode()


PLACES = ("log", "standard error", "metrics", "command line", "status", "commands")
NAMES = tuple(Canaries.__dataclass_fields__)


async def test_the_day_went_as_it_should(story: Story) -> None:
    """Else the search below would find nothing in nothing."""
    statuses = story.statuses

    assert len(statuses) > 90
    assert {
        statuses[name] for name in ("chat", "stream", "own key", "query", "upload", "administration")
    } == {200}
    assert statuses["socket by subprotocol"] == 101
    assert {statuses[name] for name in ("expired", "mistaken key", "truncated")} == {401}
    assert {statuses[f"upstream says {name}"] for name in ("401", "401 chunked")} == {502}
    assert len(story.places["log"].splitlines()) > 80
    assert b"gateway_exchanges_total" in story.places["metrics"]
    assert b"serve" in story.places["command line"]
    assert b"configuration not reloaded" in story.places["standard error"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", NAMES)
async def test_canary_is_in_no_place_that_people_read(story: Story, place: str, name: str) -> None:
    secret = getattr(story.canaries, name).encode()
    assert len(secret) > 16
    found = story.places[place].find(secret)

    around = story.places[place][max(0, found - 300) : found + 200]
    assert found < 0, around.decode(errors="replace")


@pytest.mark.parametrize("name", OURS)
async def test_no_answer_shows_a_secret_of_the_gateways_own(story: Story, name: str) -> None:
    secret = getattr(story.canaries, name).encode()

    assert [asked for asked, answer in story.answers.items() if secret in answer] == []


async def test_no_answer_shows_a_credential_or_what_was_asked_in_the_query(story: Story) -> None:
    canaries = story.canaries
    for secret in (
        canaries.credential,
        canaries.expired,
        canaries.mistaken_key,
        canaries.query,
        canaries.cookie,
    ):
        assert [asked for asked, answer in story.answers.items() if secret.encode() in answer] == []


async def test_what_the_upstream_says_in_its_own_errors_passes(story: Story) -> None:
    for status in (400, 404, 429, 500, 503):
        assert story.statuses[f"error {status}"] == status
        assert story.canaries.upstream_error.encode() in story.answers[f"error {status}"]


@pytest.mark.parametrize(
    "name",
    ["credential", "expired", "mistaken_key", "cookie", "redis_password", "subprotocol", "configuration"],
)
async def test_nothing_of_this_goes_up(story: Story, name: str) -> None:
    secret = getattr(story.canaries, name).encode()

    assert len(story.sent_up) > 40
    assert [head for head in story.sent_up if secret in head] == []


async def test_each_key_goes_up_where_it_belongs_and_nowhere_else(story: Story) -> None:
    canaries = story.canaries
    for head in story.sent_up:
        opened_by = [
            name
            for name in ("upstream_key", "tenant_key", "admin_key", "minted")
            if getattr(canaries, name).encode() in head
        ]
        assert len(opened_by) == 1, head
        assert (opened_by == ["admin_key"]) is (b" /v1/organization/" in head)


async def test_no_traceback_and_no_warning_of_the_runtime_was_written(story: Story) -> None:
    said = story.places["standard error"].decode()

    assert "Traceback" not in said
    assert "never retrieved" not in said
    assert "never awaited" not in said
    assert "ResourceWarning" not in said


async def test_every_purpose_has_a_string_of_its_own() -> None:
    values: list[Any] = [getattr(Canaries(), name) for name in NAMES if name not in ("credential", "expired")]

    assert len({*values}) == len(values)
