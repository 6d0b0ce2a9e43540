"""Pages in browsers: those of allowed origins may ask, and see what they are answered; no others do, and nobody is
let in who was not before."""

from __future__ import annotations

import pytest

from gateway.settings.section import SettingsInvalid
from gateway.settings.sources import load
from tests.conftest import StartGateway
from tests.kit.client import CHAT, HANDSHAKE, JSON, QUESTION, RawAnswer
from tests.kit.upstream import SSE_HEAD, ScriptedUpstream, Turn

PAGE = "https://app.example.com"
OTHER = "https://elsewhere.example.com"
ASKS = "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n"
ITS_OWN = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAccess-Control-Allow-Origin: https://openai.com\r\n"
    b"access-control-expose-headers: X-Request-ID\r\nAccess-Control-Allow-Credentials: true\r\nVary: Accept\r\n"
    b"x-request-id: req_upstream\r\nContent-Length: 2\r\n\r\n{}"
)


def origin(value: str) -> str:
    return f"Origin: {value}\r\n"


def said(answer: RawAnswer) -> dict[str, str]:
    """What an answer says of who may read it, each thing once."""
    found = [
        (name.lower(), value) for name, value in answer.fields if name.lower().startswith("access-control-")
    ]
    assert len(found) == len(dict(found)), found
    return dict(found)


def allowed(answer: RawAnswer) -> str | None:
    """Whose pages see this answer."""
    shown = said(answer)
    assert "access-control-allow-credentials" not in shown
    return shown.get("access-control-allow-origin")


async def its_own(turn: Turn) -> None:
    """The upstream answers, and says itself whose pages may read that."""
    await turn.read_body()
    await turn.send(ITS_OWN)


