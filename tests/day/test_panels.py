"""Every panel of every dashboard shows something on a day on which things happen."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from math import isnan
from pathlib import Path

import orjson

from docs.dashboards import files
from gateway.operations.own import LIVEZ
from tests.day.prometheus import Prometheus, watching
from tests.day.served import Served, gateway_of
from tests.day.shortened import shortened_query
from tests.kit.asking import running_simulator
from tests.kit.client import CHAT
from tests.kit.identity import running_identity_endpoint, shown
from tests.kit.jwks import LOGIN, THEIRS, running_jwks_server
from tests.kit.redis import RedisServer, free_port
from tests.kit.tls import served_pair
from tests.kit.upstream import ScriptedUpstream, Turn

PATIENCE_SECONDS = 120.0
"""For all of them: two hours of this day."""

ASKED_FOR_MODELS = ("--set", "upstream.model_list_seconds=3")
"""As seldom as once an hour it would be over before anybody looks."""

WITHOUT_A_NUMBER = {
    ("overview", "Redis A"),
    ("overview", "First byte, p95 A"),
    ("upstreams", "Least left A"),
    ("internals", "Certificate A"),
}
"""What cannot be told of a gateway that nobody asks, and that has no Redis and no TLS."""

STREAMED = b'{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"Tell me a story."}]}'
THOUGHT = orjson.dumps(
    {
        "object": "chat.completion",
        "model": "gpt-4o-mini",
        "choices": [],
        "usage": {
            "prompt_tokens": 20,
            "completion_tokens": 30,
            "total_tokens": 50,
            "prompt_tokens_details": {"cached_tokens": 10},
            "completion_tokens_details": {"reasoning_tokens": 20},
        },
    }
)
LIMITS_LEFT = "headers=x-ratelimit-limit-requests:1000,x-ratelimit-remaining-requests:7"


def asked_by_panels(kind: str | None = None) -> dict[tuple[str, str], str]:
    """Every query as Grafana would ask it with everything chosen, in a hurry, by dashboard and panel.

    `kind`: of panels that look like this alone.
    """
    found: dict[tuple[str, str], str] = {}
    for file, text in files().items():
        dashboard = orjson.loads(text)
        rows = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
        shown = [*dashboard["panels"], *(panel for row in rows for panel in row["panels"])]
        for panel in shown:
            if kind not in (None, panel["type"]):
                continue
            for target in panel.get("targets", ()):
                if target["datasource"]["type"] == "prometheus":
                    where = f"{panel['title']} {target['refId']}"
                    found[file.stem, where] = shortened_query(_all_chosen(target["expr"]))
    return found


def _all_chosen(expression: str) -> str:
    expression = expression.replace("$__rate_interval", "5m").replace("$__range", "1h")
    return re.sub(r"\$\w+", ".*", expression.replace("$job", "day|tls"))


@asynccontextmanager
async def eventful(
    directory: Path, redis: RedisServer, base_url: str, thinking: str, keys_url: str, identity: str
) -> AsyncIterator[tuple[Served, Served]]:
    """A gateway whose tenants, upstreams and operators do what they do, and one by TLS that nobody asks."""
    nowhere = f"http://127.0.0.1:{free_port()}/v1"
    configuration = f"""
[upstream]
base_url = "{base_url}"
api_key = "sk-upstream"
max_connections = 2

[edge]
max_connections = 40
body_memory_bytes = 2000000
max_json_body_bytes = 4000000

[issuers.login]
issuer = "{LOGIN}"
audience = "gateway"
jwks_url = "{keys_url}"
tenants = ["acme"]
scopes = ["models:read"]

[tenants.acme]
scopes = ["*"]
models = ["gpt-4o-mini"]

[tenants.acme.limits]
max_tokens_per_1_minute = 100000
max_requests_per_1_minute = 100000

[tenants.small]
scopes = ["*"]

[tenants.small.limits]
max_requests_per_1_minute = 1

[tenants.thinker]
scopes = ["*"]

[tenants.thinker.upstream]
base_url = "{thinking}"
{identity}

[tenants.lost]
scopes = ["*"]

