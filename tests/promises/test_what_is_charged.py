"""What was used is what is charged: in bucket, ledger and log alike, however an answer comes and ends.

The upstream knows what it used. Where it says so, that is charged; where it does not, exactly what
docs/limits-and-usage.md says under "What nobody reports". Every case has a subject of its own, whose bucket is full.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import orjson
import pytest

from tests.conftest import StartGateway
from tests.kit.asking import ask
from tests.kit.client import RawClient
from tests.kit.gateway import EVERY_SCOPE, Gateway
from tests.kit.redis import RedisServer
from tests.kit.true_usage import ALL_THE_SAME, GENERATING, MAXIMUM, OTHERS, PAIRS, SAYS_NOTHING, Kind, packed
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.kit.waiting import found, until

LIMIT = 8640
"""A tenth of an LLM token comes back in a second."""

LIMITED = {"acme": {**EVERY_SCOPE, "limits": {"subjects": {"*": {"max_tokens_per_1_day": LIMIT}}}}}
ALL_SAID = b": that was all\n\n"
"""A comment, by which a client knows that it has seen everything."""


@dataclass(frozen=True)
class Charged:
    """What somebody was charged, and how it was known."""

    input: int
    output: int
    known: str | None
    other: Mapping[str, float] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.input + self.output


@dataclass
class Case:
    """One request and what becomes of its answer."""

    name: str
    kind: Kind
    said: Sequence[bytes] = ()
    """Pieces of the answer, behind its head."""

    encoding: str = "identity"
    head: bool = True
    then: Sequence[bytes] | None = ()
    """What is said once the client has left, and that the answer ends; None: nothing, for ever."""

    breaks: bool = False
    """The upstream breaks off behind what it has said."""

    leaves_behind: bytes | None = None
    """What the client waits for before it leaves; empty: until the upstream has the request."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    seconds: tuple[float, float] = (0.0, 0.0)
    """How long the upstream had the request when its client left: at least, and at most."""

    async def plays(self, turn: Turn) -> None:
        """The upstream's side."""
        await turn.read_body()
        self.asked.set()
        if self.head:
            fields = [b"Content-Type: " + self.kind.content_type, b"Transfer-Encoding: chunked"]
            if self.encoding != "identity":
                fields.append(b"Content-Encoding: " + self.encoding.encode())
            await turn.send(b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(fields) + b"\r\n\r\n")
            for piece in filter(None, self.said):
                await turn.chunk(piece)
                await asyncio.sleep(0)
        if self.breaks:
            turn.close()
            return
        if self.leaves_behind is not None:
            await self.left.wait()
        if self.then is None:
            await turn.gone()
            return
        for piece in filter(None, self.then):
            await turn.chunk(piece)
        await turn.send(b"0\r\n\r\n")

    async def asks(self, gateway: Gateway) -> None:
        """The client's side."""
        credential = gateway.credential(subject=self.name)
        async with await RawClient.connect(gateway.host, gateway.port, credential) as client:
            headers = f"{self.kind.headers}Accept-Encoding: {self.encoding}\r\nX-Case: {self.name}\r\n"
            began = monotonic()
            await client.send(
                client.request_bytes("POST", self.kind.target, self.kind.request, headers=headers)
            )
            if self.leaves_behind is None:
                with suppress(asyncio.IncompleteReadError):
                    await client.read_answer()
                return
            await self.asked.wait()
            had = monotonic()
            got = b""
            while self.leaves_behind not in got:
                piece = await asyncio.wait_for(client.reader.read(65536), 10)
                assert piece, got
                got += piece
            leaving = monotonic()
            client.reset()
            self.left.set()
            await said_by(gateway, self.name)
            self.seconds = (leaving - had, monotonic() - began)


async def said_by(gateway: Gateway, subject: str) -> dict[str, Any]:
    """The line of the log about a subject's one request."""
    seen: list[dict[str, Any]] = []
    needle = orjson.dumps(subject)

    def look() -> bool:
        seen[:] = [orjson.loads(line) for line in gateway.lines.raw if needle in line]
        return bool(seen)

    await until(look)
    return seen[0]


