"""`gateway objects`: whose stored objects are, said, changed, saved, lost and brought back."""

from __future__ import annotations

import asyncio
import gzip
import io
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest

from gateway.cli import main
from gateway.objects.redis_objects import RedisObjects
from gateway.objects.steps import Step
from gateway.objects.store import Intent, Made, Named, Scope
from tests.kit.redis import RedisServer
from tests.kit.upstream import ScriptedUpstream, Turn
from tests.objects.stores import store_on

T = TypeVar("T")
STORAGE = "api.openai.com"
ACME, BETA, GONE = (Scope(STORAGE, name) for name in ("acme", "beta", "gone"))
MADE = [
    Made("file", "file-1", 1_700_000_000),
    Made("file", "file-2", 1_700_000_000),
    Made("batch", "batch_1", 1_700_000_001),
    Made("response", "resp_1", time.time()),
    Made("thread", "thread_1", 1_700_000_002),
]


@pytest.fixture
def config(tmp_path: Path, redis: RedisServer) -> str:
    return written(tmp_path, redis)


def written(tmp_path: Path, redis: RedisServer, base_url: str = "https://api.openai.com/v1") -> str:
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'redis_url = "{redis.url}"\n[upstream]\nbase_url = "{base_url}"\napi_key = "sk-one-of-all"\n'
        "[tenants.acme]\n[tenants.beta]\n",
        encoding="utf-8",
    )
    return str(file)


def in_store(redis: RedisServer, work: Callable[[RedisObjects], Awaitable[T]]) -> T:
    """Do it with a store of one's own."""

    async def do() -> T:
        store = store_on(redis.url)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(do())


def record(redis: RedisServer, scope: Scope, *made: Made) -> None:
    async def work(store: RedisObjects) -> None:
        await store.begin(scope, recorded=True)
        await store.record(scope, made)

    in_store(redis, work)


def owned(redis: RedisServer, scope: Scope, *made: Made) -> list[bool]:
    asked = [Named(one.kind, one.id) for one in made]
    return in_store(redis, lambda store: store.look(scope, asked))


class Command:
    """Runs the verb, and has what it printed."""

    def __init__(self, config: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._config = config
        self._capsys = capsys
        self.said = ""

    def __call__(self, *arguments: str) -> str:
        code = self.code(*arguments)
        assert code == 0, self.said
        return self.said

    def code(self, *arguments: str) -> int:
        code = main(["objects", *arguments, "--config", self._config])
        printed = self._capsys.readouterr()
        self.said = printed.err if code else printed.out
        self.out, self.err = printed.out, printed.err
        return code

    def document(self, *arguments: str) -> Any:
        return orjson.loads(self(*arguments, "--json"))


@pytest.fixture
def objects(config: str, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(config, capsys)


def given(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Have it on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


def test_without_redis_it_says_that_nobody_records_anything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text("[tenants.acme]\n", encoding="utf-8")
    assert Command(str(file), capsys).code("list") == 1


def test_a_redis_that_is_away_is_said(redis: RedisServer, objects: Command) -> None:
    redis.stop()
    assert objects.code("list") == 1
    assert "cannot be asked" in objects.err


def test_list_counts_what_each_tenant_has_also_of_one_that_is_gone(
    redis: RedisServer, objects: Command
) -> None:
    assert "Nobody has any" in objects("list")
    record(redis, ACME, *MADE)
    record(redis, GONE, MADE[0])
    found = objects.document("list")
    assert {"tenant": "acme", "storage": STORAGE, "kind": "file", "objects": 2} in found
    assert {"tenant": "acme", "storage": STORAGE, "kind": "response", "objects": 1} in found
    assert {"tenant": "gone", "storage": STORAGE, "kind": "file", "objects": 1} in found
    assert [row["tenant"] for row in objects.document("list", "gone")] == ["gone"]
    assert [row["kind"] for row in objects.document("list", "--kind", "file")] == ["file", "file"]
    entries = objects.document("list", "acme", "--kind", "file")
    assert entries == [
        {"id": "file-2", "created_at": 1_700_000_000},
        {"id": "file-1", "created_at": 1_700_000_000},
    ]
    assert objects("list", "acme", "--kind", "file").splitlines()[1].startswith("file-2")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["list", "acmee"], "did you mean acme?"),
        (["list", "--kind", "files"], "there are file, upload"),
        (["list", "--storage", "elsewhere"], "api.openai.com"),
        (["adopt", "acme", "files", "file-1"], "no kind"),
        (["adopt", "nobody", "file", "file-1"], "no tenant 'nobody'"),
        (["adopt", "acme", "file", "a" * 600], "no id"),
    ],
)
def test_what_cannot_be_meant_is_said(objects: Command, arguments: list[str], said: str) -> None:
    assert objects.code(*arguments) == 1
    assert said in objects.err


