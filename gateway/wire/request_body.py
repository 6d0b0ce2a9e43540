"""A request body that has been read whole: its bytes and what was read in them, replaced together. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import orjson

from gateway.wire.json_members import splice_member
from gateway.wire.request_fields import RequestFields


@dataclass(frozen=True, slots=True)
class RequestBody:
    """What goes up, and what policy has read in it. A change makes a new one, so that both always agree."""

    raw: bytes
    fields: RequestFields | None = None
    """None where nobody had to read it, or nobody can."""

    def with_member(self, name: str, raw_value: bytes) -> RequestBody:
        """This body with a top-level member set to a JSON value, all other bytes kept.

        Raises TooIntricate when the place for it cannot be found in reasonable time.
        """
        fields = self.fields
        if fields is not None:
            value = orjson.loads(raw_value)
            fields = replace(fields, document={**fields.document, name: value})
            if name == "model":
                fields = replace(fields, model=value)
        return RequestBody(splice_member(self.raw or b"{}", name, raw_value), fields)