async def told(gateway: Gateway, path: str, credential: str) -> dict[str, Any]:
    """What one of the gateway's own paths says, once Redis has answered in time."""

    async def look() -> dict[str, Any]:
        answer = await ask(gateway, "GET", path, credential=credential)
        return orjson.loads(answer.body) if answer.status == 200 else {}

    return await found(look)


async def charged(gateway: Gateway, subject: str) -> Charged:
    """What a subject was charged for its one request: bucket, ledger and log have to say the same."""
    line = await said_by(gateway, subject)
    usage = dict(line.get("usage") or {})
    estimated = usage.pop("estimated", False)
    said = Charged(usage.pop("input", 0), usage.pop("output", 0), line.get("usage_known"), usage)
    assert usage.pop("total", 0) == said.total, line
    assert estimated == (said.known == "estimated"), line

    credential = gateway.credential(["chat.completions:write"], subject=subject)
    counts = (await told(gateway, "/gateway/usage", credential))["total"]
    assert (counts["requests"], counts["input"], counts["output"]) == (1, said.input, said.output), subject
    assert {kind: counts[kind] for kind in usage} == usage, subject
    known = {word: counts[word] for word in ("reported", "estimated", "unreported") if counts[word]}
    assert known == ({said.known: 1} if said.known else {}), subject

    me = await told(gateway, "/gateway/me", credential)
    (level,) = me["limits"]
    assert 0 <= said.total - (LIMIT - level["remaining"]) <= 1, (subject, level, "the rest has come back")
    return said


async def charges(gateway: Gateway, upstream: ScriptedUpstream, cases: Sequence[Case]) -> list[Charged]:
    """What is charged for each of them, which run together."""
    by_name = {case.name: case for case in cases}
    assert len(by_name) == len(cases)

    async def script(turn: Turn) -> None:
        await by_name[turn.seen.get("x-case") or ""].plays(turn)

    upstream.plays(script)
    await asyncio.gather(*[case.asks(gateway) for case in cases])
    await until(lambda: not gateway.app.services.lifecycle.in_flight)
    await gateway.app.services.ledger.flush()
    await asyncio.sleep(0.05)  # what was used is told the buckets soon
    return [await charged(gateway, case.name) for case in cases]


def differing(cases: Sequence[Case], got: Sequence[Charged], expected: Sequence[Charged]) -> dict[str, Any]:
    return {
        case.name: {"charged": was, "not": should}
        for case, was, should in zip(cases, got, expected, strict=True)
        if was != should
    }


def as_it_reports(kind: Kind) -> Charged:
    return Charged(kind.input, kind.output, "reported", kind.other or {})


def by_what_went_by(kind: Kind) -> Charged:
    return Charged(kind.prompt, kind.said.went_by, "estimated")


# What is reported


@pytest.mark.parametrize("kind", [*GENERATING, *OTHERS], ids=lambda kind: kind.name)
async def test_what_is_reported_is_charged(
    start_gateway: StartGateway, upstream: ScriptedUpstream, kind: Kind
) -> None:
    gateway = await start_gateway(tenants=LIMITED)
    cases = [
        Case(
            f"{encoding}, {split}",
            kind,
            then=packed(kind.whole(kind.usage), encoding, split),
            encoding=encoding,
        )
        for encoding, split in PAIRS
    ]
    got = await charges(gateway, upstream, cases)
    assert not differing(cases, got, [as_it_reports(kind)] * len(cases))


@pytest.mark.parametrize("kind", GENERATING, ids=lambda kind: kind.name)
async def test_a_report_is_read_however_its_numbers_are_written(
    start_gateway: StartGateway, upstream: ScriptedUpstream, kind: Kind
) -> None:
    gateway = await start_gateway(tenants=LIMITED)
    cases = [Case(name, kind, then=kind.whole(spelled(kind))) for name, spelled in ALL_THE_SAME.items()]
    got = await charges(gateway, upstream, cases)
    assert not differing(cases, got, [as_it_reports(kind)] * len(cases))


