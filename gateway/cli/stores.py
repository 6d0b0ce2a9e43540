"""What commands share with running gateways: what is remembered of credentials and accounts, and what is counted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from gateway.app.account_memory import AccountMemory
from gateway.objects.spool import Spool
from gateway.policy.accounts import History, Uses
from gateway.settings.section import Problem, SettingsInvalid, revealed
from gateway.settings.settings import Settings

if TYPE_CHECKING:
    from gateway.credentials.redis_credentials import RedisCredentials

PATIENCE_SECONDS = 5.0
"""A person waits; Redis may be far away from their machine."""

_CREDENTIALS_PATIENCE_SECONDS = 3.0


@asynccontextmanager
async def shared_credentials(settings: Settings) -> AsyncIterator[RedisCredentials | None]:
    """What Redis holds about credentials; None when no Redis is configured."""
    redis_url = revealed(settings.redis_url)
    if redis_url is None:
        yield None
        return
    from gateway.credentials.redis_credentials import RedisCredentials

    shared = RedisCredentials(
        redis_url, deadline_seconds=_CREDENTIALS_PATIENCE_SECONDS, prefix=settings.redis_prefix
    )
    with quiet_redis():
        try:
            yield shared
        finally:
            await shared.close()


def account_history(settings: Settings, uses: Uses) -> tuple[History, str | None]:
    """What running gateways remember of upstream accounts, and why that is not known, or these could not be kept.

    Notes nothing.
    """

    async def recall() -> tuple[History, str | None]:
        memory = AccountMemory(
            redis_url=revealed(settings.redis_url),
            redis_prefix=settings.redis_prefix,
            keys_dir=settings.keys_dir,
            deadline_seconds=_CREDENTIALS_PATIENCE_SECONDS,
        )
        try:
            return await memory.recall(uses), memory.trouble
        finally:
            await memory.close()

    log = logging.getLogger("gateway.accounts")
    log.disabled = True
    with quiet_redis():
        try:
            return asyncio.run(recall())
        finally:
            log.disabled = False


def unkept_objects(settings: Settings) -> Iterator[str]:
    """Why what the registry of stored objects cannot be told would not survive a process."""
    try:
        Spool(settings.keys_dir).try_to_keep()
    except OSError as error:
        yield (
            f"keys_dir: {error}; what is made while Redis is away would wait to be recorded in memory alone, and end "
            "with the process"
        )


@contextmanager
def counting_redis(settings: Settings, *, otherwise: str) -> Iterator[str]:
    """The URL of the Redis that counts; SettingsInvalid says where to look `otherwise`, without one."""
    url = revealed(settings.redis_url)
    if url is None:
        raise SettingsInvalid(
            [Problem("redis_url", f"is not set, so each gateway counts in its own memory; {otherwise}")]
        )
    with quiet_redis():
        yield url


@contextmanager
def quiet_redis() -> Iterator[None]:
    """Let the command say by itself what could not be done."""
    logs = [logging.getLogger(f"gateway.redis.{module}") for module in ("breaker", "cluster")]
    for log in logs:
        log.disabled = True
    try:
        yield
    finally:
        for log in logs:
            log.disabled = False
