"""`gateway check --live` asks everybody whom a configuration names, at once, and says how each answered."""

from __future__ import annotations

import asyncio
from pathlib import Path

import orjson
from aiohttp import web

from tests.cli.checking import check
from tests.kit.jwks import NEXT, THEIRS, running_jwks_server
from tests.kit.tls import TlsUpstream, make_certificate, served_with
from tests.kit.upstream import Script, ScriptedUpstream, Turn


def configuration(base_url: str, *issuers: str) -> str:
    tables = "".join(
        f'[issuers.i{number}]\nissuer = "i{number}"\naudience = "a"\njwks_url = "{url}"\ntenant = "default"\n'
        'scopes = ["models:read"]\n'
        for number, url in enumerate(issuers)
    )
    return f'[upstream]\nbase_url = "{base_url}"\n{tables}'


def answering(answer: bytes) -> Script:
    async def play(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(answer)

    return play


async def test_says_how_the_upstream_answers(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    models = b'{"object": "list", "data": [{"id": "a"}, {"id": "b"}]}'
    for head, words, code in (
        ("200 OK", "default: the upstream does not say whose account it is; 2 models", 0),
        ("404 Not Found", "does upstream.base_url end as the API's does, in /v1 mostly?", 0),
        ("302 Found\r\nLocation: https://login.test/", "leads to https://login.test/", 0),
        ("503 Busy", "is answered 503", 0),
        ("401 Unauthorized", "default: its key is refused (401)", 1),
    ):
        upstream.plays(
            answering(f"HTTP/1.1 {head}\r\nContent-Length: {len(models)}\r\n\r\n".encode() + models)
        )
        done = await check(tmp_path, configuration(upstream.base_url), "--live")
        assert done.code == code
        assert words in done.stdout + done.stderr
        assert f"{upstream.base_url} is at 127.0.0.1" in done.stdout


async def test_says_until_when_a_certificate_is_good_and_that_it_is_not_believed(tmp_path: Path) -> None:
    secure = TlsUpstream(tmp_path)
    async with secure as upstream:
        upstream.plays(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"))
        base_url, ca_file = secure.settings["base_url"], secure.settings["ca_file"]
        done = await check(tmp_path, f'{configuration(base_url)}ca_file = "{ca_file}"\n', "--live")
        assert done.code == 0, done.stderr
        assert f"{base_url} is at 127.0.0.1, with a certificate until " in done.stdout
        assert f"the certificate of {base_url} expires in 0 days" in done.stderr
        done = await check(tmp_path, configuration(base_url), "--live")
        assert done.code == 1
        assert "default: the upstream cannot be reached" in done.stderr
        assert "certificate" in done.stderr


async def test_asks_for_the_keys_of_other_issuers(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with running_jwks_server() as issuer:
        issuer.publish(THEIRS, NEXT)
        text = configuration(upstream.base_url, issuer.url)
        done = await check(tmp_path, text, "--live")
        assert f"issuers.i0: {issuer.url} has keys that can be used: t1, t2" in done.stdout

        async def missing(_: web.Request) -> web.StreamResponse:
            return web.Response(status=404)

        issuer.behaviour = missing
        done = await check(tmp_path, text, "--live")
        assert (done.code, f"issuers.i0.jwks_url: {issuer.url}: answered with status 404" in done.stderr) == (
            1,
            True,
        )


async def test_everybody_is_asked_at_once(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    async with running_jwks_server() as issuer:
        issuer.publish(THEIRS)
        document, everybody_asks = issuer.document, asyncio.Event()

        async def together(_: web.Request) -> web.StreamResponse:
            if len(issuer.requests) == 4:
                everybody_asks.set()
            await everybody_asks.wait()
            return web.Response(body=document)

        issuer.behaviour = together
        urls = [f"{issuer.url}?{number}" for number in range(4)]
        done = await check(tmp_path, configuration(upstream.base_url, *urls), "--live")
        assert done.code == 0, done.stderr


async def test_who_does_not_answer_is_not_waited_for_and_programs_are_told_of_each(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    async with running_jwks_server() as issuer:

        async def silent(_: web.Request) -> web.StreamResponse:
            await asyncio.sleep(600)
            return web.Response()

        issuer.behaviour = silent
        text = f'redis_url = "redis://127.0.0.1:1"\n{configuration(upstream.base_url, issuer.url)}'
        done = await check(tmp_path, text, "--live", "--json")
        found = orjson.loads(done.stdout)
        assert (done.code, found["valid"], found["ok"]) == (1, True, False)
        answers = {answer["asked"]: answer for answer in found["live"]}
        assert {name: answer["ok"] for name, answer in answers.items()} == {
            "Redis": False,
            upstream.base_url: True,
            "the upstream": True,
            "issuers.i0": False,
        }
        assert "does not answer in time" in answers["issuers.i0"]["problems"][0]


async def test_what_keeps_the_keys_of_a_cluster_from_being_had_is_said_in_words(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    certificate, bearer = make_certificate(tmp_path, "cluster"), tmp_path / "token"
    bearer.write_text("opens-the-keys")
    bearer.chmod(0o600)
    opening = f'jwks_ca_file = "{certificate[0]}"\njwks_bearer_token_file = "{bearer}"\n'
    async with running_jwks_server(served_with(certificate)) as issuer:
        issuer.publish(THEIRS)
        issuer.bearer = "opens-the-keys"
        text = configuration(upstream.base_url, issuer.url)
        done = await check(tmp_path, text, "--live")
        assert (done.code, "self-signed certificate; jwks_ca_file names" in done.stderr) == (1, True)
        done = await check(tmp_path, text + opening.splitlines()[0] + "\n", "--live")
        assert (done.code, "status 401: it wants to know who asks" in done.stderr) == (1, True)
        bearer.write_text("opens-another")
        done = await check(tmp_path, text + opening, "--live")
        assert (done.code, "status 403: whoever" in done.stderr) == (1, True)
        bearer.write_text("opens-the-keys")
        done = await check(tmp_path, text + opening, "--live")
        assert (done.code, f"{issuer.url} has keys that can be used: t1" in done.stdout) == (0, True)
        assert "opens-the-keys" not in done.stdout + done.stderr
