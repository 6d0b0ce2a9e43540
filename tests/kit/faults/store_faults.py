"""Ways in which a Redis can fail its clients, each with its end."""

from __future__ import annotations

from collections.abc import Callable

from tests.kit.faults.faulty_link import FaultyLink
from tests.kit.redis import RedisServer

Fault = Callable[[RedisServer, FaultyLink], object]
FAULTS: dict[str, tuple[Fault, Fault]] = {
    "frozen": (lambda redis, _: redis.freeze(), lambda redis, _: redis.thaw()),
    "killed": (lambda redis, _: redis.stop(), lambda redis, _: redis.start()),
    "read-only": (
        lambda redis, _: redis.command("REPLICAOF", "127.0.0.1", 1),
        lambda redis, _: redis.command("REPLICAOF", "NO", "ONE"),
    ),
    "out of memory": (
        lambda redis, _: redis.command("CONFIG", "SET", "maxmemory", 1),
        lambda redis, _: redis.command("CONFIG", "SET", "maxmemory", 0),
    ),
    "replies dropped": (
        lambda _, link: setattr(link, "drop_replies", True),
        lambda _, link: setattr(link, "drop_replies", False),
    ),
    "200 ms slow": (
        lambda _, link: setattr(link, "delay_seconds", 0.2),
        lambda _, link: setattr(link, "delay_seconds", 0.0),
    ),
}
