"""The steps of one turn of the loop, as one call to a script, and the reply told to each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import orjson

from gateway.limits.store import Step, StoreUnavailable
from gateway.redis.line import Argument, Call, RedisUnavailable, Reply
from gateway.redis.script import Script

MOST_STEPS = 64
"""In one call: Redis serves everybody, and does nothing else meanwhile."""


class Turn(Call):
    """Steps that travel together, and share nothing else: each is decided, and fails, by itself.

    `ended` hears when all of them know, and of those that were granted to somebody who does not wait any more.
    """

    __slots__ = ("_ended", "_lease_microseconds", "_now", "_prefix", "_sent", "_steps")

    def __init__(
        self,
        script: Script,
        steps: Sequence[Step],
        ended: Callable[[Turn, Sequence[Step]], None],
        *,
        prefix: str,
        lease_microseconds: int,
        now: int | None,
    ) -> None:
        super().__init__(script, writes=any(step.mode != "look" for step in steps))
        self._steps = steps
        self._sent: Sequence[Step] = ()
        self._ended = ended
        self._prefix = prefix
        self._lease_microseconds = lease_microseconds
        self._now = now

    def words(self) -> Sequence[Argument] | None:
        """What turn.lua takes: the accounts' keys, and the steps that somebody still wants."""
        self._sent = sent = [step for step in self._steps if step.wanted]
        if not sent:
            self._ended(self, ())
            return None
        keys: list[str] = []
        accounts: dict[str, int] = {}
        quotas: list[tuple[object, ...]] = []
        positions: dict[int, int] = {}
        steps: list[list[object]] = []
        for step in sent:
            words: list[object] = [step.mode, step.exchange_id]
            for charge, permits in zip(step.charges, step.permits, strict=True):
                quota = charge.quota
                position = positions.get(id(quota))
                if position is None:
                    account = accounts.get(quota.key)
                    if account is None:
                        account = accounts[quota.key] = len(accounts) + 1
                        keys += account_keys(self._prefix, quota.key)
                    quotas.append((account, *quota.words))
                    position = positions[id(quota)] = len(quotas)
                words += (position, permits)
            steps.append(words)
        told = orjson.dumps((self._lease_microseconds, self._now or False, quotas, steps))
        return (len(keys), *keys, told)

    def answered(self, reply: Reply) -> None:
        """Tell each step its outcome."""
        unheard = []
        for step, outcome in zip(self._sent, reply, strict=True):
            if type(outcome) is not list:
                # The script reads before it writes, so nothing was done.
                step.failed(StoreUnavailable(outcome.decode("utf-8", "replace"), sent=False))
                continue
            granted = bool(outcome.pop())
            if not step.done(granted, outcome) and granted:
                unheard.append(step)
        self._ended(self, unheard)

    def failed(self, unavailable: RedisUnavailable) -> None:
        """Tell each step why."""
        for step in self._steps:
            outage = StoreUnavailable(str(unavailable), sent=unavailable.sent)
            outage.__cause__ = unavailable
            step.failed(outage)
        self._ended(self, ())


def account_keys(prefix: str, key: str) -> tuple[str, str]:
    """The hash and the lease list of an account."""
    return f"{prefix}{key}", f"{prefix}{key}:open"
