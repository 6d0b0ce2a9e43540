"""How long answers have been, in Redis: one hash per tenant, one field per model, shared by all gateways."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.limits.store import StoreUnavailable
from gateway.limits.terms import account_key
from gateway.redis.cluster import open_wire
from gateway.redis.line import Argument, RedisUnavailable
from gateway.redis.schema import DEFAULT_PREFIX
from gateway.redis.script import Script
from gateway.redis.servers import RedisServers
from gateway.usage.answer_lengths import FORGOTTEN_BY_HALF_SECONDS, KEPT, Lengths
from gateway.usage.guesses import MOST_MODELS

DEADLINE_SECONDS = 0.5
_KEPT_SECONDS = 35 * 86_400
_NUMBERS = len(Lengths().numbers())


class RedisLengths:
    """A LengthStore that all gateways share; redis/servers.py says what `url` may be.

    Nothing is connected before the first call.
    """

    def __init__(
        self, url: str, *, deadline_seconds: float = DEADLINE_SECONDS, prefix: str = DEFAULT_PREFIX
    ) -> None:
        self._wire = open_wire(RedisServers.parse(url), prefix, deadline_seconds=deadline_seconds)
        self._script = Script.load(__package__, "learn")
        self._prefix = prefix

    async def learn(self, tenant: str, later: Mapping[str, Lengths]) -> dict[str, Lengths]:
        arguments: list[Argument] = [repr(KEPT), repr(FORGOTTEN_BY_HALF_SECONDS), MOST_MODELS, _KEPT_SECONDS]
        for model, lengths in later.items():
            arguments += (model, " ".join(map(repr, lengths.numbers())))
        key = f"{self._prefix}{account_key(tenant)}:answers"
        try:
            told = await self._wire.run(self._script, [key], arguments)
        except RedisUnavailable as error:
            raise StoreUnavailable(str(error), sent=error.sent) from error
        return {
            model.decode(): Lengths(*map(float, numbers[:_NUMBERS]))
            for model, text in zip(told[::2], told[1::2], strict=True)
            if len(numbers := text.split()) >= _NUMBERS  # else somebody broke it
        }

    async def close(self) -> None:
        await self._wire.close()
