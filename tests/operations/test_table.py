"""The operation table holds the whole API, and no target is read otherwise than an upstream would read it."""

from __future__ import annotations

import ast
import csv
import posixpath
import random
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from gateway.operations import table
from gateway.operations.model_places import ModelPlaces
from gateway.operations.own import OWN
from gateway.operations.table import (
    AMONG_SESSIONS,
    NEVER_UNLISTED,
    UNLISTED_READ,
    UNLISTED_WRITE,
    NeverUnlisted,
    NotUnderV1,
    Operation,
    OperationTable,
    Rewrite,
    UsageReport,
    Work,
)
from gateway.operations.targets import MAX_PATH_BYTES, MAX_QUERY_BYTES, TargetRefused
from gateway.simulator.resources import generic_handlers

TABLE = OperationTable.load()
REFUSALS = (TargetRefused, NotUnderV1, NeverUnlisted)

# The API as published, two editions merged.
with Path(__file__).with_name("operations_reference.csv").open(newline="") as file:
    PUBLISHED = [(row["method"], row["path"], row["id"]) for row in csv.DictReader(file)]


USES = {
    *("tokens", "images", "audio_megabytes", "audio_seconds", "audio_characters", "video_seconds"),
    *("batch_input_tokens", "training_tokens", "storage_bytes", "code_interpreter_sessions"),
}


def example(path: str) -> str:
    """Fill each parameter with a value that is no literal of the API."""
    return re.sub(r"\{(\w+)\}", r"x-\1", path)


def outcome(method: str, target: str) -> str:
    """Return the operation's id, or the name of the refusal."""
    try:
        return TABLE.match(method, target).operation.id
    except REFUSALS as refusal:
        return type(refusal).__name__


# The table


def test_the_table_has_the_published_api_and_the_realtime_upgrade() -> None:
    listed = {(operation.method, operation.path, operation.id) for operation in TABLE}
    assert listed >= {*PUBLISHED, ("GET", "/v1/realtime", "connectRealtime")}
    assert len(PUBLISHED) == 281
    assert len(TABLE) == len(TABLE.operations) == len({operation.id for operation in TABLE})


@pytest.mark.parametrize(("method", "path", "operation_id"), PUBLISHED, ids=[row[2] for row in PUBLISHED])
def test_a_published_operation_is_matched_by_its_own_path(method: str, path: str, operation_id: str) -> None:
    match = TABLE.match(method, example(path))
    assert match.operation is TABLE.by_id(operation_id)
    assert match.params == {name: f"x-{name}" for name in match.operation.id_params}
    assert match.operation.path.format(**match.params) == example(path)


def test_iteration_is_sorted_by_path_and_method() -> None:
    keys = [(operation.path, operation.method) for operation in TABLE]
    assert keys == sorted(keys)


@pytest.mark.parametrize("operation", TABLE.operations, ids=lambda operation: operation.id)
def test_every_column_of_a_row_is_filled(operation: Operation) -> None:
    assert re.fullmatch(r"[a-z][A-Za-z]+", operation.id)
    assert operation.method in {"GET", "POST", "DELETE"}
    assert re.fullmatch(r"/v1(/[a-z0-9_]+|/\{[a-z_]+\})+", operation.path)
    assert re.fullmatch(r"[a-z_]+", operation.group)
    for media_type in operation.request_types + operation.response_types:
        assert re.fullmatch(r"[a-z*]+/[a-z0-9*-]+", media_type)
    assert operation.request_types == () or operation.method == "POST"
    assert operation.streams or "text/event-stream" not in operation.response_types
    assert set(operation.uses) <= USES
    assert len(set(operation.uses)) == len(operation.uses)
    assert operation.streams or operation.reports is not UsageReport.ON_REQUEST
    assert re.fullmatch(r"[a-z_]+(;[a-z_]+)?", operation.object_kind)
    assert operation.object_action in {"create", "read", "list", "update", "delete", "none"}
    assert (operation.object_kind == "none") == (operation.object_action == "none")
    model = operation.model
    assert model.body is None or "application/json" in operation.request_types
    assert model.form is None or "multipart/form-data" in operation.request_types
    assert model.path is None or model.path in operation.id_params
    assert not (model.required and model.may_lack)


