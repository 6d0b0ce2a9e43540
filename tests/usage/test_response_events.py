"""What events of Responses say of what was made, also those that only lenient clients can read."""

from __future__ import annotations

import pytest

from gateway.usage.response_events import said_of_made

ITEMS = (
    b'[{"id":"ci_1","type":"code_interpreter_call","container_id":"cntr_1","code":"x"},'
    b'{"id":"sh_1","type":"shell_call","environment":{"type":"container_reference","container_id":"cntr_2"}}]'
)
EVENT = b'{"type":"response.completed","response":{"id":"resp_1","created_at":5,"output":%s%s}}'


@pytest.mark.parametrize("more", [b"", b',"top_p":NaN'], ids=["strict JSON", "not quite JSON"])
def test_items_and_what_they_ran_in_are_found_however_an_event_is_read(more: bytes) -> None:
    document = said_of_made(EVENT % (ITEMS, more))
    assert document is not None
    response = document["response"]
    assert (document["type"], response["id"], response["created_at"]) == ("response.completed", "resp_1", 5)
    interpreter, shell = response["output"]
    assert (interpreter["id"], interpreter["container_id"]) == ("ci_1", "cntr_1")
    assert (shell["id"], shell["environment"]["container_id"]) == ("sh_1", "cntr_2")
