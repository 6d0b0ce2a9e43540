"""How long answers have been, in Redis: one hash per tenant, one field per model, shared by all gateways."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.limits.terms import account_key
from gateway.redis.line import Argument
from gateway.redis.script import Script
from gateway.usage.answer_lengths import FORGOTTEN_BY_HALF_SECONDS, KEPT, Lengths
from gateway.usage.guesses import MOST_MODELS
from gateway.usage.redis_wire import UsageWire

_KEPT_SECONDS = 35 * 86_400
_NUMBERS = len(Lengths().numbers())
_MOST = 1e18
"""No number of lengths, or of seconds, is as large."""


class RedisLengths:
    """A LengthStore that all gateways share."""

    def __init__(self, wire: UsageWire) -> None:
        self._wire = wire.for_store()
        self._script = Script.load(__package__, "learn")

    async def learn(self, tenant: str, later: Mapping[str, Lengths]) -> dict[str, Lengths]:
        arguments: list[Argument] = [repr(KEPT), repr(FORGOTTEN_BY_HALF_SECONDS), MOST_MODELS, _KEPT_SECONDS]
        for model, lengths in later.items():
            arguments += (model, " ".join(map(repr, lengths.numbers())))
        key = f"{self._wire.prefix}{account_key(tenant)}:answers"
        told = await self._wire.run(self._script, [key], arguments)
        return {
            model.decode("utf-8", "replace"): known
            for model, text in zip(told[::2], told[1::2], strict=True)
            if (known := _read(text)) is not None
        }

    async def close(self) -> None:
        await self._wire.close()


def _read(text: bytes) -> Lengths | None:
    """What is known of a model; None where somebody broke it."""
    try:
        numbers = tuple(map(float, text.split()[:_NUMBERS]))
    except ValueError:
        return None
    if len(numbers) < _NUMBERS or not all(0 <= number < _MOST for number in numbers):
        return None
    return Lengths(*numbers)