def test_what_streams_in_the_api_streams_in_the_table() -> None:
    published = {operation_id for _, _, operation_id in PUBLISHED} | {"connectRealtime"}
    assert {operation.id for operation in TABLE if operation.streams} & published == {
        "createChatCompletion", "createCompletion", "createResponse", "getResponse",
        "createImage", "createImageEdit", "createSpeech", "createTranscription",
        "createRun", "createThreadAndRun", "submitToolOuputsToRun", "connectRealtime",
        "downloadFile", "retrieveContainerFileContent", "retrieveVideoContent",
        "getSkillContent", "getSkillVersionContent",
    }  # fmt: skip


def test_the_realtime_upgrade_names_its_model_in_the_query() -> None:
    operation = TABLE.match("GET", "/v1/realtime?model=gpt-realtime").operation
    assert operation.id == "connectRealtime"
    assert operation.scope == "realtime:write"
    assert operation.model == ModelPlaces(query="model", required=True)
    assert operation.is_session
    assert operation.reports is UsageReport.REPORTED


def test_everything_that_the_upstream_stores_is_shared_state_but_for_what_belongs_to_nobody() -> None:
    open_to_all = {
        operation.id
        for operation in TABLE
        if operation.object_kind != "none"
        and not operation.is_administration
        and not operation.is_shared_state
    }

    assert open_to_all == {
        *("listModels", "retrieveModel", "createResponse", "createRealtimeSession"),
        *("createRealtimeClientSecret", "createRealtimeTranslationClientSecret"),
        "createRealtimeTranscriptionSession",
    }
    assert UNLISTED_READ.is_shared_state
    assert UNLISTED_WRITE.is_shared_state
    assert not any(operation.is_shared_state for operation in TABLE if operation.object_kind == "none")


def test_usage_is_counted_where_it_is_made_and_nowhere_else() -> None:
    reporting = {operation.id for operation in TABLE if operation.counts_usage}
    assert {
        "createChatCompletion",
        "createEmbedding",
        "createModeration",
        "createImage",
        "createSpeech",
    } <= reporting
    assert {"createTranscription", "createRun", "submitToolOuputsToRun", "createResponse"} <= reporting
    repeating = {"getResponse", "listRuns", "getRun", "getRunStep", "cancelRun", "listChatCompletions"}
    assert not reporting & (repeating | {"createFile", "createRealtimeSession", "createBatch", "listModels"})


def test_a_new_operation_is_a_row_and_nothing_else() -> None:
    """The example that the table itself gives, with no edit anywhere else."""
    text = Path(table.__file__).with_name("operations.toml").read_text()
    [example_row] = re.findall(r"^#   \{ id = .*(?=,$)", text, re.MULTILINE)
    new = Operation.read("audio", tomllib.loads(f"row = {example_row.removeprefix('#')}")["row"])
    without = OperationTable(
        operation for operation in TABLE if operation.id != new.id
    )  # it may be tried out
    with_it = OperationTable([*without, new])

    assert with_it.match("POST", "/v1/audio/dubs").operation is new
    assert set(with_it.scopes) - set(without.scopes) == {"audio.dubs:write"}
    assert (new.streams, new.model, new.work) == (
        True,
        ModelPlaces(form="model", required=True),
        Work.GENERATION,
    )
    assert new.counts_usage
    assert new.is_shared_state
    assert new.id in generic_handlers(with_it)


def test_what_a_row_leaves_out_follows_from_the_rest_of_it() -> None:
    row = {"id": "x", "method": "POST", "path": "/v1/x", "scope": "x:write", "object": "none none"}

    assert not Operation.read("x", row).is_shared_state
    assert Operation.read("x", row | {"object": "thing create"}).is_shared_state
    assert not Operation.read("x", row | {"object": "thing create", "scope": "org.x:write"}).is_shared_state
    assert not Operation.read("x", row | {"object": "thing read", "is_shared_state": False}).is_shared_state
    assert Operation.read("x", row).work is Work.STORED
    assert Operation.read("x", row | {"streams": True}).work is Work.TRANSFER
    assert Operation.read("x", row | {"request_types": ["multipart/form-data"]}).work is Work.TRANSFER
    assert Operation.read("x", row | {"model": {"may_lack": True}}).work is Work.GENERATION
    assert Operation.read("x", row | {"model": {"body": "model"}, "work": "stored"}).work is Work.STORED


@pytest.mark.parametrize(
    "column",
    [{"reports": "sometimes"}, {"rewrite": "x"}, {"work": "x"}, {"object": "thing"}, {"stream": True}],
)
def test_a_word_that_the_table_does_not_have_is_refused(column: dict[str, object]) -> None:
    row = {"id": "x", "method": "GET", "path": "/v1/x", "scope": "x:read", "object": "none none"}
    with pytest.raises((ValueError, TypeError)):
        Operation.read("x", row | column)


