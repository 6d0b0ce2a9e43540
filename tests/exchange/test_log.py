"""The log: one line of JSON per exchange, off the hot path, in which nothing can be forged and nothing leaks."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.app.build import build_app
from gateway.app.process import make_runner
from gateway.credentials.key_ring import KeyRing
from gateway.errors import Ending, NotFound
from gateway.exchange.log import access_record
from gateway.exchange.log_forms import encode
from gateway.exchange.log_writer import LogWriter
from gateway.exchange.metrics import Metrics
from gateway.exchange.standing import Standing
from gateway.operations.table import UNLISTED_READ
from gateway.policy.caller import Caller
from gateway.policy.tenants import UNKNOWN_TENANT
from gateway.proxy.acceptor import listening_sockets
from gateway.settings.sources import load
from gateway.usage.late_work import Shown
from gateway.usage.reported import Usage
from tests.conftest import StartGateway
from tests.kit.asking import ask, credential_of
from tests.kit.client import HANDSHAKE, JSON, RawClient
from tests.kit.gateway import Gateway, LogReader
from tests.kit.records import exchange, principal
from tests.kit.upstream import ScriptedUpstream, Turn, silent
from tests.kit.waiting import until

LONGEST_BYTES = 4096
UNFIT = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff\u202a-\u202e\u2066-\u2069]")
NASTY = 'a\r\n{"forged":1}\x00\x1b[31m\x7f\x85\x9b31m\u2028\u2029\u202eb'

MOMENTS = st.none() | st.floats(100, 1e6)
LOGGED = st.fixed_dictionaries({
    "method": st.sampled_from(["GET", "POST"]), "model": st.sampled_from([None, "gpt-4o", NASTY]),
    "status": st.sampled_from([None, 200, 400]), "ending": st.sampled_from([Ending.COMPLETE, Ending.REFUSED]),
    "upstream_request_id": st.sampled_from([None, "req_up"]), "bytes_out": st.integers(0, 2**40),
    "forwarded_at": MOMENTS, "first_byte_at": MOMENTS, "waited_seconds": st.sampled_from([0.0, 0.0004]),
    "usage": st.sampled_from([None, Usage(), Usage(input=7, total=7)]),
    "error": st.sampled_from([None, NotFound("for the caller", detail="for the operator")]),
})  # fmt: skip
"""What may be said of an exchange."""


MOST_USED = Usage._make([10**15] * len(Usage._fields))._replace(tier="t" * 32)


class TestRecord:
    def test_says_who_what_and_how_it_ended(self) -> None:
        made = exchange(
            caller=Caller(principal(), UNKNOWN_TENANT),
            model="gpt-4o", status=200, ending=Ending.COMPLETE, forwarded_at=100.002,
            first_byte_at=100.5, upstream_ended_at=101.0, bytes_in=3, bytes_out=70, upstream_request_id="req_up",
            target="/v1/gadgets/gadget_123?k=v", client="203.0.113.7", upstream="default",
            upstream_status=200, attempts=1,
        )  # fmt: skip

        line = orjson.loads(encode(access_record(made, made.times(101.25))))

        assert line == {
            "event": "log.exchange", "time": "2027-01-15T08:00:00.500000Z", "ended": "2027-01-15T08:00:01.750000Z",
            "request_id": "req_gw_1", "upstream_request_id": "req_up", "client": "203.0.113.7",
            "tenant": "acme", "subject": "alice", "credential": "jti-1", "issuer": None,
            "method": "POST", "operation": "unlisted", "path": "/v1/gadgets/*", "model": "gpt-4o",
            "upstream": "default", "upstream_status": 200, "attempts": 1,
            "status": 200, "ending": "complete", "duration_ms": 1250.0, "first_byte_ms": 500.0, "upstream_ms": 998.0,
            "overhead_ms": 2.0, "bytes_in": 3, "bytes_out": 70, "worker": 0,
        }  # fmt: skip

    def test_error_is_its_code_and_its_detail_never_its_message(self) -> None:
        made = exchange(error=NotFound("for the caller", detail="for the operator"))

        line = orjson.loads(encode(access_record(made, made.times(101.0))))

        assert (line["error"], line["detail"]) == ("not_found", "for the operator")
        assert "for the caller" not in str(line)

    @pytest.mark.parametrize("name", ["model", "upstream_request_id", "detail"])
    @pytest.mark.parametrize("text", [NASTY, NASTY * 1000, "\x9b" * 5000, "ü" * 5000, "\U0001f600" * 5000])
    def test_no_text_of_a_stranger_forges_a_line_or_makes_it_long(self, name: str, text: str) -> None:
        made = exchange(**{name: text})

        raw = encode(access_record(made, made.times(101.0)))

        assert raw.endswith(b"\n")
        assert raw.count(b"\n") == 1
        assert len(raw) <= LONGEST_BYTES
        assert not UNFIT.search(raw.decode()), "nothing that a terminal or a line splitter acts upon"
        assert orjson.loads(raw)

    @pytest.mark.parametrize("text", [NASTY * 1000, "\x9b" * 5000, "\U0001f600" * 5000, "\\" * 5000])
    def test_line_of_which_every_text_is_long_is_cut_at_these_and_at_nothing_else(self, text: str) -> None:
        name = "".join(filter(str.isprintable, text))[:256] or "s"
        made = exchange(
            caller=Caller(principal(subject=name), UNKNOWN_TENANT),
            model=text, upstream_request_id=text, error=NotFound("for the caller", detail=text), status=404,
            usage=MOST_USED, made=text, shown=tuple(
                Shown("run", f"{at}{text}", None, (("", MOST_USED),)) for at in range(3)
            ),
        )  # fmt: skip

        raw = encode(access_record(made, made.times(101.0), worker=511))

        assert len(raw) <= LONGEST_BYTES
        line = orjson.loads(raw)
        assert (line["request_id"], line["status"], line["worker"]) == (made.id, 404, 511)
        assert line["detail"][:64] == access_record(made, made.times(101.0))["detail"][:64]
        assert not UNFIT.search(raw.decode())

    def test_no_number_of_a_stranger_costs_a_line(self) -> None:
        made = exchange(usage=Usage(input=2**70, output=5), bytes_out=7)

        line = orjson.loads(encode(access_record(made, made.times(101.0))))

        assert (line["usage"], line["bytes_out"]) == ({"input": 2**63 - 1, "output": 5}, 7)

    @settings(max_examples=200, deadline=None)
    @given(st.lists(LOGGED, min_size=2, max_size=9))
    def test_says_nothing_of_others_of_its_standing(self, exchanges: list[dict[str, Any]]) -> None:
        caller = Caller(principal(), UNKNOWN_TENANT)
        standing = Standing(caller, UNLISTED_READ, until=0.0, tallies=Metrics().of("other", "unlisted"))
        for said in exchanges:
            alone, known = exchange(caller=caller, **said), exchange(caller=caller, standing=standing, **said)

            assert encode(access_record(known, known.times(1e7))) == encode(
                access_record(alone, alone.times(1e7))
            )

    @pytest.mark.parametrize("name", ["subject", "tenant"])
    @pytest.mark.parametrize("text", [NASTY, "s" * 3000, "\x9b", "\u2028", "\u202e"])
    def test_nobody_has_such_a_name(self, name: str, text: str) -> None:
        """Whoever signs: a credential with it does not verify, so it never gets as far as the log."""
        said = {"tenant": "acme", "subject": "alice"} | {name: text}

        with pytest.raises(ValueError, match="not issued"):
            credential_of(KeyRing.ephemeral(), ["files:read"], **said)


class TestLines:
    async def test_every_exchange_has_exactly_one(self, gateway: Gateway, upstream: ScriptedUpstream) -> None:
        async def leaves(turn: Turn) -> None:
            await turn.read_body()
            turn.close()

        asked = 0
        for method, target, body in (
            ("GET", "/v1/models", None),
            ("HEAD", "/gateway/me", None),
            ("POST", "/v1/chat/completions", b'{"model":"m"}'),
            ("POST", "/v1/chat/completions", b"{"),
            ("GET", "/v1/a//b", None),
            ("GET", "/nowhere", None),
            ("TRACE", "/v1/models", None),
            ("GET", "/.well-known/jwks.json", None),
        ):
            await ask(gateway, method, target, body)
            asked += 1
        await ask(gateway, "GET", "/v1/models", credential="nonsense")
        await ask(gateway, "GET", "/v1/models", tenant="stranger")
        await ask(gateway, "GET", "/v1/realtime?model=m", headers=HANDSHAKE)
        upstream.plays(leaves)
        await ask(gateway, "GET", "/v1/models")
        async with await RawClient.connect(gateway.host, gateway.port) as client:
            await client.send(b"NONSENSE\r\n\r\n")
            await client.read_answer()
        async with await RawClient.connect(gateway.host, gateway.port) as client:
            await client.send(
                b"GET /v1/models HTTP/1.1\r\nHost: gateway.test\r\n" + b"A: %b\r\n" % (b"x" * 17_000)
            )
            await client.read_answer()
        asked += 6

        lines = await gateway.lines.wait(asked)
        await asyncio.sleep(0.15)

        assert len(gateway.lines.raw) == asked
        assert len({line["request_id"] for line in lines}) == asked
        assert all(line["ending"] for line in lines)

    async def test_client_that_leaves_has_one_too(self, gateway: Gateway, upstream: ScriptedUpstream) -> None:
        upstream.plays(silent)
        client = await gateway.connect()
        await client.send(client.request_bytes("POST", "/v1/chat/completions", b"{}", headers=JSON))
        await upstream.passed("asked")
        client.reset()

        (line,) = await gateway.lines.wait(1)
        assert (line["ending"], line["status"]) == ("client_left", None)

    @pytest.mark.parametrize(
        "sent",
        [
            b"GET /v1/\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
            b"G\xc3\xa9T /v1/models HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX: \xff\xfe\r\n\r\n",
            b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX\xff: y\r\n\r\n",
            b"GET /v1/models HTTP/9.9\r\nHost: \x80\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
            b"\xff" * 100 + b"\r\n\r\n",
        ],
    )
    async def test_bytes_that_are_no_text_are_a_line_like_any_other(
        self, gateway: Gateway, sent: bytes
    ) -> None:
        async with await RawClient.connect(gateway.host, gateway.port) as client:
            await client.send(sent)
            answer = await client.read_answer()
        (line,) = await gateway.lines.wait(1)

        assert 400 <= answer.status <= 505
        assert line["status"] == answer.status
        assert not UNFIT.search(gateway.lines.raw[0].decode())

    async def test_odd_texts_of_both_sides_are_shown_harmless_and_short(
        self, gateway: Gateway, upstream: ScriptedUpstream
    ) -> None:
        async def odd(turn: Turn) -> None:
            await turn.read_body()
            await turn.send(
                b"HTTP/1.1 200 OK\r\nx-request-id: a\xc2\x9b\xc2\x85\xe2\x80\xa8%b\r\nContent-Length: 0\r\n\r\n"
                % (b"y" * 3000)
            )

        upstream.plays(odd)
        await ask(gateway, "POST", "/v1/chat/completions", {"model": NASTY * 500}, subject="s" * 256)
        await ask(gateway, "GET", "/v1/models/%C2%9B31m%E2%80%A8" + "m" * 1000)
        await ask(gateway, "A" * 200, "/v1/models")

        await gateway.lines.wait(3)
        for raw in gateway.lines.raw:
            assert len(raw) <= LONGEST_BYTES
            assert not UNFIT.search(raw.decode())

    async def test_tenant_that_wants_little_logged_has_neither_subject_nor_model_in_its_lines(
        self, start_gateway: StartGateway
    ) -> None:
        gateway = await start_gateway(tenants={"acme": {"logging": "minimal"}, "loud": {}})
        for tenant in ("acme", "loud"):
            body = {"model": f"model-of-{tenant}"}
            await ask(
                gateway, "POST", "/v1/chat/completions", body, tenant=tenant, subject=f"subject-of-{tenant}"
            )

        quiet, loud = await gateway.lines.wait(2)
        assert not {"subject", "model"} & quiet.keys()
        assert b"of-acme" not in gateway.lines.raw[0]
        assert (loud["subject"], loud["model"]) == ("subject-of-loud", "model-of-loud")


class Pipe:
    """A pipe that nobody reads until the test does."""

    def __init__(self) -> None:
        self.read_end, self.write_end = os.pipe()
        self.text = b""

    def drain(self) -> bytes:
        """Everything that is in it now."""
        os.set_blocking(self.read_end, False)
        while True:
            try:
                piece = os.read(self.read_end, 2**20)
            except BlockingIOError:
                return self.text
            if not piece:
                return self.text
            self.text += piece

    def close(self) -> None:
        for end in (self.read_end, self.write_end):
            try:
                os.close(end)
            except OSError:
                pass


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.drain()
    made.close()


class TestWriter:
    async def test_blocked_reader_never_delays_who_writes_and_what_is_dropped_is_counted(
        self, pipe: Pipe
    ) -> None:
        dropped: list[int] = []
        writer = LogWriter(pipe.write_end, dropped=dropped.append, max_pending_bytes=200_000)
        line = b"x" * 99 + b"\n"
        loop = asyncio.get_running_loop()
        longest = 0.0
        for _ in range(20):
            began = loop.time()
            for _ in range(1000):
                writer.write(line)
            longest = max(longest, loop.time() - began)
            await asyncio.sleep(0.02)
        written = await emptied(pipe, lambda: pipe.drain().count(b"\n") + sum(dropped) == 20_000)
        await asyncio.to_thread(writer.close)

        assert longest < 2, "nobody reads until all has been written"
        assert sum(dropped) > 15_000
        assert written + sum(dropped) == 20_000

    async def test_lines_to_be_kept_wait_beyond_the_others_and_then_go_elsewhere(self, pipe: Pipe) -> None:
        read_end, write_end = os.pipe()
        dropped: list[int] = []
        elsewhere = LogWriter(write_end, dropped=dropped.append)
        writer = LogWriter(
            pipe.write_end, dropped=dropped.append, max_pending_bytes=100_000, instead=elsewhere
        )
        line, kept = b"x" * 99 + b"\n", b"k" * 99 + b"\n"
        for _ in range(1001):
            writer.write(line)
        assert dropped == [1]
        for _ in range(1002):
            writer.write(kept, is_kept=True)
        assert dropped == [1]
        written = await emptied(pipe, lambda: pipe.drain().count(b"\n") == 2000)
        await asyncio.to_thread(writer.close)
        assert written == 2000
        assert os.read(read_end, 4096) == 2 * kept
        os.close(read_end)
        os.close(write_end)

    async def test_close_in_another_thread_neither_repeats_nor_loses_what_is_just_being_written(
        self, pipe: Pipe
    ) -> None:
        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            for times in range(1, 300):
                writer = LogWriter(pipe.write_end, dropped=lambda _: None)
                for _ in range(500):
                    writer.write(b"z\n")
                both = threading.Barrier(2)

                def close(writer: LogWriter = writer, both: threading.Barrier = both) -> None:
                    both.wait()
                    writer.close()

                closing = asyncio.create_task(asyncio.to_thread(close))
                await asyncio.sleep(0)
                both.wait()
                writer._flush()  # what the loop calls in its time
                await closing
                assert pipe.drain().count(b"\n") == 500 * times
        finally:
            sys.setswitchinterval(before)

    async def test_goes_on_when_somebody_reads_again(self, pipe: Pipe) -> None:
        dropped: list[int] = []
        writer = LogWriter(pipe.write_end, dropped=dropped.append, max_pending_bytes=100_000)
        for _ in range(3000):
            writer.write(b"y" * 99 + b"\n")
        assert dropped
        await emptied(pipe, lambda: pipe.drain().count(b"\n") + sum(dropped) == 3000)

        before = len(dropped)
        writer.write(b"again\n")
        await emptied(pipe, lambda: pipe.drain().endswith(b"again\n"))
        await asyncio.to_thread(writer.close)

        assert len(dropped) == before

    async def test_lines_are_whole_and_in_order(self, pipe: Pipe) -> None:
        writer = LogWriter(pipe.write_end, dropped=lambda _: None)
        for number in range(5000):
            writer.write(b'{"n":%d}\n' % number)
            if number % 500 == 0:
                await asyncio.sleep(0.01)
                pipe.drain()
        closing = asyncio.create_task(asyncio.to_thread(writer.close))
        await emptied(pipe, lambda: pipe.drain().count(b"\n") == 5000)
        await closing

        assert [orjson.loads(line)["n"] for line in pipe.text.splitlines()] == list(range(5000))

    async def test_reader_that_is_gone_is_counted_and_harms_nobody(self, pipe: Pipe) -> None:
        dropped: list[int] = []
        writer = LogWriter(pipe.write_end, dropped=dropped.append)
        os.close(pipe.read_end)
        pipe.read_end = os.open(os.devnull, os.O_RDONLY)
        for _ in range(10):
            writer.write(b"lost\n")
        await asyncio.to_thread(writer.close)

        assert sum(dropped) == 10

    @pytest.mark.parametrize("is_gone", [True, False])
    async def test_lines_to_be_kept_that_nobody_reads_go_elsewhere(
        self, pipe: Pipe, tmp_path: Path, is_gone: bool
    ) -> None:
        dropped: list[int] = []
        with (tmp_path / "elsewhere").open("wb") as file:
            elsewhere = LogWriter(file.fileno(), dropped=dropped.append)
            writer = LogWriter(pipe.write_end, dropped=dropped.append, instead=elsewhere)
            if is_gone:
                os.close(pipe.read_end)
                pipe.read_end = os.open(os.devnull, os.O_RDONLY)
            for number in range(3000):
                writer.write(b"%090d lost\n" % number)
                writer.write(b"%090d kept\n" % number, is_kept=True)
                if number % 1000 == 0:
                    await asyncio.sleep(0.1)
            await asyncio.to_thread(writer.close, 0.2)
        there = {*pipe.drain().splitlines(), *(tmp_path / "elsewhere").read_bytes().splitlines()}
        assert {line for line in there if line.endswith(b"kept")} == {
            b"%090d kept" % number for number in range(3000)
        }
        assert (sum(dropped) == 3000) is is_gone
        assert is_gone or not dropped

    async def test_line_that_a_full_disk_cut_off_spoils_no_other_and_only_what_is_missing_is_counted(
        self, tmp_path: Path
    ) -> None:
        dropped: list[int] = []
        log = tmp_path / "log"
        begin = 2**30  # a limit there is one for nobody else in this process
        with log.open("wb") as file:
            file.seek(begin)
            writer = LogWriter(file.fileno(), dropped=dropped.append)
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (begin + 25, limits[1]))
            try:
                for number in range(5):
                    writer.write(b'{"n":%03d}\n' % number)
                await until(lambda: writer.waiting_bytes == 0)
                writer.write(b'{"n":"lost"}\n')
                await until(lambda: writer.waiting_bytes == 0)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            writer.write(b'{"n":5}\n')
            await asyncio.to_thread(writer.close)
        with log.open("rb") as file:
            file.seek(begin)
            lines = file.read().split(b"\n")

        assert lines == [b'{"n":000}', b'{"n":001}', b'{"n":', b'{"n":5}', b""]
        assert sum(dropped) == 4

    async def test_closing_waits_for_a_blocked_reader_no_longer_than_it_was_told(self, pipe: Pipe) -> None:
        writer = LogWriter(pipe.write_end, dropped=lambda _: None)
        for _ in range(5000):
            writer.write(b"z" * 99 + b"\n")
        began = time.monotonic()

        await asyncio.to_thread(writer.close, 0.2)

        assert 0.1 < time.monotonic() - began < 1.0
        await emptied(pipe, lambda: pipe.drain().count(b"\n") == 5000)

    async def test_closing_writes_what_is_pending(self, pipe: Pipe) -> None:
        writer = LogWriter(pipe.write_end, dropped=lambda _: None)
        writer.write(b"last words\n")

        await asyncio.to_thread(writer.close)

        assert pipe.drain() == b"last words\n"


async def emptied(pipe: Pipe, condition: Callable[[], bool]) -> int:
    """Read on until the condition holds; returns how many lines came."""
    await until(condition)
    return pipe.text.count(b"\n")


async def test_gateway_whose_standard_output_is_blocked_serves_as_before(
    upstream: ScriptedUpstream, pipe: Pipe
) -> None:
    os.set_blocking(pipe.write_end, False)
    filled = 0
    try:
        while True:
            filled += os.write(pipe.write_end, b" " * 4095 + b"\n")
    except BlockingIOError:
        os.set_blocking(pipe.write_end, True)
    way = {"base_url": upstream.base_url, "api_key": "sk-upstream-key", "model_list_seconds": 0}
    loaded = load(flags={"upstream": way, "tenants": {"acme": {"scopes": ["*"]}}}, environ={})
    ring = KeyRing.ephemeral()
    app = build_app(loaded, ring=ring, log_descriptor=pipe.write_end)
    runner = make_runner(app)
    await runner.setup()
    runner.accept(listening_sockets("127.0.0.1", 0, backlog=8))
    host, port = runner.addresses[0][:2]
    unused = LogReader()
    gateway = Gateway(app, ring, host, port, unused, runner)
    longest = 0.0
    loop = asyncio.get_running_loop()
    async with await gateway.connect() as client:
        for _ in range(300):
            began = loop.time()
            answer = await client.request("GET", "/v1/models")
            assert answer.status == 200
            longest = max(longest, loop.time() - began)
    reading = asyncio.create_task(emptied(pipe, lambda: pipe.drain().count(b'"listModels"') == 300))
    await reading
    await runner.cleanup()
    await asyncio.to_thread(unused.close)

    assert filled > 0
    assert longest < 0.5
    assert gateway.metric("gateway_log_lines_dropped_total") == 0


def test_what_counts_as_unfit_here_is_what_terminals_act_upon() -> None:
    """The pattern above has every control and format character that breaks lines or hides text."""
    controls = {chr(code) for code in range(0x100) if unicodedata.category(chr(code)) == "Cc"} - {"\n"}

    assert all(UNFIT.match(control) for control in controls)
