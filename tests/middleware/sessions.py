"""What tests of sessions have of their limits: how much there is, what is expected of a response, what is left."""

from __future__ import annotations

from gateway.limits.terms import Dimension
from tests.kit.gateway import Gateway
from tests.kit.realtime import HELD
from tests.middleware.limited import remaining

CAPACITY = 5000
EXPECTED = 1000
"""LLM tokens that are taken for an answer of which nobody says how long it may be."""


async def left(gateway: Gateway) -> int:
    """What is left of the day's limit, the session's own one aside."""
    return await remaining(gateway, Dimension.TOKENS_PER_DAY) + HELD