def test_what_the_gateway_changes_closes_and_leaves_alone_is_said_in_the_table() -> None:
    def having(column: str, value: object) -> set[str]:
        return {operation.id for operation in TABLE if getattr(operation, column) == value}

    assert having("rewrite", Rewrite.MODEL_LIST) == {"listModels"}
    assert having("rewrite", Rewrite.REALTIME_SECRET) == {
        operation.id for operation in TABLE if operation.scope == "realtime:mint"
    }
    assert having("is_contained", value=False) == {
        operation.id
        for operation in TABLE
        if operation.path.startswith((*AMONG_SESSIONS[1:], "/v1/realtime/calls"))
    }
    assert having("is_session", value=True) == {
        *(
            "connectRealtime",
            "connectRealtimeTranscription",
            "connectRealtimeTranslation",
            "connectResponses",
        ),
    }
    assert having("is_batch", value=True) == {"createBatch"}
    assert having("goes_on", value=True) == {"createRun", "createThreadAndRun", "submitToolOuputsToRun"}
    assert having("reports", UsageReport.ON_REQUEST) == {"createChatCompletion", "createCompletion"}
    assert having("has_output", value=False) == {
        *("createEmbedding", "createModeration", "createRerank", "createReranking", "createScore"),
        *("createClassification", "createPooling"),
    }
    assert {o.id for o in TABLE if "audio_characters" in o.uses} == {"createSpeech"}
    assert not any(o.is_own or o.is_unlisted for o in TABLE)
    assert all(operation.is_own for operation in OWN.values())
    assert UNLISTED_READ.is_unlisted
    assert UNLISTED_WRITE.is_unlisted


def test_no_other_module_knows_an_operation_by_its_id() -> None:
    package = Path(table.__file__).parents[1]
    ids = {operation.id for operation in (*TABLE, *OWN.values(), UNLISTED_READ)}
    known = [
        f"{path.relative_to(package)}:{node.lineno} {node.value!r}"
        for path in sorted(package.rglob("*.py"))
        if path.relative_to(package).parts[0] not in ("operations", "simulator")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in ids
    ]
    assert known == []


def test_an_unknown_id_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        TABLE.by_id("unlisted")


def test_two_rows_cannot_share_an_id_or_a_method_and_path() -> None:
    row = TABLE.by_id("getThread")
    with pytest.raises(ValueError, match="share an id"):
        OperationTable([row, replace(row, path="/v1/elsewhere")])
    with pytest.raises(ValueError, match="share a method and path"):
        OperationTable([row, replace(row, id="other", path="/v1/threads/{other}")])


# Scopes


def test_a_scope_reads_for_get_and_writes_otherwise() -> None:
    minting = {
        "createRealtimeSession",
        "createRealtimeTranscriptionSession",
        "createRealtimeClientSecret",
        "createRealtimeTranslationClientSecret",
    }
    for operation in TABLE:
        resource, action = operation.scope.split(":")
        assert re.fullmatch(r"(org\.)?[a-z_]+(\.[a-z_]+)?", resource)
        if operation.id in minting:
            assert operation.scope == "realtime:mint"
        elif operation.is_session or operation.id in {"connectLive", "connectLiveFork", "attachLiveSession"}:
            assert operation.method == "GET"
            assert action == "write"
        else:
            assert action == ("read" if operation.method == "GET" else "write"), operation


def test_administration_and_nothing_else_needs_org_scopes() -> None:
    for operation in TABLE:
        administration = operation.path.startswith(("/v1/organization/", "/v1/projects/"))
        assert operation.is_administration == administration, operation
        assert operation.group.startswith("org_") == administration, operation


@pytest.mark.parametrize(
    ("operation_id", "scope"),
    [
        ("createChatCompletion", "chat.completions:write"),
        ("listChatCompletions", "chat.completions:read"),
        ("createTranslation", "audio.transcriptions:write"),
        ("createVoice", "audio.voices:write"),
        ("createUpload", "files:write"),
        ("listMessages", "threads:read"),
        ("listRunSteps", "runs:read"),
        ("createResponse", "responses:write"),
        ("getResponse", "responses:read"),
        ("listVectorStoreFiles", "vector_stores:read"),
        ("adminApiKeysCreate", "org.admin_keys:write"),
        ("listProjectRoles", "org.project_roles:read"),
    ],
)
def test_an_operation_needs_the_scope_of_its_resource(operation_id: str, scope: str) -> None:
    assert TABLE.by_id(operation_id).scope == scope