@pytest.mark.parametrize("metering", [True, False], ids=["metered", "not metered"])
async def test_a_sum_alone_is_counted(
    start_gateway: StartGateway, upstream: ScriptedUpstream, *, metering: bool
) -> None:
    """What reranking servers and some for embeddings say: of what has no output all of it was read."""
    gateway = await start_gateway(tenants={"acme": {**EVERY_SCOPE, "metering": metering}})
    kinds = [kind for kind in [*GENERATING, *OTHERS] if kind.name in ("chat", "chat stream", "embeddings")]
    cases = [Case(kind.name, kind, then=kind.whole({"total_tokens": 2011})) for kind in kinds]
    by_name = {case.name: case for case in cases}

    async def script(turn: Turn) -> None:
        await by_name[turn.seen.get("x-case") or ""].plays(turn)

    upstream.plays(script)
    for case in cases:
        await case.asks(gateway)
        line = await said_by(gateway, case.name)
        usage = line["usage"]
        assert usage.get("input", 0) + usage.get("output", 0) == usage["total"] == 2011, line
        assert ("output" in usage) == bool(case.kind.output)
        assert line["usage_known"] == "reported"


# What nobody reports


@pytest.mark.parametrize("kind", GENERATING, ids=lambda kind: kind.name)
async def test_an_answer_that_ends_well_and_reports_nothing_costs_what_went_by(
    start_gateway: StartGateway, upstream: ScriptedUpstream, kind: Kind
) -> None:
    gateway = await start_gateway(tenants=LIMITED, unseen_tokens_per_second=100_000)
    missing = [*kind.said.said, kind.over, kind.last]
    cases = [
        *(
            Case(f"{encoding}, {split}", kind, then=packed(missing, encoding, split), encoding=encoding)
            for encoding, split in PAIRS
        ),
        *(Case(name, kind, then=kind.whole(usage)) for name, usage in SAYS_NOTHING.items()),
    ]
    got = await charges(gateway, upstream, cases)
    assert not differing(cases, got, [by_what_went_by(kind)] * len(cases))


