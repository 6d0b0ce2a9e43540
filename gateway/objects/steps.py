"""What a store has still to be told, as it waits: in memory, on disk, or in a line of the log. Pure."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import orjson

from gateway.objects.store import Made, Named, Scope


class Step(NamedTuple):
    """Something that has become of a tenant's objects. Telling it twice changes nothing."""

    scope: Scope
    made: tuple[Made, ...] = ()
    freed: tuple[Named, ...] = ()
    intent_id: str | None = None
    """The exchange whose intent is to be forgotten."""

    def written(self) -> bytes:
        """One line."""
        document = {
            "tenant": self.scope.tenant,
            "storage": self.scope.storage,
            "made": [tuple(one) for one in self.made],
            "freed": [tuple(one) for one in self.freed],
            "intent": self.intent_id,
        }
        return orjson.dumps(document) + b"\n"

    @classmethod
    def read(cls, line: bytes) -> Self:
        """Raise ValueError for what is no such line."""
        try:
            document: dict[str, Any] = orjson.loads(line)
            intent_id = document["intent"]
            if not isinstance(intent_id, str | None):
                raise TypeError("an intent of no exchange")
            return cls(
                Scope(str(document["storage"]), str(document["tenant"])),
                tuple(_made(*one) for one in document["made"]),
                tuple(Named(str(kind), str(name)) for kind, name in document["freed"]),
                intent_id,
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"no step: {error}") from None


def _made(kind: str, name: str, created_at: float, expires_at: float | None) -> Made:
    return Made(str(kind), str(name), float(created_at), None if expires_at is None else float(expires_at))