def test_the_closed_set_of_scopes_includes_the_unlisted_ones_and_what_no_operation_needs() -> None:
    needed = {operation.scope for operation in TABLE}
    assert set(TABLE.scopes) == needed | {"unlisted:read", "unlisted:write", "usage:read"}
    assert "usage:read" not in needed
    assert list(TABLE.scopes) == sorted(TABLE.scopes)


# Matching


@pytest.mark.parametrize(
    ("method", "target", "operation_id", "params"),
    [
        ("POST", "/v1/threads/runs", "createThreadAndRun", {}),
        ("GET", "/v1/threads/runs", "getThread", {"thread_id": "runs"}),
        ("HEAD", "/v1/threads/runs", "getThread", {"thread_id": "runs"}),
        ("POST", "/v1/threads/runs/runs", "createRun", {"thread_id": "runs"}),
        ("POST", "/v1/threads/runs/messages", "createMessage", {"thread_id": "runs"}),
        ("POST", "/v1/responses/compact", "compactConversation", {}),
        ("POST", "/v1/responses/compact/cancel", "cancelResponse", {"response_id": "compact"}),
        ("GET", "/v1/videos/characters", "getVideo", {"video_id": "characters"}),
        ("GET", "/v1/videos/characters/content", "getVideoCharacter", {"character_id": "content"}),
        ("GET", "/v1/organization/certificates/activate", "getCertificate", {"certificate_id": "activate"}),
    ],
)
def test_a_literal_wins_over_a_parameter_segment_by_segment(
    method: str, target: str, operation_id: str, params: dict[str, str]
) -> None:
    match = TABLE.match(method, target)
    assert (match.operation.id, dict(match.params)) == (operation_id, params)


@pytest.mark.parametrize(
    "model", ["ft:gpt-4o-mini:acme::abc", "ft%3Agpt%20x", "caf%C3%A9", "...", ".a", "a.", "@$&'()*+,=!~_-"]
)
def test_a_parameter_keeps_its_raw_text(model: str) -> None:
    match = TABLE.match("GET", f"/v1/models/{model}")
    assert (match.operation.id, match.params["model"]) == ("retrieveModel", model)


@pytest.mark.parametrize(
    "query",
    [
        "",
        "beta=true",
        "include[]=step_details.tool_calls[*].file_search.results[*].content",
        "a=%2F%5C%00%zz&b=../..//;\\?%",
        "x" * MAX_QUERY_BYTES,
    ],
)
def test_the_query_is_the_business_of_the_client(query: str) -> None:
    target = f"/v1/threads/t/runs/r/steps/s?{query}"
    match = TABLE.match("GET", target)
    assert match.operation.id == "getRunStep"
    assert match.params == {"thread_id": "t", "run_id": "r", "step_id": "s"}


def test_a_parameter_is_never_empty() -> None:
    table = OperationTable([replace(TABLE.by_id("getThread"), path="/v1/things/{thing_id}")])
    assert table.match("GET", "/v1/things/x").params == {"thing_id": "x"}
    assert table.match("GET", "/v1/things/").operation is UNLISTED_READ


def test_head_is_its_get() -> None:
    for operation in TABLE:
        if operation.method == "GET" and operation.over_http is None:
            assert outcome("HEAD", example(operation.path)) == operation.id


def test_a_socket_beside_an_operation_is_what_an_upgrade_names_and_nothing_else_is() -> None:
    beside = TABLE.by_id("connectResponses")
    assert beside.scope == TABLE.by_id(beside.over_http or "").scope
    for target in ("/v1/responses", "/v1/responses?beta=true"):
        assert TABLE.match("GET", target, socket=True).operation is beside
        assert TABLE.match("GET", target).operation is UNLISTED_READ
        assert TABLE.match("HEAD", target, socket=True).operation is UNLISTED_READ
        assert TABLE.match("POST", target, socket=True).operation.id == "createResponse"
    assert TABLE.match("GET", "/v1/realtime?model=m", socket=True).operation.id == "connectRealtime"
    assert TABLE.match("GET", "/v1/realtime?model=m").operation.id == "connectRealtime"
    assert TABLE.match("GET", "/v1/models", socket=True).operation.id == "listModels"
    for operation in TABLE:
        if operation.method == "GET" and operation.over_http is None:
            assert TABLE.match("GET", example(operation.path), socket=True).operation is operation
    with pytest.raises(TargetRefused):
        TABLE.match("GET", "/v1/Responses", socket=True)


