"""What counts as naming a stored object, and that the search before the parsing misses none of it."""

from __future__ import annotations

import orjson
import pytest

from gateway.policy.stored_objects import may_be_named_in, named_by_field, named_in

REFERENCES = [
    ({"previous_response_id": "resp_A"}, "previous_response_id"),
    ({"something_of_tomorrow_id": "x_A"}, "something_of_tomorrow_id"),
    ({"tools": [{"things_of_tomorrow_ids": [None, "x_A"]}]}, "things_of_tomorrow_ids"),
    ({"conversation": "conv_A"}, "conversation"),
    ({"prompt": {"id": "pmpt_A", "version": "2"}}, "prompt"),
    ({"prompt": {"id": "pmpt_A", "content": "not its own"}}, "prompt"),
    ({"audio": {"id": "audio_A"}}, "id"),
    ({"voice": "voice_A"}, "voice"),
    ({"tools": [{"environment": {"skills": ["skill_A"]}}]}, "skills"),
    ({"input": [{"id": "msg_A"}]}, "id"),
    ({"input": [{"id": "msg_A", "role": "user", "content": "without a type"}]}, "id"),
    ({"input": {"id": "msg_A"}}, "id"),
    ({"input": [{"type": "message", "id": "msg_A", "content": []}]}, "id"),
    ({"input": [{"type": "reasoning", "id": "rs_A", "summary": [], "content": [{"text": "x"}]}]}, "id"),
    ({"input": [{"type": "image_generation_call", "id": "ig_A", "result": None}]}, "id"),
    ({"input": [{"type": ["message"], "id": "msg_A"}]}, "id"),
    ({"input": [{"type": "function_call_output", "id": "fco_A", "call_id": None}]}, "id"),
    ({"store": 1}, "store"),
    ({"Store": True}, "Store"),
    ({"\u017ftore": True}, "\u017ftore"),
    ({"File_ID": "file-A"}, "File_ID"),
]


@pytest.mark.parametrize(("body", "name"), REFERENCES)
def test_reference_is_named_and_never_missed_by_the_search(body: dict[str, object], name: str) -> None:
    assert named_in(body) == name
    assert may_be_named_in(orjson.dumps(body))
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in name)
    assert may_be_named_in(orjson.dumps(body).replace(name.encode(), escaped.encode()))


@pytest.mark.parametrize(
    "body",
    [
        {"store": False, "previous_response_id": None, "conversation": None, "voice": "alloy"},
        {"metadata": {"file_id": "x", "conversation": "y"}},
        {"tools": [{"type": "mcp", "connector_id": "connector_x", "headers": {"tenant_id": "7"}}]},
        {"tools": [{"parameters": {"properties": {"file_id": {"const": "x"}}, "default": {"file_id": "x"}}}]},
        {"messages": [{"tool_calls": [{"id": "call_1", "function": {"name": "f", "arguments": "{}"}}]}]},
        {"messages": [{"role": "tool", "tool_call_id": "call_1", "content": "x"}]},
        {"messages": [{"role": "assistant", "id": "m1", "tool_calls": [{"id": "c", "custom": {"x": 1}}]}]},
        {"input": [{"type": "message", "id": "msg_1", "role": "assistant", "content": [{"text": "x"}]}]},
        {"input": [{"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}]},
        {"input": [{"type": "image_generation_call", "id": "ig_1", "result": "iVBOR"}]},
        {"input": [{"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}]},
        {"input": [{"type": "computer_call", "id": "cu_1", "action": {"type": "wait"},
                    "pending_safety_checks": [{"id": "cu_sc_1", "code": None}]}]},
        {"input": [{"type": "function_call_output", "id": "fco_1", "call_id": "c_2", "output": ""}]},
        {"input": [{"type": "local_shell_call_output", "id": "c_2", "output": ""}]},
        {"input": [{"type": "apply_patch_call_output", "id": "apco_1", "call_id": "c_2", "status": "completed"}]},
        {"input": [{"type": "tool_search_output", "id": "tso_1", "call_id": None, "tools": []}]},
        {"input": [{"type": "input_image", "file_id": None, "image_url": "https://x"}]},
        {"input": [{"type": "function_call", "id": "fc_1", "call_id": "c_2", "name": "f", "arguments": "{}",
                    "caller": {"type": "program", "caller_id": "c_1"}}]},
        {"session": {"tracing": {"group_id": "of my choice", "metadata": {"user_id": "u"}}}},
        {"background_options": {"continuation_id": "of my choice"}},
    ],
)  # fmt: skip
def test_what_refers_to_nothing_stored_is_not_named(body: dict[str, object]) -> None:
    assert named_in(body) is None


@pytest.mark.parametrize(
    "event",
    [
        {"session": {"prompt": {"id": "pmpt_A"}}},
        {"session": {"audio": {"output": {"voice": {"id": "voice_A"}}}}},
        {"session": {"audio": {"output": {"voice": "voice_A"}}}},
        {"item": {"id": "msg_1", "content": [{"type": "input_image", "file_id": "file-A"}]}},
        {"session": {"Prompt": {"ID": "pmpt_A"}}},
        {"response": {"conversation": "conv_A"}},
    ],
)
def test_event_that_names_what_is_stored_is_found_in_either_way(event: dict[str, object]) -> None:
    raw = orjson.dumps(event)

    assert named_in(event, in_session=True) is not None
    assert may_be_named_in(raw, in_session=True)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "response.create", "response": {"conversation": "none", "input": [{"id": "i"}]}},
        {"type": "conversation.item.create", "previous_item_id": "i", "item": {"id": "j", "type": "message"}},
        {"type": "response.cancel", "event_id": "e", "response_id": "resp_1"},
    ],
)  # fmt: skip
def test_items_and_responses_of_a_session_are_its_own(event: dict[str, object]) -> None:
    assert named_in(event, in_session=True) is None


def test_sound_is_not_parsed_for_the_id_of_its_event() -> None:
    event = b'{"event_id":"evt_1","type":"input_audio_buffer.append","audio":"QUJD"}'

    assert not may_be_named_in(event, in_session=True)


@pytest.mark.parametrize(
    "body", [b'{"\\u0073tore":true}', '{"store":true}'.encode("utf-16"), b'{"\xc5\xbftore":1}']
)
def test_search_says_when_it_could_be_deceived(body: bytes) -> None:
    assert may_be_named_in(body)


@pytest.mark.parametrize(
    "name", ["file_id", "image[][file_id]", "images[0][File_ID]", "a.vector_store_ids", "container"]
)
def test_field_of_a_form_names_by_any_of_its_steps(name: str) -> None:
    assert named_by_field(name)


@pytest.mark.parametrize(
    "name", ["model", "image[]", "prompt", "timestamp_granularities[]", "include[]", "user", "video"]
)
def test_fields_of_forms_that_name_nothing(name: str) -> None:
    assert not named_by_field(name)
