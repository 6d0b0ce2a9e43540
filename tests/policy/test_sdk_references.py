"""Every member by which the official SDK names something is a reference, known to be harmless, or refused."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

from gateway.operations.stored_kinds import StoredKinds
from gateway.policy.references import references_in
from gateway.policy.stored_objects import HARMLESS_IDS, IDS_OF_THE_SESSION, refers
from tests.operations_from_sdks import installed_python_package

KINDS = StoredKinds.load()
CLOSED = (
    *(
        "admin",
        "beta/agents",
        "beta/chatkit",
        "beta/realtime",
        "evals",
        "fine_tuning",
        "graders",
        "live",
        "skills",
    ),
    "webhooks",
)
"""Types of operations that are closed, or open to administrators alone."""

REFUSED = {
    # of agents, evals and safety alerts, which are closed
    *("credential_id", "eval_id", "external_key_id", "field_id", "project_id", "turn_id", "user_id"),
    # of a session or a connection, where it is read for itself
    "stream_id",
}
"""Names that are refused, and not by one of their own in the data: who adds one has looked what it names."""


class Members(NamedTuple):
    """A table of a request, as the SDK types it."""

    where: str
    name: str
    members: dict[str, str]
    """Each with its annotation."""


def tables() -> Iterator[Members]:
    types = installed_python_package() / "types"
    for file in sorted(types.rglob("*param*.py")):
        where = file.relative_to(types).as_posix()
        if where.startswith(CLOSED):
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                members = {
                    line.target.id: ast.unparse(line.annotation)
                    for line in node.body
                    if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
                }
                yield Members(where, node.name, members)


TABLES = list(tables())


def test_there_are_tables_to_be_looked_at() -> None:
    assert len(TABLES) > 400
    assert any("previous_response_id" in table.members for table in TABLES)


def test_every_name_of_an_id_is_known() -> None:
    below = set().union(*(kind.below for kind in KINDS.kinds.values()))
    known = {*KINDS.by_member, *KINDS.closed_members, *HARMLESS_IDS, *IDS_OF_THE_SESSION, *below, *REFUSED}
    unknown = {
        name: (table.where, table.name)
        for table in TABLES
        for name in table.members
        if name.endswith(("_id", "_ids")) and name not in known
    }
    assert unknown == {}, (
        "look what these name: a kind of operations/stored_objects.toml, or nothing that is stored?"
    )


def test_what_names_a_kind_is_a_reference_in_every_table_that_has_it() -> None:
    for table in TABLES:
        for name, annotation in table.members.items():
            if name not in KINDS.by_member or name == "video":
                continue
            value: object = ["of-a_1"] if name.endswith("_ids") or "Sequence" in annotation else "of-a_1"
            told = references_in({"x": [{name: value}]})
            assert [one.id for one in told.references] == ["of-a_1"], table


BY_ID_ALONE = {
    "item": {"ItemReference", "ConfigurationUpdateItemParam", "CompactionTrigger"},
    "conversation": {"ConversationParam"},
    "video": {"VideoVideoReferenceInputParam"},
    "prompt": {"PromptParam"},
    "voice": {"VoiceID", "OutputVoiceID"},
    "audio": {"Audio"},
}
"""Tables whose `id` has something looked up, by what."""


def test_an_object_that_has_nothing_but_an_id_refers() -> None:
    """What the SDK sends whole has something of its own beside it; what has not is looked up, or refused."""
    by_id = {
        table.name.removeprefix("Beta").removeprefix("Response").replace("ParamParam", "Param")
        for table in TABLES
        if "id" in table.members
        and refers("input", dict.fromkeys(table.members, "x") | {"type": "of a kind"}, in_session=False)
    }
    assert by_id - {"ItemReferenceParam"} == set().union(*BY_ID_ALONE.values())
    for place, kind in (("input", "item"), ("conversation", "conversation"), ("video", "video")):
        told = references_in({place: {"id": "of-a_1"}})
        assert [(one.kind, one.id) for one in told.references] == [(kind, "of-a_1")]
    for place in ("prompt", "voice", "audio"):
        assert references_in({place: {"id": "of-a_1"}}).stored == place