@pytest.mark.parametrize(
    ("method", "target", "operation"),
    [
        ("GET", "/v1/new_things", UNLISTED_READ),
        ("HEAD", "/v1/new_things/1?x=y", UNLISTED_READ),
        ("POST", "/v1/new_things", UNLISTED_WRITE),
        ("PATCH", "/v1/chat/completions", UNLISTED_WRITE),
        ("OPTIONS", "/v1/chat/completions", UNLISTED_WRITE),
        ("GET", "/v1/embeddings", UNLISTED_READ),
        ("PATCH", "/v1/threads/thread_ABC", UNLISTED_WRITE),
        ("POST", "/v1/new_things/", UNLISTED_WRITE),
        ("GET", "/v1/New/%20", UNLISTED_READ),
    ],
)
def test_a_path_or_method_outside_the_table_is_unlisted(
    method: str, target: str, operation: Operation
) -> None:
    match = TABLE.match(method, target)
    assert match.operation is operation
    assert match.params == {}


def test_unlisted_operations_have_scopes_of_their_own() -> None:
    assert (UNLISTED_READ.id, UNLISTED_READ.scope) == ("unlisted", "unlisted:read")
    assert (UNLISTED_WRITE.id, UNLISTED_WRITE.scope) == ("unlisted", "unlisted:write")


@pytest.mark.parametrize("target", ["/", "/v1", "/v1/", "/v1?x=1", "/v2/models", "/v1beta/models", "/livez"])
def test_only_paths_under_v1_exist(target: str) -> None:
    assert outcome("GET", target) == "NotUnderV1"


@pytest.mark.parametrize("prefix", NEVER_UNLISTED)
@pytest.mark.parametrize("rest", ["", "s", "/anything", "/Anything", "?x=1", "_billing/1", "/a%20b"])
def test_administration_is_never_unlisted(prefix: str, rest: str) -> None:
    assert outcome("GET", prefix + rest) == "NeverUnlisted"
    assert outcome("PATCH", prefix + rest) == "NeverUnlisted"


def test_an_unlisted_method_on_an_administration_path_is_never_unlisted() -> None:
    assert outcome("PATCH", "/v1/organization/users/u") == "NeverUnlisted"