async def test_an_upstream_that_breaks_off_costs_what_went_by(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    gateway = await start_gateway(
        redis_url=redis.url,
        tenants=LIMITED,
        unseen_tokens_per_second=100_000,
        upstream={"base_url": upstream.base_url, "api_key": "sk-x", "idle_timeout_seconds": 0.7},
    )
    cases, expected = [], []
    for kind in GENERATING:
        said, went_by = kind.said.said, by_what_went_by(kind)
        all_but_report = [*said, kind.over]
        # A document is what it says only when all of it has come.
        report = as_it_reports(kind) if kind.streams else went_by
        cases += [
            Case(f"{kind.name}, before its head", kind, head=False, breaks=True),
            Case(f"{kind.name}, before a text", kind, breaks=True),
            Case(f"{kind.name}, behind its texts", kind, said, breaks=True),
            Case(f"{kind.name}, behind all but its report", kind, all_but_report, breaks=True),
            Case(f"{kind.name}, behind its report", kind, kind.whole(kind.usage)[:-1], breaks=True),
            Case(f"{kind.name}, by falling silent", kind, said, then=None),
        ]
        nothing, before = Charged(0, 0, None), Charged(kind.prompt, 0, "estimated")
        expected += [nothing, before, went_by, went_by, report, went_by]
    got = await charges(gateway, upstream, cases)
    assert not differing(cases, got, expected)


# Who leaves

RATES = {"nothing is unseen": 0, "something is unseen": 1000, "as much is unseen as may be": 100_000}


@pytest.mark.parametrize("rate", RATES)
async def test_who_leaves_pays_for_what_went_by_or_for_the_time(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer, rate: str
) -> None:
    per_second = RATES[rate]
    gateway = await start_gateway(redis_url=redis.url, tenants=LIMITED, unseen_tokens_per_second=per_second)
    cases = []
    for kind in GENERATING:
        said = kind.said.said
        cases.append(Case(f"{kind.name}, before the head", kind, head=False, then=None, leaves_behind=b""))
        if kind.streams:
            seen = [*said, ALL_SAID]
            cases += [
                Case(f"{kind.name}, behind the head", kind, [ALL_SAID], then=None, leaves_behind=ALL_SAID),
                Case(f"{kind.name}, behind the last text", kind, seen, then=None, leaves_behind=ALL_SAID),
            ]
        over = [*said, kind.over]
        behind = b"".join(over)[-12:]
        cases.append(Case(f"{kind.name}, over, and never told", kind, over, then=None, leaves_behind=behind))
    for case, was in zip(cases, await charges(gateway, upstream, cases), strict=True):
        kind = case.kind
        went_by = kind.said.went_by if len(case.said) > 1 else 0
        least, most = (min(MAXIMUM, int(seconds * per_second)) for seconds in case.seconds)
        if kind.target.endswith("/runs"):
            least = most = MAXIMUM
        assert (was.input, was.known) == (kind.prompt, "estimated"), case.name
        assert max(went_by, least) <= was.output <= max(went_by, most), (case.name, was, case.seconds)


async def test_who_leaves_when_the_generation_is_over_pays_for_what_is_said_then(
    start_gateway: StartGateway, upstream: ScriptedUpstream, redis: RedisServer
) -> None:
    gateway = await start_gateway(redis_url=redis.url, tenants=LIMITED, unseen_tokens_per_second=100_000)
    cases: list[Case] = []
    for kind in GENERATING:
        said = [*kind.said.said, kind.over]
        behind = b"".join(said)[-12:]
        later = [kind.report(kind.usage), kind.last]
        by_seven = packed(later, "identity", "seven bytes each")
        before = kind.whole(kind.usage)[:-1]
        cases += [
            Case(f"{kind.name}, said later", kind, said, then=later, leaves_behind=behind),
            Case(f"{kind.name}, said in pieces", kind, said, then=by_seven, leaves_behind=behind),
            Case(f"{kind.name}, said before", kind, before, then=[kind.last], leaves_behind=behind),
        ]
    got = await charges(gateway, upstream, cases)
    assert not differing(cases, got, [as_it_reports(case.kind) for case in cases])


# What cannot be read, and what goes on


async def test_what_cannot_be_read_costs_what_was_reserved(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants=LIMITED, unseen_tokens_per_second=0)
    short, long = b"\x1f\x9d\x90" * 20, b"\x1f\x9d\x90" * 4000
    cases = [
        Case(f"{kind.name}, {words}", kind, then=[answer], encoding="compress")
        for kind in GENERATING
        for words, answer in (("short", short), ("long", long))
    ]
    expected = [
        Charged(case.kind.prompt, max(MAXIMUM, len(b"".join(case.then or ())) // 4), "estimated")
        for case in cases
    ]
    got = await charges(gateway, upstream, cases)
    assert not differing(cases, got, expected)


async def test_work_that_goes_on_keeps_what_was_reserved(
    start_gateway: StartGateway, upstream: ScriptedUpstream
) -> None:
    gateway = await start_gateway(tenants=LIMITED, unseen_tokens_per_second=0)
    (response,) = [kind for kind in GENERATING if kind.name == "responses"]
    (run,) = [kind for kind in GENERATING if kind.name == "run stream"]
    request = orjson.loads(response.request) | {"background": True}
    background = Kind(**{**vars(response), "name": "background", "request": orjson.dumps(request)})
    polled = Kind(**{**vars(run), "name": "run", "content_type": b"application/json"})
    queued = orjson.dumps({"id": "resp_1", "object": "response", "status": "queued", "usage": None})
    cases = [Case(kind.name, kind, then=[queued]) for kind in (background, polled)]
    got = await charges(gateway, upstream, cases)
    assert not differing(cases, got, [Charged(case.kind.prompt, MAXIMUM, "estimated") for case in cases])
