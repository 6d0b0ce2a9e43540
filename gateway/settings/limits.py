"""What an operator can set about limits: `[limits]`, and `limits` of a tenant, of a model, of a subject.

    [tenants.acme.limits]                      all that the tenant does, together
    [tenants.acme.limits.models."gpt-4o*"]     all that it does with models that match, together
    [tenants.acme.limits.subjects."batch-*"]   what each subject that matches does, each for itself

Every limit that applies to a request must have room for it. Of several tables for subjects only the closest
applies: the one with the exact name, else the longest pattern. `[limits]` holds for every tenant, limit by
limit, that does not set its own.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field

from gateway.limits.terms import MOST_PERMITS, Dimension, OnStoreFailure
from gateway.settings.section import Section

Pattern = Annotated[str, Field(min_length=1, max_length=256)]
Permits = Annotated[int, Field(gt=0, le=MOST_PERMITS)]
Megabytes = Annotated[
    int, Field(gt=0, le=MOST_PERMITS // Dimension.AUDIO_MEGABYTES_PER_MINUTE.permits_per_unit)
]


class Capacities(Section):
    """Buckets, each with its capacity; absent means unlimited. Named as the API's own ProjectRateLimit."""

    max_requests_per_1_minute: Permits | None = None
    """Requests that are admitted."""

    max_requests_per_1_day: Permits | None = None
    """Requests that are admitted."""

    max_tokens_per_1_minute: Permits | None = None
    """LLM tokens, in and out: what is known and guessed of a request, then what its answer reports."""

    max_tokens_per_1_day: Permits | None = None
    """LLM tokens, in the same way."""

    max_images_per_1_minute: Permits | None = None
    """Images that are asked for, then those that the answer has."""

    max_audio_megabytes_per_1_minute: Megabytes | None = None
    """Audio that goes up to be transcribed or translated, in megabytes of a million bytes."""

    batch_1_day_max_input_tokens: Permits | None = None
    """LLM tokens in the input files of batches: a quarter of the bytes that the upstream says a file has."""

    max_concurrent_requests: Permits | None = None
    """Requests under way at once; each counts until the last byte of its answer."""

    on_store_failure: dict[Dimension, OnStoreFailure] = Field(default_factory=dict)
    """By limit, in place of the common `on_store_failure`."""

    def capacities(self) -> dict[Dimension, int]:
        """Every limit that is set."""
        found = ((dimension, getattr(self, dimension.value)) for dimension in Dimension)
        return {dimension: capacity for dimension, capacity in found if capacity is not None}

    def over(self, common: Capacities) -> Self:
        """These limits, and the common ones where these set none."""
        unset = {
            dimension.value: capacity
            for dimension, capacity in common.capacities().items()
            if getattr(self, dimension.value) is None
        }
        return self.model_copy(
            update={**unset, "on_store_failure": {**common.on_store_failure, **self.on_store_failure}}
        )


class Limits(Capacities):
    """The limits of a tenant, of parts of its models, and of its subjects."""

    models: dict[Pattern, Capacities] = Field(default_factory=dict)
    """By model, exact names or patterns such as `gpt-4o*`: one bucket for all that match."""

    subjects: dict[Pattern, Capacities] = Field(default_factory=dict)
    """By subject, exact names or patterns such as `*`: a bucket for each that matches."""

    def resolved(self, common: Limits) -> Limits:
        """The limits in force: these, and the common ones where these set none."""
        return self.over(common).model_copy(
            update={
                "models": _tables(self.models, common.models),
                "subjects": _tables(self.subjects, common.subjects),
            }
        )


def _tables(own: dict[str, Capacities], common: dict[str, Capacities]) -> dict[str, Capacities]:
    nothing = Capacities()
    return {
        pattern: own.get(pattern, nothing).over(common.get(pattern, nothing))
        for pattern in dict.fromkeys((*common, *own))
    }