def test_show_says_whose_an_object_is(redis: RedisServer, objects: Command) -> None:
    record(redis, GONE, *MADE)
    assert objects.document("show", "batch_1") == [
        {"tenant": "gone", "storage": STORAGE, "kind": "batch", "created_at": 1_700_000_001}
    ]
    assert objects.document("show", "resp_1")[0] | {"created_at": None} == {
        "tenant": "gone",
        "storage": STORAGE,
        "kind": "response",
        "created_at": None,
    }
    assert "2023-11-14" in objects("show", "file-1")
    assert objects.code("show", "file-9") == 1
    assert "nobody's" in objects.out


def test_adopt_takes_nothing_from_anybody_unless_told_whose_it_is(
    redis: RedisServer, objects: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(redis, BETA, MADE[0])
    assert objects.code("adopt", "acme", "file", "file-1", "file-2") == 1
    assert "file-1 is beta's" in objects.err
    assert owned(redis, ACME, *MADE[:2]) == [False, True]
    objects("adopt", "acme", "file", "file-1", "--from", "beta")
    assert owned(redis, ACME, *MADE[:2]) == [True, True]
    assert owned(redis, BETA, *MADE[:2]) == [False, False]
    given(monkeypatch, "file-8 1600000000\n\nfile-9\n")
    assert "2 objects more" in objects("adopt", "acme", "file")
    entries = objects.document("list", "acme", "--kind", "file")
    assert {"id": "file-8", "created_at": 1_600_000_000} in entries
    given(monkeypatch, "file-10 yesterday\n")
    assert objects.code("adopt", "acme", "file") == 1


class AtTerminal(io.TextIOWrapper):
    """Standard input as a person has it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("arguments", "what"), [(["adopt", "acme", "file"], "an id on each line"), (["import"], "of the log")]
)
def test_who_sits_at_a_terminal_is_told_what_is_waited_for(
    objects: Command, monkeypatch: pytest.MonkeyPatch, arguments: list[str], what: str
) -> None:
    monkeypatch.setattr(sys, "stdin", AtTerminal(io.BytesIO(), encoding="utf-8"))
    objects(*arguments)
    assert f"{what} from standard input; Ctrl-D ends it" in objects.err
    given(monkeypatch, "")
    objects(*arguments)
    assert objects.err == ""


def test_disown_has_it_be_nobodys(redis: RedisServer, objects: Command) -> None:
    record(redis, ACME, *MADE)
    objects("disown", "acme", "response", "resp_1")
    assert objects.code("disown", "acme", "file", "file-1", "file-9") == 1
    assert owned(redis, ACME, *MADE) == [False, True, True, False, True]


def test_what_is_exported_comes_back_in_the_same_order(
    redis: RedisServer, objects: Command, tmp_path: Path
) -> None:
    many = [Made("file", f"file-{n}", 1_700_000_000 + n // 300) for n in range(1_200)]
    threads = [Made("thread", f"thread_{n}", 1.0) for n in range(700)]  # thread_1 of MADE among them
    record(redis, ACME, *many, *threads, *MADE[2:])
    record(redis, BETA, Made("file", 'odd "ü', 1_700_000_000))
    saved = tmp_path / "saved.jsonl"
    saved.write_text(objects("export"), encoding="utf-8")
    before = objects.document("list", "acme", "--kind", "file")
    redis.command("FLUSHALL")
    assert "nothing was changed" in objects("import", str(saved), "--dry-run")
    assert owned(redis, ACME, many[0]) == [False]
    said = objects("import", str(saved))
    assert "1,903 objects of 2 tenants, 1,903 of which were not known" in said
    assert ", 0 of which were not known" in objects("import", str(saved))
    assert objects.document("list", "acme", "--kind", "file") == before
    assert all(owned(redis, ACME, *many, *threads, *MADE[2:]))
    assert owned(redis, BETA, Made("file", 'odd "ü', 1.0), many[0]) == [True, False]


def test_the_log_brings_back_what_was_made_and_says_what_it_cannot_use(
    redis: RedisServer, objects: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = "2026-11-27T03:00:00.5+00:00"
    step = Step(ACME, (Made("file", "file-waited", 1.7e9),))
    lines: list[object] = [
        {
            "time": at,
            "tenant": "acme",
            "storage": STORAGE,
            "created": [["file", "file-1"], ["response", "resp_1"]],
        },
        {"time": at, "tenant": "acme", "upstream": "default", "created": [["batch", "batch_1"]]},
        {"time": at, "tenant": "gone", "storage": "vllm:8000/v1", "created": [["file", "file-3"]]},
        {"time": at, "tenant": "acme", "operation": "listModels"},
        {
            "event": "process",
            "logger": "gateway.objects",
            "message": f"no room: {step.written().decode().strip()}",
        },
        {"event": "process", "logger": "gateway", "message": "serving"},
        {"time": at, "tenant": "acme", "upstream": "unknown", "created": [["file", "file-4"]]},
        {"time": at, "tenant": "acme", "storage": STORAGE, "created": [["unknown", "file-5"]]},
        {"time": "yesterday", "tenant": "acme", "storage": STORAGE, "created": [["file", "file-6"]]},
        {"time": at, "tenant": "acme", "storage": STORAGE, "created": [["file", 7]]},
    ]
    text = "".join(f"{orjson.dumps(line).decode()}\n" for line in lines) + "no JSON\n\n[]\n"
    text += Step(ACME, (Made("file", "file-aside", 1.7e9),)).written().decode()
    given(monkeypatch, text)
    assert objects.code("import") == 1
    assert "5 of them name 6 objects of 2 tenants, 6 of which were not known" in objects.out
    assert "6 lines could not be used" in objects.err
    assert "line 7" in objects.err
    made = [
        Made("file", "file-1", 1),
        MADE[2],
        MADE[3],
        Made("file", "file-waited", 1),
        Made("file", "file-aside", 1),
    ]
    assert owned(redis, ACME, *made) == [True] * 5
    assert owned(redis, Scope("vllm:8000/v1", "gone"), Made("file", "file-3", 1)) == [True]


def logged(*created: tuple[str, str, str]) -> bytes:
    """Lines of the log: tenant, kind and id."""
    at = "2026-11-27T03:00:00.5+00:00"
    return b"".join(
        orjson.dumps({"time": at, "tenant": tenant, "storage": STORAGE, "created": [[kind, name]]}) + b"\n"
        for tenant, kind, name in created
    )


@pytest.mark.parametrize("kind", ["file", "response"])
def test_a_log_of_before_gives_nobody_back_what_was_given_to_another_since(
    redis: RedisServer, objects: Command, tmp_path: Path, kind: str
) -> None:
    made = Made(kind, "one-of-them", time.time())
    log = tmp_path / "access.log"
    log.write_bytes(logged(("acme", kind, made.id), ("beta", kind, "another"), ("gone", kind, "of-the-gone")))
    objects("import", str(log))
    assert "no such tenant: gone" in objects.err
    objects("adopt", "beta", kind, made.id, "--from", "acme")
    objects("adopt", "acme", kind, "of-the-gone", "--from", "gone")
    objects("import", str(log))
    assert "2 of them are another tenant's by now, and stay so" in objects.err
    assert (owned(redis, ACME, made), owned(redis, BETA, made)) == ([False], [True])
    assert owned(redis, GONE, Made(kind, "of-the-gone", 1.0)) == [False]
    twice = tmp_path / "twice.log"
    twice.write_bytes(logged(("unheard", kind, "strange"), ("never", kind, "strange")))
    objects("import", str(twice))
    assert "1 of them are another tenant's" in objects.err
    assert owned(redis, Scope(STORAGE, "unheard"), Made(kind, "strange", 1.0)) == [True]


def test_logs_that_rotation_has_compressed_are_read(
    redis: RedisServer, objects: Command, tmp_path: Path
) -> None:
    log = tmp_path / "access.log.2.gz"
    content = gzip.compress(logged(*(("acme", "file", f"file-{n}") for n in range(2_500))))
    log.write_bytes(content)
    assert "2,500 of which were not known" in objects("import", str(log))
    assert all(owned(redis, ACME, Made("file", "file-0", 1), Made("file", "file-2499", 1)))
    log.write_bytes(content[: len(content) // 2])
    assert objects.code("import", str(log)) == 1
    assert "cut off or damaged" in objects.err


def test_what_redis_has_lost_is_acknowledged_or_imported(
    redis: RedisServer, objects: Command, tmp_path: Path
) -> None:
    def lost(scope: Scope) -> bool:
        async def work(store: RedisObjects) -> bool:
            return (await store.begin(scope, recorded=None)).lost_since is not None

        return in_store(redis, work)

    def lose(*scopes: Scope) -> None:
        async def work(store: RedisObjects) -> None:
            for scope in scopes:
                await store.begin(scope, recorded=None, mark="of before")

        redis.command("FLUSHALL")
        in_store(redis, work)

    record(redis, ACME, *MADE)
    saved = tmp_path / "saved.jsonl"
    saved.write_text(objects("export"), encoding="utf-8")
    lose(ACME, BETA)
    assert (lost(ACME), lost(BETA)) == (True, True)
    objects("import", str(saved))
    assert (lost(ACME), lost(BETA)) == (False, True)
    assert "beta" in objects("acknowledge", "beta")
    assert (lost(ACME), lost(BETA)) == (False, False)
    assert "Nothing is known to be lost" in objects("acknowledge")


def test_help_has_every_action(objects: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["objects", "--help"])
    said = capsys.readouterr().out
    assert all(
        action in said
        for action in ("list", "show", "adopt", "disown", "acknowledge", "export", "import", "orphans")
    )


@asynccontextmanager
async def listing(*pages: list[tuple[str, int]]) -> AsyncIterator[tuple[ScriptedUpstream, list[str]]]:
    """An upstream that lists batches, page by page, newest first."""
    targets: list[str] = []

    async def script(turn: Turn) -> None:
        await turn.read_body()
        page = pages[len(targets)] if len(targets) < len(pages) else []
        targets.append(turn.seen.target)
        document = {
            "object": "list",
            "data": [{"id": name, "created_at": at} for name, at in page],
            "has_more": len(targets) < len(pages),
        }
        body = orjson.dumps(document)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        await turn.send(head.encode() + body)

    async with ScriptedUpstream() as upstream:
        upstream.plays(script)
        yield upstream, targets


async def test_orphans_names_what_appeared_then_and_is_nobodys(
    redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = int(time.time())
    began = now - 7_200
    pages = (
        [("batch_young", now - 60), ("batch_late", began + 2_000), ("batch_orphan", began + 2)],
        [("batch_owned", began + 1), ("batch_old", began - 3_000)],
        [("batch_older", began - 9_000)],
    )
    async with listing(*pages) as (upstream, targets):
        config = written(tmp_path, redis, upstream.base_url)
        storage = upstream.base_url.removeprefix("http://")
        acme, beta = Scope(storage, "acme"), Scope(storage, "beta")
        store = store_on(redis.url)
        await store.look(acme, [], Intent("exchange-1", "batch", "alice", float(began)))
        await store.look(acme, [], Intent("exchange-2", "thread", "alice", float(began)))
        await store.look(acme, [], Intent("exchange-3", "batch", "alice", float(now)))
        await store.record(beta, [Made("batch", "batch_owned", began + 1)])
        run = Command(config, capsys)
        code = await asyncio.to_thread(run.code, "orphans", "--json")
        assert code == 1
        batch, thread = orjson.loads(run.out)
        assert batch["exchange_id"] == "exchange-1"
        assert [one["id"] for one in batch["found"]] == ["batch_orphan"]
        assert (thread["found"], thread["unread"]) == ([], "the upstream has no list of these")
        assert len(targets) == 2, "what is older is not asked for"
        assert "after=batch_orphan" in targets[1]
        targets.clear()
        await asyncio.to_thread(run, "adopt", "acme", "batch", "batch_orphan")
        assert await asyncio.to_thread(run.code, "orphans", "--forget") == 1
        assert "nothing that is nobody's" in run.out
        assert [intent.exchange_id async for intent in store.intents(acme)] == ["exchange-3"]
        assert await asyncio.to_thread(run.code, "orphans") == 0
        await store.close()


async def test_orphans_says_what_it_could_not_ask(
    redis: RedisServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = written(tmp_path, redis, "http://127.0.0.1:1/v1")
    store = store_on(redis.url)
    began = time.time() - 7_200
    await store.look(Scope("127.0.0.1:1/v1", "acme"), [], Intent("exchange-1", "batch", "alice", began))
    await store.begin(Scope(STORAGE, "gone"), recorded=False)
    await store.look(Scope(STORAGE, "gone"), [], Intent("exchange-2", "file", "bob", began))
    run = Command(config, capsys)
    assert await asyncio.to_thread(run.code, "orphans") == 1
    assert "cannot be read" in run.out
    assert "no such tenant any more" in run.out
    await store.close()
