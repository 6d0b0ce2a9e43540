"""What head, path and query name of what is stored is found whole, and what no registry could tell apart is refused."""

from __future__ import annotations

import pytest

from gateway.credentials.principal import Principal
from gateway.errors import BadRequest, SharedUpstream
from gateway.operations.stored_kinds import StoredKinds
from gateway.operations.table import OperationTable
from gateway.policy.accounts import History
from gateway.policy.caller import Caller
from gateway.policy.ownership import (
    check_run_by_batch,
    check_told_apart,
    made_inside,
    parts_below,
    references_in_head,
    untold,
)
from gateway.policy.references import LONGEST_ID, is_id
from gateway.policy.tenants import tenant_policies
from gateway.settings.sources import load
from gateway.wire.body_facts import Reference

TABLE, KINDS = OperationTable.load(), StoredKinds.load()
PRINCIPAL = Principal("a", "", frozenset(), "", 0.0, 0.0)


def caller(*, redis: bool = True) -> Caller:
    """One of two tenants of an account."""
    settings = load(
        flags={
            "upstream": {"base_url": "http://api.test/v1", "api_key": "sk-common"},
            "tenants": {"a": {}, "b": {}},
            **({"redis_url": "redis://redis.test"} if redis else {}),
        },
        environ={},
    )
    return Caller(PRINCIPAL, tenant_policies(settings, TABLE, History())["a"])


CALLER = caller()


def named(target: str, method: str = "GET") -> tuple[Reference, ...]:
    found = TABLE.match(method, target)
    return references_in_head(CALLER, KINDS.place_of(found.operation), found.params, target)


@pytest.mark.parametrize(
    ("target", "references"),
    [
        ("/v1/files/file-1", [("file", "file-1", "")]),
        ("/v1/files/file%2D1/content", [("file", "file-1", "")]),
        ("/v1/threads/thread_1/runs/run_1/steps", [("thread", "thread_1", "")]),
        ("/v1/threads/thread_1/messages?run_id=run_1", [("thread", "thread_1", "")]),
        ("/v1/threads/thread_1/messages?after=msg_1", [("thread", "thread_1", "")]),
        ("/v1/files?limit=3&purpose=batch&order=asc", []),
        ("/v1/files?after=file-1", [("file", "file-1", "after")]),
        ("/v1/files?before=file-2&after=file-1", [("file", "file-2", "before"), ("file", "file-1", "after")]),
        ("/v1/files?after=", []),
        ("/v1/files?%61fter=file-1", [("file", "file-1", "after")]),
        ("/v1/files?file_id=file-1&file_id=file-1", [("file", "file-1", "file_id")]),
        ("/v1/models?file_id=file-1", [("file", "file-1", "file_id")]),
        ("/v1/models?x=1;file_id=file-1", [("file", "file-1", "file_id")]),
        ("/v1/models?file_id=file-1;x", [("file", "file-1;x", "file_id"), ("file", "file-1", "file_id")]),
        ("/v1/models?metadata[file_id]=file-1", []),
    ],
)
def test_path_and_query_name_by_their_places(target: str, references: list[tuple[str, str, str]]) -> None:
    assert list(named(target)) == [Reference(*one) for one in references]