# Refusals


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("", "begins with '/'"),
        ("*", "begins with '/'"),
        ("v1/models", "begins with '/'"),
        ("http://api.example/v1/models", "begins with '/'"),
        ("//api.example/v1/models", "empty segment"),
        ("/v1//models", "empty segment"),
        ("/v1/models//", "empty segment"),
        ("/v1/models#top", "fragment"),
        ("/v1/models?x=1#top", "fragment"),
        ("/v1\\models", "backslash"),
        ("/v1/models;v=1", "';'"),
        ("/v1/models/a b", "printable ASCII"),
        ("/v1/models/a\tb", "printable ASCII"),
        ("/v1/models/a\x7f", "printable ASCII"),
        ("/v1/models\n", "printable ASCII"),
        ("/v1/models/caf\xe9", "printable ASCII"),
        ("/v1/models?x=\xe9", "printable ASCII"),
        ("/v1/models?x=\x00", "printable ASCII"),
        ("/v1/models?x=1\n", "printable ASCII"),
        ("/v1/models/.", "'.' and '..'"),
        ("/v1/models/..", "'.' and '..'"),
        ("/v1/../v1/models", "'.' and '..'"),
        ("/v1/models/%2e", "'.' and '..'"),
        ("/v1/models/.%2E?x", "'.' and '..'"),
        ("/v1/models/%252e%252e", "percent-encoding"),
        ("/v1/models/a%2Fb", "a model's name"),
        ("/v1/models/a/b%2Fc", "percent-encoding"),
        ("/v1/models%2Fa", "percent-encoding"),
        ("/v1/files/a%2Fb", "percent-encoding"),
        ("/v1/fine_tuning/checkpoints/a%2Fb/permissions", "percent-encoding"),
        ("/v1/models/a%5cb", "percent-encoding"),
        ("/v1/models/a%00", "percent-encoding"),
        ("/v1/models/a%0d%0aHost:x", "percent-encoding"),
        ("/v1/models/a%25", "percent-encoding"),
        ("/v1/models/a%3Bb", "percent-encoding"),
        ("/v1/models/a%3Fb", "percent-encoding"),
        ("/v1/models/a%1F", "percent-encoding"),
        ("/v1/models/a%7f", "percent-encoding"),
        ("/v1/models/a%zz", "hexadecimal"),
        ("/v1/models/a%", "hexadecimal"),
        ("/v1/models/a%4", "hexadecimal"),
        ("/v1/models/[a]", "must be percent-encoded"),
        ('/v1/models/"', "must be percent-encoded"),
        ("/v1/models/{model}", "must be percent-encoded"),
        ("/v1/models/%C0%AE%C0%AE", "UTF-8"),
        ("/v1/models/%FF", "UTF-8"),
        ("/v1/models/%EF%BC%8Fx", "delimiter"),
        ("/v1/x/%EF%BC%8E%EF%BC%8E/realtime/calls", "delimiter"),
        ("/v1/x/%E2%80%A5/realtime/calls", "delimiter"),
        ("/v1/rea%C2%ADltime/calls", "invisible"),
        ("/v1/rea%E2%80%8Bltime/calls", "invisible"),
        ("/v1/models/" + "a" * MAX_PATH_BYTES, "longer than 2048"),
        ("/v1/models?" + "a" * (MAX_QUERY_BYTES + 1), "longer than 8192"),
        ("/v1/chat/completions/", "/v1/chat/completions,"),
        ("/V1/chat/completions", "/v1/chat/completions,"),
        ("/v1/Chat/completions?x=y", "/v1/chat/completions,"),
        ("/v1/chat/c%6Fmpletions", "/v1/chat/completions,"),
        ("/%76%31/chat/completions", "/v1/chat/completions,"),
        ("/v1/threads/%72uns", "/v1/threads/runs,"),
        ("/v1/threads/RUNS", "/v1/threads/runs,"),
        ("/v1/threads/run%C5%BF", "/v1/threads/runs,"),
        ("/v1/threads/t/", "/v1/threads/{thread_id},"),
        ("/v1/%6Frganization", "lower case"),
        ("/v1/Organization/x", "lower case"),
        ("/V1/usage", "lower case"),
        ("/v1/organization/", "lower case"),
        ("/v1/projects/x/", "lower case"),
    ],
)
def test_an_ambiguous_target_is_refused_with_a_reason_that_helps(target: str, reason: str) -> None:
    with pytest.raises(TargetRefused) as refused:
        TABLE.match("POST", target)
    assert reason in refused.value.reason


@pytest.mark.parametrize("target", ["/v1/Chat/completions", "/v1/chat/completions/", "/v1/m%6Fdels/x"])
def test_another_spelling_of_a_listed_path_is_refused_for_every_method(target: str) -> None:
    for method in ("GET", "POST", "PATCH", "OPTIONS", "BREW"):
        assert outcome(method, target) == "TargetRefused"


def test_a_path_as_long_as_allowed_is_matched() -> None:
    path = "/v1/models/" + "a" * (MAX_PATH_BYTES - len("/v1/models/"))
    assert outcome("GET", path) == outcome("GET", path + "?x=1") == "retrieveModel"
    assert outcome("GET", path + "a") == outcome("GET", path + "a?x=1") == "TargetOverlong"


# No two readers: whatever is accepted means the same to every normaliser that an upstream may have


def once_and_normpath(path: str) -> str:
    return posixpath.normpath(unquote(path))


def decoded_to_the_end(path: str) -> str:
    while (further := unquote(path)) != path:
        path = further
    return posixpath.normpath(path)


def yarl_path(path: str) -> str:
    return URL(path).path


def like_a_browser(path: str) -> str:
    """Backslash is slash, tab and newline vanish, dot segments go in any encoding."""
    segments: list[str] = []
    text = re.sub(r"[\t\r\n]", "", urlsplit(path).path).replace("\\", "/")
    for segment in text.split("/")[1:]:
        match re.sub("%2e", ".", segment, flags=re.IGNORECASE):
            case ".":
                continue
            case "..":
                del segments[-1:]
            case _:
                segments.append(segment)
    return unquote("/" + "/".join(segments))


def like_nginx(path: str) -> str:
    return re.sub("/+", "/", posixpath.normpath(re.sub("/+", "/", unquote(path))))


def folded(path: str) -> str:
    return unquote(path).casefold()


def compatible(path: str) -> str:
    return unicodedata.normalize("NFKC", unquote(path)).casefold()