async def test_a_preflight_of_an_allowed_origin_is_granted_without_credential_or_cost(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(
        cors_origins=[PAGE], tenants={"acme": {"limits": {"max_requests_per_1_minute": 1}}}
    )
    client = await gateway.connect()
    for path in (CHAT, "/v1/unlisted", "/gateway/me", "/v1/organization/costs"):
        await client.send(f"OPTIONS {path} HTTP/1.1\r\nHost: a\r\n{origin(PAGE)}{ASKS}\r\n".encode())
        answer = await client.read_answer("OPTIONS")

        assert (answer.status, answer.get("content-length")) == (204, None)
        shown = said(answer)
        assert {"GET", "POST", "DELETE"} <= set(shown.pop("access-control-allow-methods").split(", "))
        assert shown == {
            "access-control-allow-origin": PAGE,
            "access-control-allow-headers": "authorization,content-type",
            "access-control-max-age": "7200",
        }
        assert answer.all("vary") == ["Origin"]
        assert answer.get("x-gateway-request-id")
        if answer.get("connection") == "close":
            client = await gateway.connect()
    assert upstream.connections == 0
    lines = await gateway.lines.wait(4)
    assert {(line["method"], line["status"], line["ending"]) for line in lines} == {
        ("OPTIONS", 204, "complete")
    }
    asking = await gateway.connect()
    assert (await asking.request("POST", CHAT, QUESTION, headers=JSON + origin(PAGE))).status == 200


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(origin(OTHER) + ASKS, id="another origin"),
        pytest.param(origin(PAGE), id="no method asked for"),
        pytest.param(ASKS, id="no origin"),
        pytest.param(origin(PAGE.upper()) + ASKS, id="in other letters"),
        pytest.param(origin(PAGE + ":8443") + ASKS, id="another port"),
        pytest.param(origin("null") + ASKS, id="an opaque one"),
    ],
)
async def test_whatever_else_asks_by_options_needs_a_credential(
    start_gateway: StartGateway, lines: str, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(cors_origins=[PAGE])
    client = await gateway.connect()
    client.credential = "nobody"

    answer = await client.request("OPTIONS", CHAT, headers=lines)

    assert answer.status == 401
    assert allowed(answer) == (PAGE if lines == origin(PAGE) else None)
    assert answer.get("vary") == "Origin"
    assert upstream.connections == 0


@pytest.mark.parametrize(
    ("origins", "asking", "expected"),
    [
        ([PAGE, "http://localhost:3000"], PAGE, PAGE),
        ([PAGE, "http://localhost:3000"], "http://localhost:3000", "http://localhost:3000"),
        ([PAGE], OTHER, None),
        ([PAGE], "null", None),
        ([PAGE, "null"], "null", "null"),
        (["*"], OTHER, "*"),
        (["*"], "null", None),
        (["*", "null"], "null", "null"),
    ],
)
async def test_an_answer_names_the_allowed_origin_that_asks_and_no_other(
    start_gateway: StartGateway,
    upstream: ScriptedUpstream,
    origins: list[str],
    asking: str,
    expected: str | None,
) -> None:
    gateway = await start_gateway(cors_origins=origins)
    upstream.plays(its_own)
    client = await gateway.connect()

    for _ in range(80):  # of heads that come again the shape is known in the end
        answer = await client.request("POST", CHAT, QUESTION, headers=JSON + origin(asking))
        assert allowed(answer) == expected
        assert answer.get("x-request-id") == "req_upstream"
        exposed = said(answer).get("access-control-expose-headers", "").split(", ")
        assert ("x-gateway-request-id" in exposed) == (expected is not None)
        assert ("Origin" in answer.all("vary")) == ("*" not in origins or asking in origins)
        assert "Accept" in answer.all("vary")
    # Who has been judged here is not judged there.
    assert upstream.requests[-1].get("origin") == (None if expected else asking)


async def test_off_everything_passes_as_it_came(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway()
    upstream.plays(its_own)
    client = await gateway.connect()

    answer = await client.request("POST", CHAT, QUESTION, headers=JSON + origin(PAGE))

    assert [field for field in answer.fields if field[0].lower().startswith("access-control-")] == [
        ("Access-Control-Allow-Origin", "https://openai.com"),
        ("access-control-expose-headers", "X-Request-ID"),
        ("Access-Control-Allow-Credentials", "true"),
    ]
    assert upstream.requests[-1].get("origin") == PAGE


async def test_who_asks_the_same_from_several_pages_is_answered_each_time_as_who_asks(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(cors_origins=[PAGE, "http://localhost:3000"])
    upstream.plays(its_own)
    client = await gateway.connect()

    for asking, expected in [(PAGE, PAGE), (OTHER, None), ("http://localhost:3000",) * 2] * 5:
        answer = await client.request("POST", CHAT, QUESTION, headers=JSON + origin(asking))
        assert allowed(answer) == expected
    assert allowed(await client.request("POST", CHAT, QUESTION, headers=JSON)) is None


@pytest.mark.parametrize(
    ("method", "target", "headers", "status"),
    [
        ("POST", CHAT, JSON + "Authorization: Bearer another\r\n", 400),
        ("GET", "/nope", "", 404),
        ("TRACE", "/v1/models", "", 405),
        ("POST", "/gateway/me", "", 405),
        ("GET", "/v1/models/%2e%2e/x", "", 400),
        ("GET", "/v1/organization/costs", "", 403),
        ("GET", "/v1/models", "X-Filler: " + "x" * 70_000 + "\r\n", 431),
    ],
)
async def test_errors_of_the_gateway_are_shown_to_allowed_pages(
    start_gateway: StartGateway, method: str, target: str, headers: str, status: int
) -> None:
    gateway = await start_gateway(cors_origins=[PAGE])
    client = await gateway.connect()

    answer = await client.request(method, target, headers=origin(PAGE) + headers)

    assert (answer.status, allowed(answer)) == (status, PAGE)
    assert "x-request-id" in said(answer)["access-control-expose-headers"]


async def test_refusals_for_no_credential_and_for_limits_are_shown_too(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(
        cors_origins=["*"], tenants={"acme": {"limits": {"max_requests_per_1_minute": 1}}}
    )
    client = await gateway.connect()
    answers = [await client.request("POST", CHAT, QUESTION, headers=JSON + origin(PAGE)) for _ in range(2)]
    client.credential = "nobody"
    answers.append(await client.request("POST", CHAT, QUESTION, headers=JSON + origin(PAGE)))

    assert [(answer.status, allowed(answer)) for answer in answers] == [(200, "*"), (429, "*"), (401, "*")]
    assert "retry-after" in said(answers[1])["access-control-expose-headers"]
    assert [answer.get("vary") for answer in answers] == [None] * 3


async def test_streams_and_the_gateways_own_paths_are_shown(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(cors_origins=[PAGE])

    async def script(turn: Turn) -> None:
        await turn.read_body()
        await turn.send(SSE_HEAD)
        await turn.chunk(b"data: 1\n\n")
        await turn.chunk(b"data: 2\n\n")
        await turn.send(b"0\r\n\r\n")

    upstream.plays(script)
    client = await gateway.connect()

    stream = await client.request("POST", CHAT, QUESTION, headers=JSON + origin(PAGE))
    me = await client.request("GET", "/gateway/me", headers=origin(PAGE))

    assert (stream.body, allowed(stream)) == (b"data: 1\n\ndata: 2\n\n", PAGE)
    assert (me.status, allowed(me)) == (200, PAGE)


async def test_a_session_needs_a_credential_whatever_page_asks_for_it(start_gateway: StartGateway) -> None:
    gateway = await start_gateway(cors_origins=[PAGE])
    client = await gateway.connect()
    client.credential = "nobody"

    answer = await client.request("GET", "/v1/realtime?model=gpt-realtime", headers=HANDSHAKE + origin(PAGE))

    assert (answer.status, allowed(answer)) == (401, PAGE)


@pytest.mark.parametrize(
    "wrong",
    [
        "https://app.example.com/",
        "app.example.com",
        "https://App.example.com",
        "https://a:443",
        "http://a:80",
        "",
        "**",
    ],
)
def test_what_no_browser_would_send_is_refused(wrong: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"cors_origins.*expected an origin"):
        load(flags={"cors_origins": [wrong], "keys_dir": "keys"}, environ={})


@pytest.mark.parametrize(
    "right",
    [
        "https://app.example.com",
        "http://localhost:3000",
        "http://[::1]:8080",
        "chrome-extension://abc",
        "null",
        "*",
    ],
)
def test_what_browsers_send_is_taken(right: str) -> None:
    assert load(flags={"cors_origins": [right], "keys_dir": "keys"}, environ={}).cors_origins == (right,)
