"""Scopes mean one thing, and patterns grant exactly what they spell."""

import pytest

from gateway.operations.scopes import (
    BY_NAME_ONLY,
    EVERYTHING,
    GROUPS,
    ScopeProblem,
    Vocabulary,
    expand,
    is_scope,
    parse,
)
from gateway.operations.table import OperationTable
from tests.operations.versions import meanings, recorded

KNOWN = frozenset(
    {
        "audio.speech:write",
        "audio.transcriptions:write",
        "audio.voices:read",
        "chat.completions:read",
        "chat.completions:write",
        "completions:write",
        "files:read",
        "files:write",
        "models:read",
        "org.users:read",
        "org.users:write",
        "org.project_users:read",
        "realtime:mint",
        "realtime:write",
        "unlisted:read",
        "unlisted:write",
    }
)
ORDINARY = {scope for scope in KNOWN if not scope.startswith(("org.", "unlisted:", "realtime:mint"))}


@pytest.mark.parametrize("text", ["models:read", "chat.completions:write", "org.admin_keys:read", "a.b.c:d"])
def test_resource_and_verb_make_a_scope(text: str) -> None:
    assert is_scope(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "models",
        "models:",
        ":read",
        "models:read:write",
        "*",
        "*:read",
        "files:*",
        "audio.*",
        "Models:read",
        "models:READ",
        ".models:read",
        "models.:read",
        "a..b:read",
        "models:read ",
        "models:read\n",
        "models read",
        "modèles:read",
        "1models:read",
        "m" * 60 + ":read",
    ],
    ids=repr,
)
def test_anything_else_is_no_scope(text: str) -> None:
    assert not is_scope(text)


def test_claim_is_read_as_a_set() -> None:
    assert parse("models:read files:write models:read") == {"models:read", "files:write"}


@pytest.mark.parametrize(
    "claim", ["", " ", "a:b ", " a:b", "a:b  c:d", "a:b,c:d", "a:b\tc:d", "a:b *"], ids=repr
)
def test_claim_with_anything_but_scopes_and_single_spaces_is_refused(claim: str) -> None:
    with pytest.raises(ScopeProblem):
        parse(claim)


@pytest.mark.parametrize(
    ("wanted", "granted"),
    [
        ("models:read", {"models:read"}),
        ("*", ORDINARY),
        ("*:*", ORDINARY),
        ("*:read", {"audio.voices:read", "chat.completions:read", "files:read", "models:read"}),
        ("files:*", {"files:read", "files:write"}),
        ("audio.*", {"audio.speech:write", "audio.transcriptions:write", "audio.voices:read"}),
        ("audio.*:write", {"audio.speech:write", "audio.transcriptions:write"}),
        ("completions:*", {"completions:write"}),
        ("realtime:*", {"realtime:write"}),
        ("*:write", {scope for scope in ORDINARY if scope.endswith(":write")}),
        ("realtime:mint", {"realtime:mint"}),
        ("unlisted:write", {"unlisted:write"}),
        ("unlisted:*", {"unlisted:read", "unlisted:write"}),
        ("org.users:read", {"org.users:read"}),
        ("org.users:*", {"org.users:read", "org.users:write"}),
        ("org.*", {"org.users:read", "org.users:write", "org.project_users:read"}),
        ("org.*:read", {"org.users:read", "org.project_users:read"}),
    ],
)
def test_pattern_grants_exactly_what_it_spells(wanted: str, granted: set[str]) -> None:
    assert expand([wanted], KNOWN) == granted


def test_several_wishes_add_up() -> None:
    assert expand(["files:read", "completions:*"], KNOWN) == {"files:read", "completions:write"}


def test_nothing_wished_is_nothing_granted() -> None:
    assert expand([], KNOWN) == frozenset()


@pytest.mark.parametrize(
    "wanted",
    [
        "",
        "files",
        "fil*",
        "*files:read",
        "*:mint",
        "*:",
        "org:*",
        "org*",
        "video.*",
        "**",
        "*.*",
        "files:read ",
    ],
)
def test_wish_that_grants_nothing_is_a_problem(wanted: str) -> None:
    with pytest.raises(ScopeProblem) as refused:
        expand([wanted], KNOWN)
    assert repr(wanted) in str(refused.value)


def test_every_problem_is_named_at_once_with_what_was_probably_meant() -> None:
    with pytest.raises(ScopeProblem) as refused:
        expand(["chat.completion:write", "models:read", "video.*", "inferense"], KNOWN)
    assert refused.value.problems == (
        "'chat.completion:write' is no scope; did you mean 'chat.completions:write'?",
        "'video.*' matches no scope",
        "'inferense' is no scope; did you mean 'inference'?",
    )


# Against the operations as they are.

OPERATIONS = frozenset(operation.scope for operation in OperationTable.load())
IN_NO_GROUP = {
    *(
        "agents.automations:write",
        "agents.sessions:write",
        "agents:write",
        "audio.voices:write",
        "evals:write",
        "fine_tuning:write",
        "live:write",
        "models:write",
        "realtime:mint",
        "videos:write",
    ),
}
"""Operations that name a model, and are for those who ask for them by name or pattern."""