NORMALISERS: list[Callable[[str], str]] = [
    once_and_normpath, decoded_to_the_end, yarl_path, like_a_browser, like_nginx, folded,
]  # fmt: skip
TEMPLATES = [(operation, operation.path.split("/")) for operation in TABLE if operation.over_http is None]


def upstream_reads(method: str, path: str) -> str:
    """Say what an upstream takes a normalised path for; shares no code with the gateway."""
    segments = path.rstrip("/").split("/")
    fits = []
    for operation, template in TEMPLATES:
        if operation.method == method and len(template) == len(segments):
            pairs = list(zip(template, segments, strict=True))
            if all(part == segment or (part.startswith("{") and segment) for part, segment in pairs):
                fits.append(([part == segment for part, segment in pairs], operation.id))
    if fits:
        return max(fits)[1]
    return "administration" if path.startswith(NEVER_UNLISTED) else "unlisted"


def percent(text: str, times: int = 1) -> str:
    for _ in range(times):
        text = "".join(f"%{byte:02{'Xx'[byte % 2]}}" for byte in text.encode())
    return text


# fmt: off
DOTS = [
    ".", "..", "...", "%2e", "%2E%2e", ".%2e", "%252e%252e", "%25252e.", "..;", "..%00", "%c0%ae",
    "%c0%ae%c0%ae", "%e0%80%ae.", "\uff0e\uff0e", "%uff0e",
]
SEPARATORS = [
    "//", "\\", "%2f", "%2F%2f", "%5C", "%252F", "%25252f", "/%2f", ";/", "/;x=y/", "%00/", "%0d%0a",
    "%c0%af", "\uff0f", "%ef%bc%8f",
]
ENDS = [
    "/", "//", "/.", "/..", "%20", "%2e", "%3f", "%23", "?", "?x=/../", "#", "#/../x", ";", ";x", ".json",
    "%", "%6", "%zz", "%C5%BF", "\\", "|", "~",
]
STARTS = [
    "/", "http://x", "HTTPS://u:p@x:1", "//x", "\\", "\\/", "/.", "/x/..", "/%2e", "/%2e%2e", "*", "?", "#",
    "/v1/..", "/V1/..",
]
# fmt: on


def mutations(path: str, dice: random.Random) -> Iterator[str]:
    """Yield other ways to write a path: most hostile, some innocent."""
    segments = path.split("/")[1:]
    at = dice.randrange(len(segments))
    before, here, after = segments[:at], segments[at], segments[at + 1 :]
    letter = dice.randrange(1, len(path))

    def joined(*middle: str) -> str:
        return "/" + "/".join([*before, *middle, *after])

    yield path
    for dots in DOTS:
        yield from (joined(here, dots), joined(here, "x", dots), joined(dots))
    for times in (1, 2, 3):
        yield path[:letter] + percent(path[letter], times) + path[letter + 1 :]
        yield joined(percent(here, times))
    for separator in SEPARATORS:
        yield "/" + "/".join([*before, here]) + separator + "/".join(after)
    yield from (path.upper(), path.title(), path.swapcase(), joined(here.upper()), joined(here.title()))
    yield from (path + end for end in ENDS)
    yield from (start + path for start in STARTS)
    for prefix in (*NEVER_UNLISTED, *AMONG_SESSIONS):
        yield path + "/../../../.." + prefix
        yield "/v1/" + percent(prefix[4]) + prefix[5:] + path[3:]
    yield path.replace("s", "%C5%BF", 1)
    yield path.replace("k", "%E2%84%AA", 1)
    yield "".join(chr(ord(c) + 0xFEE0) if c.isalpha() else c for c in path)
    yield path[:letter] + chr(dice.randrange(256)) + path[letter:]
    yield path[:letter] + f"%{dice.randrange(256):02x}" + path[letter:]


def corpus() -> list[tuple[str, str]]:
    dice = random.Random(20240601)
    return sorted({(o.method, target) for o in TABLE for target in mutations(example(o.path), dice)})


def test_what_is_accepted_means_the_same_to_every_normaliser() -> None:
    targets = corpus()
    assert len(targets) >= 5000
    outcomes: Counter[str] = Counter()
    for method, target in targets:
        read = outcome(method, target)
        outcomes[read] += 1
        if read in {"TargetRefused", "NotUnderV1", "NeverUnlisted"}:
            continue
        for normalise in NORMALISERS:
            normalised = normalise(target.partition("?")[0])
            assert upstream_reads(method, normalised) == read, (
                method,
                target,
                normalise.__name__,
                normalised,
            )
    # The promise would be empty if nothing were accepted, or nothing refused.
    accepted = sum(outcomes.values()) - outcomes["TargetRefused"] - outcomes["NotUnderV1"]
    assert accepted - outcomes["NeverUnlisted"] > 1000
    assert outcomes["TargetRefused"] > 5000


