"""What commands and running gateways share: the register and the revocations in Redis."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.credentials.redis_credentials import RedisCredentials
from gateway.settings.section import revealed
from gateway.settings.settings import Settings

_PATIENCE_SECONDS = 3.0
"""A person waits; Redis may be far away from their machine."""


@asynccontextmanager
async def shared_credentials(settings: Settings) -> AsyncIterator[RedisCredentials | None]:
    """What Redis holds about credentials; None when no Redis is configured."""
    redis_url = revealed(settings.redis_url)
    if redis_url is None:
        yield None
        return
    shared = RedisCredentials(redis_url, deadline_seconds=_PATIENCE_SECONDS)
    breaker_log = logging.getLogger("gateway.redis.breaker")
    breaker_log.disabled = True  # the command says itself what could not be done
    try:
        yield shared
    finally:
        await shared.close()
        breaker_log.disabled = False
