"""What `gateway check --live` finds of Redis: what would lose what is kept there, or refuse to keep it."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from gateway.cli.stores import quiet_redis
from gateway.redis.entering import enter
from gateway.redis.schemes import Topology
from gateway.redis.servers import RedisServers
from gateway.redis.survey import ServerSeen, silent_sentinels, survey

LEAST_VERSION = (6, 2)
MOST_SECONDS_APART = 1.0
_FULL = 0.8
"""Of its memory: it is time to look."""


@dataclass
class RedisFound:
    """What is to be said of all servers."""

    lines: list[str] = field(default_factory=list)
    """What each says of itself."""

    warnings: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


async def look_at_redis(url: str, prefix: str) -> RedisFound:
    """Ask every server, and whether what is kept under the prefix can be shared."""
    servers, found = RedisServers.parse(url), RedisFound()
    try:
        seen = await survey(servers, prefix)
    except (RedisError, OSError, TimeoutError) as error:
        found.problems.append(f"Redis {servers.name} cannot be asked: {str(error) or type(error).__name__}")
        return found
    for name, trouble in (await silent_sentinels(servers)).items():
        found.warnings.append(f"Sentinel {name} does not answer: {trouble}")
    for server in seen:
        if server.trouble is not None:
            found.problems.append(f"Redis {server.name} cannot be asked: {server.trouble}")
            continue
        found.lines.append(_line(server))
        found.problems += (f"Redis {server.name} {words}" for words in _problems(server, servers))
        found.warnings += (f"Redis {server.name} {words}" for words in _warnings(server))
    with quiet_redis():
        apart = await enter(servers, prefix, enters=False)
    if apart is not None:
        found.problems.append(f"Redis {servers.name}: {apart}")
    return found


def _line(server: ServerSeen) -> str:
    facts = server.facts
    said = [f"version {facts.get('redis_version', 'unknown')}", facts.get("role", "role unknown")]
    said.append(f"maxmemory-policy {facts.get('maxmemory_policy', 'unknown')}")
    used, most = _amount(facts, "used_memory"), _amount(facts, "maxmemory")
    if used is not None:
        bound = f"of {most / 2**20:.0f} MiB" if most else "MiB, without bound,"
        said.append(f"{used / 2**20:.1f} {bound} used")
    said.append(f"clock {server.seconds_ahead:+.3f} s")
    return f"Redis {server.name}: {', '.join(said)}"


def _problems(server: ServerSeen, servers: RedisServers) -> Iterator[str]:
    version = server.facts.get("redis_version", "")
    if version and _numbers(version) < LEAST_VERSION:
        yield f"is of version {version}; the scripts need 6.2 or later"
    if server.refused is not None:
        yield f"does not let this login do what scripts do below this redis_prefix: {server.refused}"
    policy = server.facts.get("maxmemory_policy")
    if policy not in (None, "noeviction"):
        yield (
            f"has maxmemory-policy {policy}: when its memory is full it forgets limits, who has been revoked, and "
            "whose stored objects are; set maxmemory-policy to noeviction"
        )
    if not servers.shows_who_asks and not _is_local(server.name, servers):
        yield (
            "is elsewhere and asks for no password: whoever reaches it can take revocations and limits back; "
            "set requirepass or an ACL, and the login in redis_url"
        )


def _warnings(server: ServerSeen) -> Iterator[str]:
    facts = server.facts
    unseen = [
        what
        for fact, what in (("redis_version", "its version"), ("maxmemory_policy", "its maxmemory-policy"))
        if fact not in facts
    ]
    if unseen:
        yield f"does not tell this login {' and '.join(unseen)} (INFO): see to 6.2 or later, and noeviction, elsewhere"
    appends = facts.get("aof_enabled")
    if appends == "0" and server.snapshots is False:
        yield (
            "writes nothing to disk: after its restart all limits are full, usage is lost, and revocations are known "
            "only as far as a gateway writes them back; set appendonly to yes"
        )
    elif appends != "1" and server.snapshots is None:
        yield "does not tell this login whether it writes to disk (INFO, CONFIG GET save): see to it elsewhere"
    used, most = _amount(facts, "used_memory"), _amount(facts, "maxmemory")
    if used and most and used > _FULL * most:
        yield f"has {used / most:.0%} of its memory in use; full, it takes no more changes"
    if abs(server.seconds_ahead) > MOST_SECONDS_APART:
        yield f"has a clock that differs from the one here by {server.seconds_ahead:+.1f} s"


def _amount(facts: Mapping[str, str], name: str) -> int | None:
    text = facts.get(name, "")
    return int(text) if text.isdigit() else None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:2])


def _is_local(name: str, servers: RedisServers) -> bool:
    """Whether nobody on another machine reaches it there."""
    if servers.topology is Topology.SINGLE and not servers.addresses:
        return True
    host = name.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
