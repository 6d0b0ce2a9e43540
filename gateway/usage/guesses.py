"""How long an answer is going to be where its request does not say: what the operator expects of the model, else what
answers of it have had, tenant by tenant.

What this process sees it knows at once. With a store it tells what it has seen, and hears what others have, once a
second at most for each tenant, off the hot path. Told twice, or lost, it changes a guess a little; so nothing is done
about that. Tenants know nothing of each other, and of models only what the upstream has answered for.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Protocol

from gateway.limits.store import StoreUnavailable
from gateway.operations.model_patterns import closest
from gateway.operations.table import Operation
from gateway.usage.answer_lengths import EXPECTED_OUTPUT, MOST_LEARNED, Lengths
from gateway.usage.counters import named

MOST_MODELS = 64
"""Of one tenant of which is known how long answers are; another takes the place of that which was used longest ago."""

_MOST_TENANTS = 4096
_SHARE_SECONDS = 1.0
_CLOSING_SECONDS = 1.0
_TENANTS_PER_SHARING = 100
"""Of whom is shared in one second; others have to wait for the next."""

_AT_ONCE = 16
"""Of those, of whom the store is asked side by side."""

_log = logging.getLogger(__name__)


class LengthStore(Protocol):
    """Where all gateways know how long answers have been. Raises StoreUnavailable (of limits) and nothing else."""

    async def learn(self, tenant: str, later: Mapping[str, Lengths]) -> dict[str, Lengths]:
        """Join what has come later, by model; all that is known of the tenant's models then."""

    async def close(self) -> None:
        """Let go of connections; nothing else may be called afterwards."""


class _Tenant:
    """What is known of one tenant's answers."""

    __slots__ = ("asked", "models", "untold")

    def __init__(self) -> None:
        self.asked = False
        """Whether anybody has wanted to know since the store was asked."""

        self.models: dict[str, Lengths] = {}
        """In the order of their last answers, oldest first."""

        self.untold: dict[str, Lengths] = {}
        """What was seen here since the store was told."""


class Guesses:
    """How long answers are expected to be where requests do not say. `expected` is the operator's word, by model."""

    def __init__(
        self,
        expected: Mapping[str, int],
        store: LengthStore | None = None,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._expected = expected
        self._expected_of = lru_cache(maxsize=1024)(self._find)
        self._store = store
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._asking: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def output(self, operation: Operation, tenant: str, model: str | None) -> int:
        """LLM tokens of one answer. Never waits: what the store knows of a tenant is asked for when it is first met."""
        stated = self._stated(operation, model)
        if stated is not None:
            return stated
        known = self._tenants.get(tenant) or self._met(tenant)
        known.asked = True
        lengths = known.models.get(model or "")
        return EXPECTED_OUTPUT if lengths is None else lengths.guess

    def had(self, operation: Operation, tenant: str, model: str | None, length: int) -> None:
        """Learn how many LLM tokens an answer had whose request stated no maximum."""
        name = model or ""
        if (
            not 0 < length <= MOST_LEARNED
            or name != named(name)
            or self._stated(operation, model) is not None
        ):
            return
        now = self._clock()
        known = self._tenants.get(tenant) or self._met(tenant)
        _latest(known.models, name).add(length, now)
        if self._store is not None:
            _latest(known.untold, name).add(length, now)

    async def start(self) -> None:
        """Begin to share what is seen, if there is a store to share it by."""
        if self._store is not None:
            self._task = asyncio.create_task(self._share_for_ever(self._store))

    async def close(self) -> None:
        """Tell the store what is left, as far as it listens now, and close it."""
        if self._store is None or self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task, *self._asking})
        untold = [tenant for tenant, known in self._tenants.items() if known.untold]
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSING_SECONDS):
                await self._share(self._store, untold)
        await self._store.close()

    def _stated(self, operation: Operation, model: str | None) -> int | None:
        """What the API takes for a maximum where none is stated, or else what the operator expects."""
        if operation.default_output is not None:
            return operation.default_output
        return self._expected_of(model or "") if self._expected else None

    def _find(self, model: str) -> int | None:
        pattern = closest(self._expected, model)
        return None if pattern is None else self._expected[pattern]

    def _met(self, tenant: str) -> _Tenant:
        """Know a tenant from now on, and soon what the store knows of it."""
        if len(self._tenants) >= _MOST_TENANTS:
            del self._tenants[next(iter(self._tenants))]
        known = self._tenants[tenant] = _Tenant()
        if self._store is not None and self._task is not None:
            asking = asyncio.create_task(self._ask(self._store, tenant))
            self._asking.add(asking)
            asking.add_done_callback(self._asking.discard)
        return known

    async def _share_for_ever(self, store: LengthStore) -> None:
        while True:
            await asyncio.sleep(_SHARE_SECONDS)
            due = (tenant for tenant, known in self._tenants.items() if known.asked or known.untold)
            await self._share(store, list(islice(due, _TENANTS_PER_SHARING)))

    async def _share(self, store: LengthStore, tenants: list[str]) -> None:
        for at in range(0, len(tenants), _AT_ONCE):
            await asyncio.gather(*(self._ask(store, tenant) for tenant in tenants[at : at + _AT_ONCE]))

    async def _ask(self, store: LengthStore, tenant: str) -> None:
        """Tell what has been seen of a tenant's answers, and take over what all have."""
        known = self._tenants.pop(tenant, None)
        if known is None:
            return
        self._tenants[tenant] = known  # behind those who have waited longer
        known.asked = False
        later, known.untold = known.untold, {}
        try:
            models = await store.learn(tenant, later)
        except StoreUnavailable as unavailable:
            if not unavailable.sent:
                _join(later, known.untold, self._clock())
                known.untold = later
            return
        except Exception:  # noqa: BLE001 (guessing goes on by what is known)
            _log.exception("sharing how long answers are failed")
            return
        now = self._clock()
        known.models = {}
        for model, lengths in sorted(models.items(), key=lambda item: item[1].last_at):
            lengths.look(now)
            known.models[model] = lengths
        _join(known.models, known.untold, now)


def _latest(models: dict[str, Lengths], model: str) -> Lengths:
    """The lengths of a model, which are the last to go from now on."""
    lengths = models.pop(model, None) or Lengths()
    models[model] = lengths
    if len(models) > MOST_MODELS:
        del models[next(iter(models))]
    return lengths


def _join(models: dict[str, Lengths], later: Mapping[str, Lengths], now: float) -> None:
    for model, lengths in later.items():
        _latest(models, model).join(lengths, now)
