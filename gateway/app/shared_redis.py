"""Whether a Redis that others use can be shared, asked before anything is counted there."""

from __future__ import annotations

from gateway.settings.section import Problem, SettingsInvalid, revealed
from gateway.settings.settings import Settings


async def enter_redis(settings: Settings) -> None:
    """Say there that we are here. Raises SettingsInvalid where a version that is too far apart has been."""
    url = revealed(settings.redis_url)
    if url is None:
        return
    # Imported here: Redis's client takes 40 ms and 6 MB, which who has no Redis need not pay.
    from gateway.redis.entering import enter
    from gateway.redis.servers import RedisServers

    apart = await enter(RedisServers.parse(url), settings.redis_prefix)
    if apart is not None:
        raise SettingsInvalid([Problem("redis_url", apart)])
