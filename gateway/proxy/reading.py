"""Who reads the JSON that policy has to see: small documents at once, larger ones where nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from gateway.policy.reading import Question, read_body
from gateway.policy.requests import bad_request
from gateway.wire.body_facts import BodyFacts
from gateway.wire.request_fields import BodyRefused

AT_ONCE_BYTES = 64 * 1024


class Reading:
    """Reads documents for everybody in this process."""

    async def body(self, tenant: str, pieces: Sequence[bytes], question: Question) -> BodyFacts:  # noqa: ARG002
        """What a request's body says. Raises BadRequest."""
        raw = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        try:
            if len(raw) <= AT_ONCE_BYTES:
                return read_body(raw, question)
            return await asyncio.to_thread(read_body, raw, question)
        except BodyRefused as refused:
            raise bad_request(refused.fault) from None