def test_what_no_normaliser_takes_for_a_session_is_contained_and_nothing_else_is() -> None:
    targets = {target for _, target in corpus() if "?" not in target}
    targets |= {
        f"{prefix}{rest}" for prefix in AMONG_SESSIONS for rest in ("", "/x", "s", "/%78", "/X/y", "-2")
    }
    judged = Counter[bool]()
    for target in targets:
        for method in ("GET", "PUT"):
            try:
                operation = TABLE.match(method, target).operation
            except REFUSALS:
                continue
            lies_there = any(
                normalise(target).startswith(AMONG_SESSIONS) for normalise in (*NORMALISERS, compatible)
            )
            known = operation.is_session or operation.rewrite is Rewrite.REALTIME_SECRET
            assert operation.is_contained == (known or not lies_there), (method, target)
            judged[lies_there] += 1
    assert judged[True] > 100
    assert judged[False] > 1000


@pytest.mark.parametrize("normalise", NORMALISERS)
def test_each_normaliser_and_the_upstream_model_know_the_plain_paths(normalise: Callable[[str], str]) -> None:
    for operation, _ in TEMPLATES:
        assert upstream_reads(operation.method, normalise(example(operation.path))) == operation.id


PARTS = st.sampled_from(
    [
        *["/", "/v1", "/v1/", "threads", "runs", "organization", "Models", "models/", "é", "\udcff", "\r\n"],
        *["%2e", "..", "%", "%2F", "%6F", "%C5%BF", "%ff", "?", "#", ";", "\\", ":", "[*]", "x" * 700],
    ]
)
TARGETS = st.one_of(st.text(), st.lists(PARTS, max_size=9).map("".join), st.text().map("/v1/".__add__))


@settings(deadline=None, max_examples=1000)
@given(st.one_of(st.text(), st.sampled_from(["GET", "HEAD", "POST", "DELETE"])), TARGETS)
def test_any_target_is_matched_byte_for_byte_or_refused_by_name(method: str, target: str) -> None:
    try:
        match = TABLE.match(method, target)
    except REFUSALS as refusal:
        assert str(refusal)
        return
    path = target.partition("?")[0]
    assert path.startswith("/v1/")
    if match.operation.id != "unlisted":
        assert match.operation.path.format(**match.params) == path


def test_no_answer_is_changed_for_two_reasons() -> None:
    """What is rewritten for what it is reports no usage, for which it could be changed as well."""
    assert not [
        operation.id for operation in TABLE if operation.rewrite is not None and operation.counts_usage
    ]


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE"])
@pytest.mark.parametrize(
    "model", ["org%2Fname", "org%2fname", "a%2Fb%2Fc", "hf.co%2Fo%2Fm%3A4b", "o%2F%C3%BC", "o%2Fname.gguf"]
)
def test_the_name_of_a_model_may_have_slashes(method: str, model: str) -> None:
    for query in ("", "?x=%2F"):
        match = TABLE.match(method, f"/v1/models/{model}{query}")
        assert match.operation.id == ("deleteModel" if method == "DELETE" else "retrieveModel")
        assert match.params == {"model": model}


@pytest.mark.parametrize(
    "model",
    [
        *(
            "%2Fa",
            "a%2F",
            "a%2F%2Fb",
            "a%2F..%2Fb",
            "a%2F.",
            "..%2Fa",
            "a%2F%2e%2e%2Fb",
            "%2F",
            "%2e%2e%2Fchat",
        ),
        *(
            "a%252Fb",
            "a%2F%252e",
            "a%5Cb",
            "a%2Fb%00",
            "a%2Fb%3Fc",
            "a%2Fb%23",
            "a%2Fb/",
            "a%2Fb/c",
            "a%EF%BC%8Fb",
        ),
        *("a%2Fb%0d%0a", "a%2F%E2%80%8Bb", "..%2F..%2F..%2Frealtime%2Fcalls"),
    ],
)
def test_no_name_of_a_model_reads_differently_to_whoever_decodes_it_first(model: str) -> None:
    for method in ("GET", "DELETE"):
        assert outcome(method, f"/v1/models/{model}") == "TargetRefused"