@pytest.mark.parametrize(
    ("target", "code", "param"),
    [
        ("/v1/files?after=file-1&after=file-2", "duplicate_parameter", "after"),
        ("/v1/files?after=&after=file-2", "duplicate_parameter", "after"),
        ("/v1/files?After=file-1", "duplicate_parameter", "after"),
        ("/v1/files?after[]=file-1", "duplicate_parameter", "after"),
        ("/v1/models?File_ID=file-1", "bad_request", "file_id"),
        ("/v1/models?file_ids[0]=file-1", "bad_request", "file_ids"),
    ],
)
def test_what_a_query_says_in_two_ways_is_refused(target: str, code: str, param: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        named(target)
    assert (refusal.value.code, refusal.value.param) == (code, param)


@pytest.mark.parametrize("name", ["run_id", "something_of_tomorrow_id", "skill_id"])
def test_a_query_that_names_what_no_registry_knows_is_refused(name: str) -> None:
    with pytest.raises(SharedUpstream) as refusal:
        named(f"/v1/models?{name}=x")
    assert refusal.value.param == name


@pytest.mark.parametrize("target", ["/v1/files/{}", "/v1/models?file_id={}", "/v1/files?after={}"])
def test_an_id_that_is_too_long_is_none_and_never_the_beginning_of_it(target: str) -> None:
    (reference,) = named(target.format("f" * (LONGEST_ID + 9)))

    assert not is_id(reference.id)
    assert len(reference.id) == LONGEST_ID + 1


@pytest.mark.parametrize(
    ("method", "target", "reason"),
    [
        ("GET", "/v1/evals", "runs of evals read stored answers"),
        ("POST", "/v1/fine_tuning/jobs", "names which everybody behind the key can call"),
        ("GET", "/v1/skills/skill_1", "skills belong to everybody"),
        ("POST", "/v1/audio/voices", "voices belong to everybody"),
        ("POST", "/v1/chatkit/sessions", "its sessions run past the gateway"),
        ("POST", "/v1/webhook_endpoints", "an endpoint is sent the events of everybody"),
        ("DELETE", "/v1/models/ft:gpt-4o", "models are everybody's"),
        ("GET", "/v1/of_tomorrow", "nobody can tell whose they are"),
        ("POST", "/v1/of_tomorrow", "nobody can tell whose they are"),
    ],
)
def test_what_cannot_be_told_apart_stays_closed_with_its_reason(
    method: str, target: str, reason: str
) -> None:
    with pytest.raises(SharedUpstream, match=reason):
        check_told_apart(CALLER, TABLE.match(method, target).operation, socket=False, joins=False)


@pytest.mark.parametrize(
    ("method", "target"),
    [("GET", "/v1/files"), ("POST", "/v1/responses"), ("POST", "/v1/embeddings"), ("GET", "/v1/models")],
)
def test_what_can_be_told_apart_is_open(method: str, target: str) -> None:
    check_told_apart(CALLER, TABLE.match(method, target).operation, socket=False, joins=False)


def test_a_socket_is_open_where_its_events_are_known_and_joins_nothing() -> None:
    realtime = TABLE.match("GET", "/v1/realtime", socket=True).operation
    check_told_apart(CALLER, realtime, socket=True, joins=False)

    with pytest.raises(SharedUpstream) as refusal:
        check_told_apart(CALLER, realtime, socket=True, joins=True)
    assert refusal.value.param == realtime.joined_by
    with pytest.raises(SharedUpstream, match="not known to have a WebSocket"):
        check_told_apart(CALLER, TABLE.by_id("listFiles"), socket=True, joins=False)


def test_the_query_of_a_socket_names_nothing_that_is_stored() -> None:
    realtime = TABLE.match("GET", "/v1/realtime", socket=True).operation
    check_told_apart(CALLER, realtime, socket=True, joins=False, target="/v1/realtime?model=gpt-realtime")

    for query in ("file_id=file-1", "x=1;File_ID=file-1", "prompt[id]=pmpt_1"):
        with pytest.raises(SharedUpstream, match="in the query names a stored object"):
            check_told_apart(CALLER, realtime, socket=True, joins=False, target=f"/v1/realtime?{query}")


def run_by_batch(endpoint: str) -> None:
    check_run_by_batch(CALLER, TABLE.match("POST", endpoint).operation, endpoint)


def test_a_batch_runs_neither_what_is_closed_nor_what_path_or_query_name() -> None:
    run_by_batch("/v1/responses")

    with pytest.raises(SharedUpstream, match="evals"):
        run_by_batch("/v1/evals")
    for endpoint in ("/v1/threads/thread_1/messages", "/v1/responses?file_id=file-1"):
        with pytest.raises(SharedUpstream, match="path or query names what may be") as refusal:
            run_by_batch(endpoint)
        assert refusal.value.param == "endpoint"


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        ("skill_id", "skills belong to everybody"),
        ("Skill_ID", "skills belong to everybody"),
        ("of_tomorrow_id", "keeps no record"),
    ],
)
def test_a_member_of_no_kind_is_refused_with_its_reason_in_whatever_letters(member: str, reason: str) -> None:
    refusal = untold(CALLER, member)

    assert reason in refusal.message
    assert refusal.param == member


def test_what_is_made_inside_a_request_matters_where_somebody_records_it() -> None:
    operation = TABLE.by_id("createThread")

    assert made_inside(CALLER, operation) == ("tool_resources.file_search.vector_stores",)
    assert made_inside(caller(redis=False), operation) == ()
    assert made_inside(CALLER, TABLE.by_id("createResponse")) == (), "that is said by `store`"


def test_parts_are_named_below_what_decides_about_them() -> None:
    assert parts_below(TABLE.by_id("createRun")) == ("message_id", "run_id", "step_id")
    assert parts_below(TABLE.by_id("createResponse")) == ()
