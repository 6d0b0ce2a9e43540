"""Who may look at the private listener's page and state: the machine's own, and who has the operator's key."""

from __future__ import annotations

import base64
import socket
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import orjson
import pytest

from gateway.app.exposition import exposition_of_one
from gateway.app.health import MachineHealth, State, WorkerState
from gateway.app.operator_pages import OperatorPages
from gateway.app.operators import Operators
from gateway.app.private_listener import PrivateListener
from gateway.exchange.instruments import Registry
from tests.kit.client import RawAnswer, RawClient

KEY = "0123456789abcdef0123456789abcdef"
WELL = WorkerState(0, 1, State.READY, 0.0, ready=True)
PATHS = ("/gateway/state", "/gateway/", "/", "/gateway/page.js", "/gateway/page.css", "/gateway/page.svg")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Listening:
    """A private listener on all addresses of this machine."""

    def __init__(self, key: str | None) -> None:
        self.key = key
        self.clock = Clock()
        self.refused: list[str] = []
        self.listener = PrivateListener(
            "0.0.0.0",
            0,
            exposition=exposition_of_one(Registry(), lambda: WELL),
            health=MachineHealth(lambda: [WELL]),
            operators=OperatorPages(
                Operators(lambda: self.key, refused=self.refused.append, clock=self.clock), told=self.told
            ),
            names=["ops.internal"],
        )
        self.port = self.listener.start()

    async def told(self) -> bytes:
        return b'{"told":true}'

    async def ask(
        self,
        path: str = "/gateway/state",
        fields: Mapping[str, str] | None = None,
        *,
        of: str = "127.0.0.1",
        method: str = "GET",
    ) -> RawAnswer:
        async with await RawClient.connect(of, self.port) as client:
            written = "".join(
                f"{name}: {value}\r\n" for name, value in ({"Host": of} | dict(fields or {})).items()
            )
            await client.send(f"{method} {path} HTTP/1.1\r\n{written}\r\n".encode())
            return await client.read_answer(method)


@asynccontextmanager
async def listening(key: str | None = None) -> AsyncIterator[Listening]:
    running = Listening(key)
    try:
        yield running
    finally:
        running.listener.stop()