[tenants.lost.upstream]
base_url = "{nowhere}"
api_key = "sk-lost"
"""
    async with AsyncExitStack() as stack:
        busy = await stack.enter_async_context(
            gateway_of(directory / "day", configuration, *ASKED_FOR_MODELS, redis=redis, workers=2)
        )
        pair = served_pair(directory)
        tls = await stack.enter_async_context(
            gateway_of(
                directory / "tls",
                f'tls_certificate = "{pair["tls_certificate"]}"\ntls_key = "{pair["tls_key"]}"\n'
                f'[upstream]\nbase_url = "{base_url}"\napi_key = "sk-upstream"\n[tenants.acme]\nscopes = ["*"]\n',
            )
        )
        asking = busy.calling
        for calls in (
            asking("acme", "POST", CHAT, STREAMED, at_once=6),
            asking("acme"),
            asking("small"),
            asking("lost", every_seconds=0.5),
            asking("acme", "GET", "/v1/models", None, every_seconds=0.5),
            asking("acme", "GET", LIVEZ, None, every_seconds=0.5),
            asking("acme", "POST", CHAT, b'{"model":"gpt-9","messages":[]}', every_seconds=0.5),
            asking("acme", "POST", CHAT, STREAMED + b" " * 900_000, every_seconds=0.2, at_once=2),
            asking("acme", credential="wrong", every_seconds=0.02),
            asking("acme", credential=busy.credential("acme", ttl_seconds=86400)),
            asking("thinker", every_seconds=0.5),
            asking("acme", "GET", "/v1/files/file-of-nobody", None, every_seconds=0.5),
            *(
                asking("acme", more={"x-simulate": how}, every_seconds=0.5)
                for how in ("status=401", "status=429", "status=500", "drop", "cut=9", LIMITS_LEFT)
            ),
        ):
            await stack.enter_async_context(calls)
        yield busy, tls


async def think(turn: Turn) -> None:
    """Answer as one that has thought, and had half of what was asked in a cache."""
    await turn.read_body()
    await turn.send(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        % (len(THOUGHT), THOUGHT)
    )


@asynccontextmanager
async def crowded(served: Served) -> AsyncIterator[None]:
    """More strangers than may connect, with half a head, or with what is none."""
    with ExitStack() as strangers:
        with suppress(OSError):  # who is turned away
            for number in range(90):
                _, writer = await asyncio.open_connection(served.command.host, served.command.port)
                strangers.callback(writer.close)
                writer.write(b"GET /v1/models HTTP/1.1\r\nHost: " if number % 3 else b"NONSENSE\r\n\r\n")
        yield


async def happen(served: Served, redis: RedisServer) -> None:
    """What operators, strangers and Redis do, again and again."""
    from_elsewhere = {"Sec-Fetch-Site": "cross-site"}
    while True:
        async with served.withholding(*("acme",) * 6), crowded(served):
            async with served.session.get(
                f"http://{served.target}/gateway/state", headers=from_elsewhere
            ) as answer:
                assert answer.status == 403
            served.command.signal(signal.SIGHUP)
            await asyncio.sleep(3)
        redis.stop()
        await asyncio.sleep(2)
        redis.start()
        await asyncio.sleep(5)


async def test_every_query_of_every_panel_has_data(
    tmp_path: Path, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    upstream.plays(think)
    missing = asked_by_panels()
    async with (
        running_simulator() as simulator,
        running_jwks_server() as keys,
        running_identity_endpoint() as endpoint,
    ):
        keys.publish(THEIRS)
        endpoint.seconds = 5
        shown(file := tmp_path / "of-the-platform", "what.the.platform-says")
        identity = endpoint.toml("tenants.thinker.upstream", file)
        async with (
            eventful(tmp_path, redis, simulator.base_url, upstream.base_url, keys.url, identity) as (
                busy,
                tls,
            ),
            watching(tmp_path / "prometheus", {"day": [busy.target], "tls": [tls.target]}) as prometheus,
        ):
            happening = asyncio.create_task(happen(busy, redis))
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    while missing:
                        assert not happening.done(), happening.result()
                        await answered(prometheus, missing)
            except TimeoutError:
                pass
            finally:
                happening.cancel()
                await asyncio.gather(happening, return_exceptions=True)
    assert not missing, "\n".join(map(str, missing))


async def test_a_gateway_that_nobody_asks_shows_numbers_all_the_same(tmp_path: Path) -> None:
    """What is nothing is 0, in the colour of what is well; what cannot be told says so in words."""
    configuration = (
        '[upstream]\nbase_url = "http://127.0.0.1:1/v1"\napi_key = "sk-x"\n[tenants.acme]\nscopes = ["*"]\n'
    )
    async with (
        gateway_of(tmp_path / "day", configuration) as quiet,
        watching(tmp_path / "prometheus", {"day": [quiet.target]}) as prometheus,
    ):
        silent: set[tuple[str, str]] = set()
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await prometheus.has('gateway_build_info{job="day"}')
                while (silent := await without_a_number(prometheus)) != WITHOUT_A_NUMBER:
                    await asyncio.sleep(0.5)
    assert silent == WITHOUT_A_NUMBER


async def without_a_number(prometheus: Prometheus) -> set[tuple[str, str]]:
    """The numbers of dashboards that there are not."""
    return {
        where
        for where, query in asked_by_panels("stat").items()
        if all(isnan(value) for _, value in await prometheus.query(query))
    }


async def answered(prometheus: Prometheus, missing: dict[tuple[str, str], str]) -> None:
    """Ask all, and leave out those that have had an answer."""
    for where, query in list(missing.items()):
        if any(not isnan(value) for _, value in await prometheus.query(query)):
            del missing[where]
    await asyncio.sleep(0.2)