def test_scope_of_every_operation_is_a_scope() -> None:
    assert not [scope for scope in OPERATIONS if not is_scope(scope)]


@pytest.mark.parametrize("group", GROUPS)
def test_group_names_only_what_exists_and_nothing_that_is_granted_by_name(group: str) -> None:
    for patterns in GROUPS[group].values():
        assert all(expand([pattern], OPERATIONS) for pattern in patterns)
    assert not [scope for scope in expand([group], OPERATIONS) if scope.startswith(BY_NAME_ONLY)]


def test_whatever_runs_a_model_is_in_a_group_or_deliberately_in_none() -> None:
    named = {
        operation.scope
        for operation in OperationTable.load()
        if operation.model.body or operation.model.form or operation.model.path or operation.model.query
    }
    assert named - expand(GROUPS, OPERATIONS) == IN_NO_GROUP


def test_star_leaves_out_what_is_granted_by_name_and_nothing_else() -> None:
    left_out = OPERATIONS - expand(["*"], OPERATIONS)
    assert left_out == {
        scope
        for scope in OPERATIONS
        if scope.startswith(("org.", "unlisted:", "realtime:mint", "usage:read"))
    }
    assert {"realtime:mint", "org.users:write"} <= left_out


VOCABULARY = OperationTable.load().vocabulary


@pytest.mark.parametrize(("version", "then"), recorded().items())
def test_what_a_released_version_means_is_never_more_than_it_meant(
    version: int, then: dict[str, set[str]]
) -> None:
    for word, scopes in meanings(VOCABULARY, version).items():
        more = scopes - then.get(word, set())
        assert not more, f"give the rows of {more} since = {max(recorded()) + 1}"


def test_what_is_added_belongs_to_the_version_behind_those_that_are_released() -> None:
    assert VOCABULARY.version <= max(recorded()) + 1
    assert min(VOCABULARY.since.values()) == 1


@pytest.mark.parametrize("word", [EVERYTHING, *GROUPS, "audio.*"])
def test_a_later_version_means_all_that_an_earlier_one_did(word: str) -> None:
    for version in range(1, VOCABULARY.version):
        assert VOCABULARY.meaning([word], version) <= VOCABULARY.meaning([word], version + 1)


GROWN = Vocabulary({**dict.fromkeys(KNOWN, 1), "files.parts:read": 2, "rerank:write": 3})


@pytest.mark.parametrize(
    ("word", "version", "added"),
    [
        ("*", 1, set()),
        ("*", 2, {"files.parts:read"}),
        ("*", 3, {"files.parts:read", "rerank:write"}),
        ("files.*", 1, set()),
        ("files.*", 2, {"files.parts:read"}),
        ("read-only", 1, set()),
        ("read-only", 3, {"files.parts:read"}),
        ("*", None, {"files.parts:read", "rerank:write"}),
        ("*", 99, {"files.parts:read", "rerank:write"}),
    ],
)
def test_a_pattern_means_what_there_was_at_its_version(
    word: str, version: int | None, added: set[str]
) -> None:
    assert GROWN.meaning([word], version) - KNOWN == added


def test_a_group_grants_what_was_added_to_it_from_that_version_on() -> None:
    grown = Vocabulary(dict.fromkeys(KNOWN, 1), {"inference": {1: ("models:read",), 2: ("files:read",)}})
    assert grown.version == 2
    assert grown.meaning(["inference"], 1) == {"models:read"}
    assert grown.meaning(["inference"], 2) == {"models:read", "files:read"}


def test_words_that_mean_nothing_here_grant_nothing() -> None:
    assert GROWN.meaning(["openid", "email", "inferense", "https://a.example/b", ""]) == frozenset()


@pytest.mark.parametrize(
    ("scopes", "groups", "rest"),
    [
        (ORDINARY, ["*"], []),
        (ORDINARY | {"realtime:mint"}, ["*"], ["realtime:mint"]),
        ({"files:read"}, [], ["files:read"]),
        (
            {scope for scope in ORDINARY if scope.endswith(":read")} | {"completions:write"},
            ["read-only"],
            ["completions:write"],
        ),
        (set(), [], []),
    ],
)
def test_scopes_are_shown_as_the_groups_that_they_hold_whole(
    scopes: set[str], groups: list[str], rest: list[str]
) -> None:
    shown = Vocabulary(dict.fromkeys(KNOWN, 1)).folded(scopes)
    assert shown == (groups, rest)


@pytest.mark.parametrize("pattern", ["*", "*:read", "usage:*", "usage", "usage.*", "usage.*:read", *GROUPS])
def test_usage_of_others_is_granted_by_its_name_and_by_no_pattern_or_group(pattern: str) -> None:
    known = OperationTable.load().scopes
    assert expand(["usage:read"], known) == {"usage:read"}
    try:
        granted = expand([pattern], known)
    except ScopeProblem:
        return
    assert "usage:read" not in granted
