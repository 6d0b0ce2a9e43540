"""What the objects of the API look like: the prefix of their ids, their name, the fields they start with.

Data, keyed by the operation table's object kinds. A kind that is not here has its own name as prefix and
object name and no fields beyond what was sent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of object. Without a `required` field none is made."""

    prefix: str
    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    lifetime_seconds: int | None = None
    deleted_name: str | None = None
    page_size: int = 20
    most_listed: int = 100
    oldest_first: bool = False
    """Whether lists begin with the oldest unless they are asked otherwise."""

    ordered: bool = True
    """Whether lists may be asked for in another order."""

    filters: tuple[str, ...] = ()
    """Members by whose values lists may be filtered."""

    cancelled: str = "cancelled"


_METADATA: Final[dict[str, Any]] = {"metadata": {}}
_SAMPLING: Final = _METADATA | {"temperature": 1.0, "top_p": 1.0, "response_format": "auto"}
_PAGE: Final = {"data": [], "has_more": False, "next_page": None}
_ASSISTANT: Final[dict[str, Any]] = {
    "name": None,
    "description": None,
    "instructions": None,
    "tools": [],
    "tool_resources": {},
}
_PROJECT_API_KEY: Final = {"last_used_at": None, "expires_at": None, "owner_project_access": "active"}
_MESSAGE: Final[dict[str, Any]] = {
    "status": "completed",
    "assistant_id": None,
    "run_id": None,
    "attachments": [],
}
_RUN: Final = {"status": "queued", "tool_choice": "auto", "parallel_tool_calls": True} | dict.fromkeys(
    (
        *("required_action", "last_error", "started_at", "completed_at", "cancelled_at", "failed_at"),
        *("incomplete_details", "usage", "max_prompt_tokens", "max_completion_tokens", "truncation_strategy"),
    )
)
_BATCH: Final = {
    "status": "validating",
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "output_file_id": None,
    "error_file_id": None,
    "errors": None,
    "model": None,
    "usage": None,
}
_FINE_TUNING_JOB: Final = {
    "status": "queued",
    "organization_id": "org-simulator",
    "hyperparameters": {"n_epochs": "auto"},
    "result_files": [],
    "seed": 0,
    "fine_tuned_model": None,
    "finished_at": None,
    "trained_tokens": None,
    "validation_file": None,
    "error": None,
}

KINDS: Final[dict[str, Kind]] = {
    "model": Kind(
        "", "model", {"owned_by": "simulator"}, deleted_name="model", page_size=1000, most_listed=1000
    ),
    "file": Kind(
        "file-",
        "file",
        {"status": "processed"},
        required=("file", "purpose"),
        deleted_name="file",
        page_size=10_000,
        most_listed=10_000,
        filters=("purpose",),
    ),
    "upload": Kind(
        "upload_",
        "upload",
        {"status": "pending"},
        required=("filename", "purpose", "bytes", "mime_type"),
        lifetime_seconds=3600,
    ),
    "upload_part": Kind("part_", "upload.part", required=("data",)),
    "batch": Kind(
        *("batch_", "batch", _BATCH | _METADATA),
        lifetime_seconds=86_400,
        ordered=False,
        cancelled="cancelling",
    ),
    "assistant": Kind("asst_", "assistant", _ASSISTANT | _SAMPLING, required=("model",)),
    "thread": Kind("thread_", "thread", {"tool_resources": {}} | _METADATA),
    "message": Kind("msg_", "thread.message", _MESSAGE | _METADATA, filters=("run_id",)),
    "run": Kind("run_", "thread.run", _RUN | _SAMPLING, lifetime_seconds=600),
    "run_step": Kind("step_", "thread.run.step", {"last_error": None, "usage": None} | _METADATA),
    "vector_store": Kind(
        "vs_", "vector_store", {"name": "", "status": "completed", "usage_bytes": 0} | _METADATA
    ),
    "vector_store_file": Kind("file-", "vector_store.file", {"status": "completed", "attributes": {}}),
    "vector_store_file_batch": Kind("vsfb_", "vector_store.files_batch", {"status": "completed"}),
    "chat_completion": Kind("chatcmpl-", "chat.completion", oldest_first=True, filters=("model", "metadata")),
    "response": Kind("resp_", "response", deleted_name="response"),
    "conversation": Kind("conv_", "conversation", _METADATA),
    "container": Kind("cntr_", "container", {"status": "running"}, required=("name",), filters=("name",)),
    "container_file": Kind("cfile_", "container.file", {"source": "user", "path": "/mnt/data"}),
    "fine_tuning_job": Kind(
        "ftjob-", "fine_tuning.job", _FINE_TUNING_JOB, required=("model", "training_file")
    ),
    "eval": Kind("eval_", "eval", _METADATA),
    "eval_run": Kind("evalrun_", "eval.run", {"status": "queued"} | _METADATA),
    "project": Kind(
        *("proj_", "organization.project", {"status": "active", "archived_at": None}), filters=("status",)
    ),
    "project_service_account": Kind("svcacct_", "organization.project.service_account", {"role": "member"}),
    "project_api_key": Kind("key_", "organization.project.api_key", _PROJECT_API_KEY),
    "project_rate_limit": Kind("rl-", "project.rate_limit", page_size=100),
    "usage_bucket": Kind("", "page", _PAGE),
    "cost_bucket": Kind("", "page", _PAGE),
}


def kind_of(name: str) -> Kind:
    return KINDS.get(name) or Kind(f"{name}_", name)
