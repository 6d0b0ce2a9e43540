"""What runs ends within two seconds when what it runs on is taken away; what merely expires goes on."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
import openai
import orjson
import pytest

from gateway.credentials.key_ring import KeyRing, ensure_ring, retire, rotate
from gateway.credentials.revocation_file import RevocationFile
from gateway.credentials.revocations import Revocation
from gateway.exchange.exchange import Exchange
from gateway.proxy.lifecycle import Interrupted
from tests.kit.asking import assert_refused, form
from tests.kit.client import CHAT, FORM, HANDSHAKE, JSON, STREAMED_QUESTION, RawAnswer, RawClient
from tests.kit.gateway import Gateway, running_gateway
from tests.kit.jwks import LOGIN, THEIRS
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn, says
from tests.kit.waiting import until
from tests.kit.websocket import CLOSE, TEXT, accepted, frame, read_frame, read_to_the_end, shake_hands

SOON_SECONDS = 2.0
HALF = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000\r\n\r\nhalf"


async def runs_on(turn: Turn) -> None:
    """The upstream of everything here: it begins, and never ends by itself."""
    if turn.seen.get("upgrade"):
        await turn.send(accepted(turn))
    elif turn.seen.target.startswith("/v1/audio/speech"):
        await turn.read_body()
        await turn.send(HALF)
    elif turn.seen.target.startswith("/v1/chat"):
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(b"data: 1\n\n")
    await turn.gone()


@dataclass
class Begun:
    """One of each kind of exchange, under way at one gateway."""

    stream: RawClient
    download: RawClient
    waiting: RawClient
    upload: RawClient
    socket: RawClient
    heads: dict[str, RawAnswer] = field(default_factory=dict)

    async def endings(self, within_seconds: float = SOON_SECONDS) -> tuple[Any, ...]:
        """How each of them ends: what the client sees of it."""
        async with asyncio.timeout(within_seconds):
            await self.stream.read_body(self.heads["stream"])
            await self.download.read_body(self.heads["download"])
            waiting = await self.waiting.read_answer()
            upload = await self.upload.read_answer()
            closes = [seen for seen in await read_to_the_end(self.socket.reader) if seen.opcode == CLOSE]
        assert not self.heads["stream"].clean_end
        assert self.heads["stream"].chunks == [b"data: 1\n\n"], "cut between two events"
        assert not self.heads["download"].clean_end
        return waiting, upload, closes


@dataclass
class Site:
    """A gateway that follows its files, and an operator who edits them."""

    gateway: Gateway
    upstream: ScriptedUpstream
    file: Path
    keys_dir: Path
    ring: KeyRing
    credential_id: str = ""

    def write(self, **changes: Any) -> None:
        """A configuration in which `changes` are members of the tenant acme; None: it is not there."""
        write(self.file, **changes)

    async def start(self, credential: str | None = None) -> Begun:
        """Begin one of each, as acme."""
        self.upstream.plays(runs_on)
        credential = credential or self.gateway.credential()
        self.credential_id = jwt.decode(credential, options={"verify_signature": False})["jti"]
        clients = [await self.gateway.connect() for _ in range(5)]
        stream, download, waiting, upload, socket = clients
        running = Begun(stream, download, waiting, upload, socket)
        for client in clients:
            client.credential = credential
        await running.stream.send(running.stream.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        running.heads["stream"] = await running.stream.read_head()
        speech = b'{"model":"gpt-4o-mini-tts","input":"hello","voice":"alloy"}'
        await running.download.send(
            running.download.request_bytes("POST", "/v1/audio/speech", speech, headers=JSON)
        )
        running.heads["download"] = await running.download.read_head()
        question = b'{"model":"text-embedding-3-small","input":"hello"}'
        await running.waiting.send(
            running.waiting.request_bytes("POST", "/v1/embeddings", question, headers=JSON)
        )
        assert {head.status for head in running.heads.values()} == {200}
        head = running.upload.request_bytes(
            "POST",
            "/v1/files",
            headers="Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n",
        )
        await running.upload.send(head + b"--x\r\n")
        assert (await shake_hands(running.socket)).status == 101
        await until(lambda: len(self.upstream.requests) == 5)
        return running


def write(file: Path, *, present: bool = True, beside: str = "", **changes: Any) -> None:
    changes = {"stored_objects": "own"} | changes
    lines = [
        f"{name} = {orjson.dumps(value).decode()}" for name, value in changes.items() if value is not None
    ]
    acme = "\n".join(("[tenants.acme]", *lines)) if present else ""
    new = file.with_suffix(".new")
    new.write_text(f"{acme}\n[tenants.bystander]\nupstream.api_key = 'sk-own'\n{beside}\n")
    new.replace(file)


@asynccontextmanager
async def running_site(directory: Path, upstream: ScriptedUpstream, **changes: Any) -> AsyncIterator[Site]:
    file, keys_dir = directory / "gateway.toml", directory / "keys"
    write(file, **changes)
    ring, _ = ensure_ring(keys_dir)
    access = {"base_url": upstream.base_url, "api_key": "sk-upstream-key"}
    async with running_gateway(ring=ring, keys_dir=keys_dir, file=file, upstream=access) as gateway:
        yield Site(gateway, upstream, file, keys_dir, ring)


async def revoke(site: Site, **what: Any) -> None:
    await RevocationFile(site.keys_dir).add(Revocation(until=int(time.time()) + 1000, **what))


TAKEN: dict[str, tuple[Callable[[Site], Any], int, str]] = {
    "credential revoked": (
        lambda site: revoke(site, credential=site.credential_id),
        401,
        "revoked_api_key",
    ),
    "subject revoked": (
        lambda site: revoke(site, tenant="acme", subject="tester", before=int(time.time()) + 1),
        401,
        "revoked_api_key",
    ),
    "tenant disabled": (lambda site: site.write(enabled=False), 403, "tenant_disabled"),
    "tenant removed": (lambda site: site.write(present=False), 403, "unknown_tenant"),
    "scopes narrowed": (lambda site: site.write(scopes=["models:read"]), 403, "missing_scope"),
}


@pytest.mark.parametrize("way", TAKEN)
async def test_everything_that_runs_ends_when_its_rights_are_taken_away(
    way: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    take, status, code = TAKEN[way]
    async with running_site(tmp_path, upstream) as site:
        running = await site.start()

        done = take(site)
        if done is not None:
            await done
        waiting, upload, closes = await running.endings(within_seconds=SOON_SECONDS + 1)

        assert_refused(waiting, status, code)
        assert_refused(upload, status, code)
        assert [(close.code, code in close.reason) for close in closes] == [(1008, True)]
        assert await upstream.all_closed()
        lines = await site.gateway.lines.wait(5)
        assert {line["ending"] for line in lines} == {"withdrawn"}
        assert sorted(line.get("error", "") for line in lines) == ["", code, code, code, code]


NARROWED: dict[str, dict[str, Any]] = {
    "no models": {"models": []},
    "other models": {"models": ["gpt-5*", "whisper-1"]},
}


@pytest.mark.parametrize("way", NARROWED)
async def test_a_model_that_is_taken_away_ends_what_runs_on_it(
    way: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream, models=["*"]) as site:
        running = await site.start()

        site.write(**NARROWED[way])
        async with asyncio.timeout(SOON_SECONDS + 1):
            await running.stream.read_body(running.heads["stream"])
            waiting = await running.waiting.read_answer()
            told = [seen for seen in await read_to_the_end(running.socket.reader) if seen.opcode == CLOSE]

        assert not running.heads["stream"].clean_end
        assert_refused(waiting, 403, "model_not_allowed")
        assert [close.code for close in told] == [1008]


async def test_what_is_still_allowed_goes_on_when_rules_change(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream, models=["gpt-4o*", "text-*"]) as site:
        upstream.plays(runs_on)
        client, socket = await site.gateway.connect(), await site.gateway.connect()
        await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        assert (await client.read_head()).status == 200
        assert await client.read_chunk() == b"data: 1\n\n"
        assert (await shake_hands(socket, target="/v1/realtime?model=gpt-4o-realtime")).status == 101

        site.write(models=["gpt-4o*"])
        reading, hearing = (
            asyncio.create_task(client.read_chunk()),
            asyncio.create_task(socket.reader.read(1)),
        )
        wider = {"models": ["gpt-4*"], "scopes": ["inference", "realtime:*", "files:*"], "name": "Acme"}
        await asyncio.sleep(SOON_SECONDS)
        assert not reading.done()
        assert hearing.done(), "a session may have come to use what is gone by its events"
        site.write(**wider)
        await until(lambda: site.gateway.app.services.tenants.get("acme").models == ("gpt-4*",))
        socket = await site.gateway.connect()
        assert (await shake_hands(socket, target="/v1/realtime?model=gpt-4o")).status == 101
        hearing = asyncio.create_task(socket.reader.read(1))
        site.write(**(wider | {"models": ["gpt-*"]}))
        await until(lambda: site.gateway.app.services.tenants.get("acme").models == ("gpt-*",))
        await asyncio.sleep(0.5)

        assert not reading.done()
        assert not hearing.done(), "wider rules end nothing"
        reading.cancel()
        hearing.cancel()


async def streaming(site: Site, path: str, asked: object) -> RawClient:
    """A request whose answer has begun."""
    site.upstream.plays(says())
    client = await site.gateway.connect()
    await client.send(client.request_bytes("POST", path, orjson.dumps(asked), headers=JSON))
    assert (await client.read_head()).status == 200
    return client


async def test_what_a_body_names_beside_its_model_is_judged_again(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    body = {"model": "gpt-4o", "stream": True, "input": "hi"}
    image = {**body, "tools": [{"type": "image_generation", "model": "gpt-image-1"}]}
    large = {**image, "input": "x" * 100_000}
    async with running_site(tmp_path, upstream, models=["*"]) as site:
        clients = [await streaming(site, "/v1/responses", asked) for asked in (body, image, large)]
        plain, *others = [asyncio.create_task(client.closed()) for client in clients]

        site.write(models=["gpt-4o"])
        async with asyncio.timeout(SOON_SECONDS + 1):
            assert all(await asyncio.gather(*others))
        assert not plain.done()
        plain.cancel()


async def test_the_model_of_a_form_is_judged_again(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with running_site(tmp_path, upstream) as site:
        upstream.plays(runs_on)
        client = await site.gateway.connect()
        body = form(("model", b"whisper-1"), ("file", b"RIFF"))
        await client.send(client.request_bytes("POST", "/v1/audio/transcriptions", body, headers=FORM))
        await until(lambda: upstream.requests)

        site.write(models=["gpt-4o*"])

        assert_refused(await client.read_answer(), 403, "model_not_allowed")


async def test_a_batch_needs_the_scope_of_what_it_runs_for_as_long_as_it_takes(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    batch = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"}
    async with running_site(tmp_path, upstream) as site:
        client = await streaming(site, "/v1/batches", batch)

        site.write(scopes=["batches:*", "responses:*"])
        async with asyncio.timeout(SOON_SECONDS + 1):
            assert await client.closed()

        [line] = await site.gateway.lines.wait(1)
        assert (line["error"], line["ending"]) == ("missing_scope", "withdrawn")


async def test_a_tenant_that_comes_to_share_its_key_ends_what_uses_stored_objects(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:
        upstream.plays(runs_on)
        stored, stream, socket = [await site.gateway.connect() for _ in range(3)]
        await stored.send(stored.request_bytes("GET", "/v1/files/file-1/content"))
        await stream.send(stream.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        assert (await stream.read_head()).status == 200
        assert await stream.read_chunk() == b"data: 1\n\n"
        assert (await shake_hands(socket)).status == 101
        reading = asyncio.create_task(stream.read_chunk())

        site.write(stored_objects=None)
        async with asyncio.timeout(SOON_SECONDS + 1):
            refused = await stored.read_answer()
            told = [seen for seen in await read_to_the_end(socket.reader) if seen.opcode == CLOSE]

        assert_refused(refused, 403, "shared_upstream")
        assert [(close.code, "shared_upstream" in close.reason) for close in told] == [(1008, True)]
        assert not reading.done()
        reading.cancel()


async def test_a_body_that_is_still_coming_is_judged_by_the_rules_that_came_meanwhile(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    """It is judged by those with which it began, and ends a second later at most."""
    async with running_site(tmp_path, upstream) as site:
        upstream.plays(runs_on)
        client = await site.gateway.connect()
        asked = client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON)
        await client.send(asked[:-10])
        await until(lambda: site.gateway.app.services.lifecycle.running)
        site.write(models=["other"])
        await until(lambda: site.gateway.app.services.tenants.get("acme").models == ("other",))
        await asyncio.sleep(0.1)

        await client.send(asked[-10:])
        async with asyncio.timeout(SOON_SECONDS):
            await client.closed()

        [line] = await site.gateway.lines.wait(1)
        assert (line["error"], line["ending"]) in {
            ("model_not_allowed", "withdrawn"),
            ("model_not_allowed", "refused"),
        }


def of_login(*, lives_seconds: int = 600, **claims: Any) -> str:
    now = int(time.time())
    scope = "chat.completions:write audio.speech:write embeddings:write files:write realtime:write"
    body = {
        "iss": LOGIN,
        "aud": "gateway",
        "sub": "bob",
        "scope": scope,
        "iat": now,
        "exp": now + lives_seconds,
    }
    return jwt.encode(body | claims, jwt.PyJWK(THEIRS.jwk()), THEIRS.algorithm, headers={"kid": THEIRS.kid})


def issuer(**members: Any) -> str:
    members = {"scopes": ["inference", "files:*", "realtime:*"], **members}
    lines = [f"{name} = {orjson.dumps(value).decode()}" for name, value in members.items()]
    jwk = ", ".join(f'{name} = "{value}"' for name, value in (THEIRS.public_jwk() or {}).items())
    head = (
        f'[issuers.login]\nissuer = "{LOGIN}"\naudience = "gateway"\ntenant = "acme"\njwks = [{{ {jwk} }}]\n'
    )
    return head + "\n".join(lines)


@pytest.mark.parametrize(
    ("beside", "status", "code"),
    [
        ("", 401, "invalid_api_key"),
        (issuer(scopes=["models:read"]), 403, "missing_scope"),
        (issuer().replace(LOGIN, "https://other.example"), 401, "invalid_api_key"),
        (issuer().replace('tenant = "acme"', 'tenant = "bystander"'), 401, "invalid_api_key"),
    ],
    ids=["removed", "scopes narrowed", "another", "another tenant"],
)
async def test_an_issuer_that_may_say_less_ends_what_runs_on_its_word(
    beside: str, status: int, code: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:
        write(site.file, beside=issuer())
        await until(lambda: LOGIN in site.gateway.app.services.trust.verifier._issuers)
        running = await site.start(of_login(jti="one"))

        write(site.file, beside=beside)
        waiting, _, closes = await running.endings(within_seconds=SOON_SECONDS + 1)

        assert_refused(waiting, status, code)
        assert [(close.code, code in close.reason) for close in closes] == [(1008, True)]


def issuer_of_subjects(pattern: str = "bob", **members: Any) -> str:
    """The same issuer, whose subjects alone say what they get."""
    members = {"tenant": "acme", "scopes": ["inference", "files:*"], "models": ["*"], **members}
    lines = [f"{name} = {orjson.dumps(value).decode()}" for name, value in members.items()]
    head = issuer().replace('tenant = "acme"\n', "")
    return f'{head}\n[issuers.login.subjects."{pattern}"]\n' + "\n".join(lines)


@pytest.mark.parametrize(
    ("beside", "status", "code"),
    [
        (issuer_of_subjects("alice"), 401, "invalid_api_key"),
        (issuer_of_subjects(scopes=["models:read"]), 403, "missing_scope"),
        (issuer_of_subjects(models=["o3"]), 403, "model_not_allowed"),
        (issuer_of_subjects(tenant="bystander"), 401, "invalid_api_key"),
    ],
    ids=["entry removed", "scopes narrowed", "models narrowed", "another tenant"],
)
async def test_an_entry_of_subjects_that_says_less_ends_what_runs_on_its_word(
    beside: str, status: int, code: str, tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:
        write(site.file, beside=issuer_of_subjects("b*"))
        await until(lambda: LOGIN in site.gateway.app.services.trust.verifier._issuers)
        running = await site.start(of_login(jti="one"))

        write(site.file, beside=beside)
        async with asyncio.timeout(SOON_SECONDS + 1):
            await running.stream.read_body(running.heads["stream"])
            waiting = await running.waiting.read_answer()
            told = [seen for seen in await read_to_the_end(running.socket.reader) if seen.opcode == CLOSE]

        assert not running.heads["stream"].clean_end
        assert_refused(waiting, status, code)
        assert [close.code for close in told] == [1008]


async def test_expiry_ends_no_answer_and_revocation_still_does(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:
        write(site.file, beside="credentials.leeway_seconds = 0")
        running = await site.start(site.gateway.credential(ttl_seconds=1))
        told = [seen for seen in await read_to_the_end(running.socket.reader) if seen.opcode == CLOSE]
        assert [(close.code, close.reason) for close in told] == [(1008, "credential expired")]
        reading = asyncio.create_task(running.stream.read_body(running.heads["stream"]))
        await asyncio.sleep(1.5)
        assert not reading.done()
        site.write(name="A change of something else")
        await asyncio.sleep(1.5)
        assert not reading.done()

        await revoke(site, credential=site.credential_id)
        await asyncio.wait_for(reading, SOON_SECONDS)

        assert not running.heads["stream"].clean_end


async def test_an_issuer_may_let_sessions_outlast_its_credentials(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:
        write(site.file, beside=issuer(session_seconds=3))
        await until(lambda: LOGIN in site.gateway.app.services.trust.verifier._issuers)
        running = await site.start(of_login(lives_seconds=1, jti="one"))
        began = time.monotonic()

        seen = await read_frame(running.socket.reader)

        assert (seen.code, seen.reason) == (1008, "credential expired")
        assert 2.0 < time.monotonic() - began < 4.0


async def test_a_realtime_secret_is_worth_no_more_than_the_credential_that_made_it(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream, scopes=["*", "realtime:mint"]) as site:
        write(
            site.file,
            scopes=["*", "realtime:mint"],
            beside=issuer(scopes=["realtime:*", "realtime:mint"]),
        )
        await until(lambda: LOGIN in site.gateway.app.services.trust.verifier._issuers)
        secret = orjson.dumps({"value": "ek_upstream", "expires_at": time.time() + 100})

        async def mint(turn: Turn) -> None:
            await turn.read_body()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            await turn.send(head % len(secret) + secret)

        upstream.plays(mint)
        minter = await site.gateway.connect()
        minter.credential = of_login(jti="one", scope="realtime:mint realtime:write realtime:read")
        minted = await minter.request("POST", "/v1/realtime/client_secrets", b"{}", headers=JSON)
        assert minted.status == 200, minted
        upstream.plays(runs_on)
        browser, later = await site.gateway.connect(), await site.gateway.connect()
        browser.credential = later.credential = orjson.loads(minted.body)["value"]
        assert (await shake_hands(browser)).status == 101

        write(site.file, scopes=["*", "realtime:mint"])
        async with asyncio.timeout(SOON_SECONDS + 1):
            told = [seen for seen in await read_to_the_end(browser.reader) if seen.opcode == CLOSE]

        assert [close.code for close in told] == [1008]
        await later.send(
            later.request_bytes(
                "GET",
                "/v1/realtime?model=gpt-realtime",
                headers=HANDSHAKE + "Sec-WebSocket-Protocol: realtime\r\n",
            )
        )
        assert_refused(await later.read_answer(), 401, "invalid_api_key")


async def test_a_cut_stream_is_charged_for_what_it_said(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with running_site(tmp_path, upstream, metering=True) as site:
        words = b'{"choices":[{"index":0,"delta":{"content":"a few words of an answer"}}]}'
        upstream.plays(says(b"data: %b\n\n" % words))
        client = await site.gateway.connect()
        client.credential = site.gateway.credential()
        await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        answer = await client.read_head()
        assert await client.read_chunk()

        site.write(enabled=False)
        await client.read_body(answer)

        assert not answer.clean_end
        [line] = await site.gateway.lines.wait(1)
        assert (line["ending"], line["error"], line["status"]) == ("withdrawn", "tenant_disabled", 200)
        assert line["usage"]["estimated"]
        assert line["usage"]["output"] > 0


async def test_who_does_not_read_and_who_floods_end_as_well(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:

        async def flood(turn: Turn) -> None:
            if turn.seen.get("upgrade"):
                await turn.send(accepted(turn))
                piece = frame(TEXT, b"x" * 60_000, masked=False)
            else:
                await turn.read_body()
                await turn.send(SSE_HEAD)
                piece = b"%x\r\n%b\r\n" % (60_000, b"data: " + b"x" * 59_992 + b"\n\n")
            while True:
                await turn.send(piece)

        upstream.plays(flood)
        deaf, hearing, socket = [await site.gateway.connect() for _ in range(3)]
        for client in (deaf, hearing):
            await client.send(client.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        await deaf.read_head()
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined]
        assert (await shake_hands(socket)).status == 101
        socket.reader._transport.pause_reading()  # type: ignore[attr-defined]
        listening = asyncio.create_task(hearing.closed())
        await asyncio.sleep(0.5)
        assert upstream.open_connections == 3

        site.write(enabled=False)

        assert await upstream.all_closed(within_seconds=SOON_SECONDS + 1)
        await until(lambda: not site.gateway.app.services.lifecycle.in_flight, 1.0)
        assert await listening


async def test_the_sdk_raises_and_asks_the_upstream_nothing_more(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:

        async def stream(turn: Turn) -> None:
            await turn.read_body()
            if turn.seen.target.endswith("/embeddings"):
                await turn.gone()
                return
            await turn.send(SSE_HEAD)
            await turn.chunk(
                b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[]}\n\n'
            )
            await turn.gone()

        upstream.plays(stream)
        async with openai.AsyncOpenAI(
            api_key=site.gateway.credential(), base_url=site.gateway.base_url, max_retries=3
        ) as sdk:
            answer = await sdk.chat.completions.create(model="m", messages=[], stream=True)
            assert (await anext(answer)).id == "c"
            waiting = asyncio.create_task(sdk.embeddings.create(model="m", input="hi"))
            await until(lambda: len(upstream.requests) == 2)

            site.write(enabled=False)

            async with asyncio.timeout(SOON_SECONDS + 1):
                with pytest.raises(openai.APIConnectionError):
                    await anext(answer)
                with pytest.raises(openai.PermissionDeniedError) as refused:
                    await waiting
        assert refused.value.code == "tenant_disabled"
        assert len(upstream.requests) == 2


async def test_nothing_is_kept_of_what_has_ended(gateway: Gateway, upstream: ScriptedUpstream) -> None:
    lifecycle = gateway.app.services.lifecycle
    async with await RawClient.connect(gateway.host, gateway.port, gateway.credential()) as client:
        assert (await client.request("GET", "/v1/models")).status == 200
        assert (await client.request("GET", "/gateway/me")).status == 200
    await until(lambda: not lifecycle.in_flight)

    assert not lifecycle.running
    assert not lifecycle.sessions


async def test_nothing_of_what_was_ended_is_left_to_the_collector(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:
        gc.collect()
        before = {id(thing) for thing in gc.get_objects() if isinstance(thing, Exchange | Interrupted)}
        gc.disable()
        try:
            running = await site.start()
            site.write(enabled=False)
            await running.endings(within_seconds=SOON_SECONDS + 1)
            for client in site.gateway.clients:
                await client.close()
            await until(lambda: not site.gateway.app.services.lifecycle.in_flight)
            await asyncio.sleep(2)  # it has been seen that they have ended
            alive = [thing for thing in gc.get_objects() if isinstance(thing, Exchange | Interrupted)]
            assert not [thing for thing in alive if id(thing) not in before]
        finally:
            gc.enable()


async def test_a_session_goes_on_speaking_until_its_rights_go(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:
        running = await site.start()
        await running.socket.send(frame(TEXT, b'{"type":"response.create"}'))
        site.write(name="Acme")
        await asyncio.sleep(1.5)
        await running.socket.send(frame(TEXT, b'{"type":"response.create"}'))

        site.write(enabled=False)
        seen = await asyncio.wait_for(read_frame(running.socket.reader), SOON_SECONDS + 1)

        assert (seen.code, seen.reason) == (1008, "tenant_disabled: no longer allowed")


async def test_a_retired_key_ends_what_it_signed_and_nothing_else(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_site(tmp_path, upstream) as site:
        old = site.ring.signing_key
        assert old is not None
        running = await site.start()
        rotate(site.keys_dir)
        await until(lambda: len(site.gateway.app.services.trust.ring) == 2)
        bystander = await site.gateway.connect()
        site.gateway.ring = KeyRing.load(site.keys_dir)
        bystander.credential = site.gateway.credential()
        await bystander.send(bystander.request_bytes("POST", CHAT, STREAMED_QUESTION, headers=JSON))
        head = await bystander.read_head()

        retire(site.keys_dir, old.kid)
        waiting, _, closes = await running.endings()

        assert_refused(waiting, 401, "invalid_api_key")
        assert [close.code for close in closes] == [1008]
        assert head.status == 200
        assert await bystander.read_chunk() == b"data: 1\n\n"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(bystander.read_chunk(), 0.3)
