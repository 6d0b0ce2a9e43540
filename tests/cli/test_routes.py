"""`gateway routes` finds operations by a word and by a scope."""

from __future__ import annotations

import orjson

from gateway.operations.table import OperationTable
from tests.kit.command import run_command

HEAD = ["OPERATION", "METHOD", "PATH", "SCOPE"]


async def test_prints_every_operation_with_its_method_path_and_scope_under_a_heading() -> None:
    done = await run_command("routes")

    assert (done.code, done.stderr) == (0, "")
    assert [line.split() for line in done.stdout.splitlines()] == [
        HEAD,
        *(
            [operation.id, operation.method, operation.path, operation.scope]
            for operation in OperationTable.load()
        ),
    ]


async def test_word_is_looked_for_in_id_path_and_scope_whatever_its_case() -> None:
    done = await run_command("routes", "BATCH")
    found = [line.split() for line in done.stdout.splitlines()[1:]]
    assert ["createBatch", "POST", "/v1/batches", "batches:write"] in found
    assert all("batch" in " ".join(row).lower() for row in found)


async def test_scope_may_be_a_pattern_or_a_group_and_an_unknown_one_is_told_from_the_nearest() -> None:
    files = orjson.loads((await run_command("routes", "--scope", "files:*", "--json")).stdout)
    assert {route["scope"] for route in files} == {"files:read", "files:write"}
    inference = await run_command("routes", "--scope", "inference", "createembedd")
    assert [line.split()[0] for line in inference.stdout.splitlines()] == [
        "OPERATION",
        "createEmbedding",
    ]
    unknown = await run_command("routes", "--scope", "inferense")
    assert (unknown.code, unknown.stdout) == (1, "")
    assert "did you mean 'inference'?" in unknown.stderr


async def test_says_that_nothing_is_as_asked_for() -> None:
    none = await run_command("routes", "teapot")
    assert (none.code, none.stdout) == (1, "")
    assert none.stderr == "gateway: there is no operation with 'teapot' in its id, path or scope\n"
    assert (await run_command("routes", "teapot", "--json")).stdout == "[]\n"