def elsewhere() -> str:
    """An address of this machine that is none of its loopback: who asks there comes from there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            asking.connect(("192.0.2.1", 9))  # nothing is sent
        except OSError:
            pytest.fail("needs an address beside those of the loopback")
        return str(asking.getsockname()[0])


def code_of(answer: RawAnswer) -> str:
    error = orjson.loads(answer.body)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return str(error["code"])


def basic(password: str, user: str = "anybody") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_whoever_is_on_the_machine_needs_no_key() -> None:
    async with listening(KEY) as gateway:
        for path in PATHS:
            answer = await gateway.ask(path)
            assert answer.status == (302 if path == "/" else 200), path
        assert (await gateway.ask(fields={"Host": "localhost:9090"})).status == 200
        assert (await gateway.ask(fields={"Host": "ops.internal"})).status == 200
        assert (await gateway.ask(method="HEAD")).status == 200
        assert (await gateway.ask(method="POST")).status == 405
        assert gateway.refused == []


async def test_from_elsewhere_nothing_is_shown_without_a_key() -> None:
    async with listening() as gateway:
        for path in PATHS:
            answer = await gateway.ask(path, of=elsewhere())
            assert (answer.status, code_of(answer)) == (403, "no_admin_key")
        for shown in ("Bearer ", "Bearer", basic(""), "Bearer None"):
            assert (await gateway.ask(of=elsewhere(), fields={"Authorization": shown})).status == 403


async def test_an_empty_key_is_none() -> None:
    async with listening("") as gateway:
        for shown in ("Bearer ", basic("")):
            assert (await gateway.ask(of=elsewhere(), fields={"Authorization": shown})).status == 403


@pytest.mark.parametrize("shown", [f"Bearer {KEY}", f"bearer  {KEY}", basic(KEY), basic(KEY, "")])
async def test_from_elsewhere_the_key_opens_everything(shown: str) -> None:
    async with listening(KEY) as gateway:
        for path in PATHS:
            answer = await gateway.ask(path, of=elsewhere(), fields={"Authorization": shown})
            assert answer.status == (302 if path == "/" else 200), path


@pytest.mark.parametrize(
    "shown",
    [
        f"Bearer {KEY}x",
        f"Bearer {KEY[:-1]}",
        "Bearer",
        f"Basic {KEY}",
        basic(KEY[:-1]),
        KEY,
        f"Digest {KEY}",
        "é",
    ],
)
async def test_another_key_opens_nothing_and_who_asks_is_told_how_to_show_one(shown: str) -> None:
    async with listening(KEY) as gateway:
        answer = await gateway.ask(of=elsewhere(), fields={"Authorization": shown})
        assert (answer.status, code_of(answer)) == (401, "invalid_admin_key")
        assert [value.split()[0] for value in answer.all("www-authenticate")] == ["Basic", "Bearer"]
        assert KEY.encode() not in answer.body
        assert gateway.refused == ["wrong_key"]


async def test_who_shows_none_is_asked_for_it() -> None:
    async with listening(KEY) as gateway:
        answer = await gateway.ask(of=elsewhere())
        assert (answer.status, code_of(answer)) == (401, "missing_admin_key")
        assert [value.split()[0] for value in answer.all("www-authenticate")] == ["Basic", "Bearer"]


async def test_the_pages_own_script_makes_no_browser_ask_for_a_password() -> None:
    script = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors", "Sec-Fetch-Dest": "empty"}
    async with listening(KEY) as gateway:
        for shown in ({}, {"Authorization": "Bearer wrong"}):
            answer = await gateway.ask(of=elsewhere(), fields=script | shown)
            assert answer.status == 401
            assert [value.split()[0] for value in answer.all("www-authenticate")] == ["Bearer"]


async def test_a_new_key_counts_from_the_next_request_on() -> None:
    async with listening(KEY) as gateway:
        shown = {"Authorization": f"Bearer {KEY}"}
        assert (await gateway.ask(of=elsewhere(), fields=shown)).status == 200
        gateway.key = KEY[::-1]
        assert (await gateway.ask(of=elsewhere(), fields=shown)).status == 401


async def test_who_guesses_is_not_listened_to_for_a_while() -> None:
    async with listening(KEY) as gateway:
        wrong, right = {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {KEY}"}
        for _ in range(10):
            assert (await gateway.ask(of=elsewhere(), fields=wrong)).status == 401
        for shown in (wrong, right):
            answer = await gateway.ask(of=elsewhere(), fields=shown)
            assert answer.status == 429
            assert 0 < int(answer.get("retry-after") or 0) <= 60
        assert (await gateway.ask()).status == 200, "who is on the machine does not guess"
        gateway.clock.now += 60
        assert (await gateway.ask(of=elsewhere(), fields=right)).status == 200


@pytest.mark.parametrize(
    "field",
    [
        *(
            "Forwarded: for=127.0.0.1",
            "X-Forwarded-For: 127.0.0.1",
            "x-forwarded-proto: https",
            "Via: 1.1 proxy",
        ),
        *("X-Real-IP: 127.0.0.1", "CF-Connecting-IP: 192.0.2.7", "X-Envoy-External-Address: 192.0.2.7"),
        *("X-Request-Id: 1", "CDN-Loop: cdn", "X-Amzn-Trace-Id: Root=1", "l5d-client-id: web"),
    ],
)
async def test_what_a_proxy_on_the_machine_passes_on_is_not_from_there(field: str) -> None:
    name, _, value = field.partition(": ")
    async with listening() as gateway:
        assert (await gateway.ask(fields={name: value})).status == 403
        gateway.key = KEY
        assert (await gateway.ask(fields={name: value})).status == 401
        shown = {name: value, "Authorization": f"Bearer {KEY}"}
        assert (await gateway.ask(fields=shown)).status == 200


async def test_what_speaks_http_1_0_may_be_a_proxy_that_says_nothing_of_itself() -> None:
    async with listening() as gateway, await RawClient.connect("127.0.0.1", gateway.port) as client:
        await client.send(b"GET /gateway/state HTTP/1.0\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        assert (await client.read_answer()).status == 403


async def test_packed_it_is_the_same() -> None:
    async with listening() as gateway:
        plain, packed = await gateway.ask(), await gateway.ask(fields={"Accept-Encoding": "br, gzip"})
        assert packed.get("content-encoding") == "gzip"
        assert zlib.decompress(packed.body, 16 + zlib.MAX_WBITS) == plain.body


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    ],
)
@pytest.mark.parametrize("path", PATHS)
async def test_what_another_sites_page_causes_is_refused(path: str, fields: dict[str, str]) -> None:
    async with listening(KEY) as gateway:
        for shown in ({}, {"Authorization": f"Bearer {KEY}"}):
            answer = await gateway.ask(path, fields | shown)
            assert (answer.status, code_of(answer)) == (403, "cross_site")
        assert gateway.refused == ["cross_site", "cross_site"]


async def test_a_link_may_lead_to_the_page_and_to_nothing_else() -> None:
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    async with listening() as gateway:
        led = {path: (await gateway.ask(path, followed)).status for path in PATHS}

    assert led == {**dict.fromkeys(PATHS, 403), "/": 302, "/gateway/": 200}


async def test_the_page_itself_may_ask() -> None:
    async with listening() as gateway:
        own = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
        assert (await gateway.ask(fields=own)).status == 200
        assert (await gateway.ask(fields={"Sec-Fetch-Site": "none"})).status == 200


async def test_a_name_that_somebody_made_lead_here_shows_nothing_even_with_the_key() -> None:
    async with listening(KEY) as gateway:
        for path in PATHS:
            fields = {"Host": "evil.example", "Authorization": f"Bearer {KEY}"}
            assert (await gateway.ask(path, fields)).status == 421


async def test_metrics_and_health_stay_for_whoever_comes() -> None:
    async with listening(KEY) as gateway:
        for path in ("/metrics", "/livez", "/readyz"):
            fields = {"Host": "prometheus.example", "Via": "1.1 proxy", "Sec-Fetch-Site": "cross-site"}
            assert (await gateway.ask(path, fields, of=elsewhere())).status == 200


async def test_no_answer_may_be_kept_framed_sniffed_or_read_by_another_origin() -> None:
    async with listening() as gateway:
        for path in PATHS:
            answer = await gateway.ask(path, {"Accept-Encoding": "gzip"})
            assert answer.get("cache-control") == "no-store"
            assert answer.get("x-content-type-options") == "nosniff"
            assert answer.get("x-frame-options") == "DENY"
            assert answer.get("referrer-policy") == "no-referrer"
            assert answer.get("cross-origin-resource-policy") == "same-origin"
            assert answer.get("access-control-allow-origin") is None
            policy = answer.get("content-security-policy") or ""
            assert policy.startswith("default-src 'none';")
            assert "unsafe" not in policy
