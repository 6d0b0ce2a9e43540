"""An upstream without a secret, as its operator runs it: several workers, a reload, and what is told of it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import orjson

from tests.cli.checking import check
from tests.kit.client import RawAnswer
from tests.kit.identity import SUBJECT, IdentityEndpoint, shown
from tests.kit.redis import RedisServer
from tests.kit.tls import TlsUpstream
from tests.kit.upstream import OK, ScriptedUpstream, Turn
from tests.kit.waiting import comes_to, found, until
from tests.kit.workers import AT_ONCE, Workers, running_workers


def configured(folder: Path, *tables: str) -> tuple[str, str]:
    """Options that name a file with these tables."""
    path = folder / "gateway.toml"
    path.write_text("".join(tables))
    return "--config", str(path)


async def ask(workers: Workers, pid: int | None = None) -> RawAnswer:
    client = await (workers.connect() if pid is None else workers.connect_to(pid))
    async with client:
        return await client.request("GET", "/v1/models")


def keys_seen(upstream: ScriptedUpstream) -> list[str]:
    return [(seen.get("authorization") or "").removeprefix("Bearer ") for seen in upstream.requests]


async def test_all_workers_have_it_from_one_exchange_and_a_successor_from_none(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, endpoint: IdentityEndpoint, file: Path
) -> None:
    options = configured(tmp_path, endpoint.toml("upstream", file))
    async with running_workers(tmp_path, upstream.base_url, redis, *options, *AT_ONCE) as workers:
        pids = await workers.all_ready(2)
        for pid in pids:
            assert (await ask(workers, pid)).status == 200
        assert set(keys_seen(upstream)) == {endpoint.keys[0]}
        endpoint.believed = set()  # nothing more is granted

        os.kill(pids[0], signal.SIGKILL)
        (fresh,) = set(await workers.all_ready(2, but=(pids[0],))) - set(pids)

        assert (await ask(workers, fresh)).status == 200
        assert set(keys_seen(upstream)) == {endpoint.keys[0]}
        assert endpoint.requests == 1
        series = 'gateway_upstream_identity_exchanges_total{result="granted",upstream="default"}'
        assert await workers.metric(series) == 1
        assert await workers.metric('gateway_upstream_identity_expires_seconds{upstream="default"}') > 3400


async def test_all_workers_have_the_next_one_when_it_is_renewed_or_refused(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, endpoint: IdentityEndpoint, file: Path
) -> None:
    endpoint.first_seconds = 6
    options = configured(tmp_path, endpoint.toml("upstream", file))
    async with running_workers(tmp_path, upstream.base_url, redis, *options, *AT_ONCE) as workers:
        pids = await workers.all_ready(2)
        await until(lambda: len(endpoint.keys) == 2)

        async def newest() -> set[str]:
            del upstream.requests[:]
            for pid in pids:
                await ask(workers, pid)
            return set(keys_seen(upstream))

        await comes_to({endpoint.keys[1]}, newest)
        second = endpoint.keys[1]

        async def refuses_the_second(turn: Turn) -> None:
            await turn.read_body()
            if turn.seen.get("authorization") == f"Bearer {second}":
                await turn.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
            else:
                await turn.send(OK)

        upstream.plays(refuses_the_second)
        assert [(await ask(workers, pid)).status for pid in pids].count(502) >= 1
        await until(lambda: len(endpoint.keys) == 3)
        await comes_to({endpoint.keys[2]}, newest)
        assert len(endpoint.keys) == 3


async def test_a_reload_gives_every_worker_an_identity_that_is_new_and_nobody_is_told_a_secret(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, endpoint: IdentityEndpoint, file: Path
) -> None:
    options = configured(tmp_path, '[upstream]\napi_key = "sk-of-before"\n')
    async with running_workers(tmp_path, upstream.base_url, redis, *options, *AT_ONCE) as workers:
        pids = await workers.all_ready(2)
        await ask(workers)
        assert keys_seen(upstream) == ["sk-of-before"]

        configured(tmp_path, endpoint.toml("upstream", file))
        workers.signal(signal.SIGHUP)
        await until(lambda: endpoint.keys)

        async def newest() -> set[str]:
            del upstream.requests[:]
            assert [(await ask(workers, pid)).status for pid in pids] == [200, 200]
            return set(keys_seen(upstream))

        await comes_to({endpoint.keys[0]}, newest)
        assert len(endpoint.keys) == 1
        pages = [
            (await workers.page(path))[1] for path in ("/metrics", "/livez", "/readyz", "/gateway/state")
        ]
        command = workers.command
    everything = "\n".join([*map(str, pages), *command.stdout, *command.log])
    assert "is not the public API's endpoint" in everything
    for secret in (SUBJECT, SUBJECT[21:], endpoint.keys[0], "sk-of-before"):
        assert secret not in everything


async def test_without_anything_to_show_it_is_not_ready_until_there_is(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer, endpoint: IdentityEndpoint
) -> None:
    file = tmp_path / "comes-later"
    options = configured(tmp_path, endpoint.toml("upstream", file))
    async with running_workers(tmp_path, upstream.base_url, redis, *options, *AT_ONCE) as workers:
        status, document = await workers.page("/readyz")
        assert status == 503
        assert {reason["code"] for reason in document["reasons"]} == {"upstream_identity_missing"}
        assert str(file) in str(document)
        assert (await ask(workers)).status == 503

        shown(file, SUBJECT)

        async def ready() -> bool:
            return (await workers.page("/readyz"))[0] == 200

        await found(ready)
        await comes_to(200, lambda: _status(workers))


async def _status(workers: Workers) -> int:
    return (await ask(workers)).status


async def test_a_check_says_what_is_wrong_with_the_file_and_what_the_endpoint_says(
    tmp_path: Path, upstream: ScriptedUpstream, endpoint: IdentityEndpoint, file: Path
) -> None:
    base = f'[upstream]\nbase_url = "{upstream.base_url}"\n'
    text = base + endpoint.toml("upstream", file)

    done = await check(tmp_path, text)
    assert (done.code, endpoint.requests) == (0, 0)
    assert "is not the public API's endpoint" in done.stderr

    done = await check(tmp_path, text, "--live")
    assert done.code == 0, done.stderr
    assert keys_seen(upstream) == endpoint.keys

    endpoint.believed = set()
    done = await check(tmp_path, text, "--live")
    assert done.code == 1
    assert "answered 400 (invalid_grant: The subject token is not accepted.)" in done.stderr
    assert SUBJECT not in done.stdout + done.stderr

    for content, words in (
        ("", "is empty"),
        ("a b", "holds more, or less, than one JWT"),
        ("\xe9" * 9, "no JWT is"),
    ):
        file.write_text(content)
        done = await check(tmp_path, text)
        assert done.code == 0
        assert f"upstream.workload_identity.token_file: {file} " in done.stderr
        assert words in done.stderr
    file.unlink()
    done = await check(tmp_path, text, "--live")
    assert done.code == 1
    assert f"{file} cannot be read: No such file or directory" in done.stderr
    assert "api_key" not in done.stderr


async def test_what_a_start_cannot_use_is_a_problem_and_nothing_is_sent(
    tmp_path: Path, endpoint: IdentityEndpoint, file: Path
) -> None:
    official = endpoint.toml("upstream", file).replace(endpoint.url, "https://auth.openai.com/oauth/token")

    done = await check(tmp_path, '[upstream]\nbase_url = "https://llm.example.com/v1"\n' + official)

    assert done.code == 1
    assert "grants opens the public API, and is sent to no other host" in done.stderr


async def test_the_endpoint_is_reached_as_the_upstream_is_by_the_same_certificates(
    tmp_path: Path, upstream: ScriptedUpstream, file: Path
) -> None:
    secure = TlsUpstream(tmp_path)
    async with secure as theirs:
        body = b'{"access_token":"granted-by-tls","expires_in":60,"token_type":"Bearer"}'

        async def grants(turn: Turn) -> None:
            await turn.read_body()
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            await turn.send(head + body)

        theirs.plays(grants)
        url = str(secure.settings["base_url"]).replace("/v1", "/oauth/token")
        identity = IdentityEndpoint().table(file, token_endpoint=url)
        lines = "\n".join(f"{key} = {orjson.dumps(value).decode()}" for key, value in identity.items())
        common = f'[upstream]\nbase_url = "{upstream.base_url}"\n'
        trusted = f'ca_file = "{secure.settings["ca_file"]}"\n'
        for more, code in ((trusted, 0), ("", 1)):
            done = await check(tmp_path, f"{common}{more}[upstream.workload_identity]\n{lines}\n", "--live")
            assert done.code == code, done.stderr
        assert "certificate" in done.stderr
    assert keys_seen(upstream) == ["granted-by-tls"]
