"""Objects remembered in Redis, by all gateways: one hash each, gone 35 days after it was last asked for.

It has the fields `maker` (`["acme","alice","gpt-4o","createRun"]`), `counted` (the exchange whose claim was the first)
and `part:` with each exchange that worked on it and what that was counted with. Others may be added.
"""

from __future__ import annotations

from collections.abc import Sequence

from gateway.redis.line import Argument
from gateway.redis.script import Script
from gateway.usage.late_work import KEPT_SECONDS, Found, Maker, Note, Part, Step
from gateway.usage.redis_wire import UsageWire

_PART = b"part:"


class RedisLateWork:
    """A LateWorkStore that all gateways share."""

    def __init__(self, wire: UsageWire) -> None:
        self._wire = wire.for_store()
        self._script = Script.load(__package__, "late_work")

    async def take(self, steps: Sequence[Step]) -> list[Found | None]:
        arguments: list[Argument] = [KEPT_SECONDS]
        for step in steps:
            maker = step.maker.written()
            if isinstance(step, Note):
                arguments += ("note", step.exchange_id, maker, step.part.written())
            else:
                arguments += ("claim" if step.counts_unknown else "known", step.exchange_id, maker, b"")
        keys = [self._wire.prefix + step.key for step in steps]
        replies = await self._wire.run(self._script, keys, arguments)
        return [
            None if fields is None else _found(step, fields)
            for step, fields in zip(steps, replies, strict=True)
        ]

    async def close(self) -> None:
        await self._wire.close()


def _found(step: Step, fields: Sequence[bytes]) -> Found:
    maker, parts = step.maker, []
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        if name == b"maker":
            maker = Maker.read(value)
        elif name.startswith(_PART):
            parts.append(Part.read(value))
    return Found(maker, parts)
