"""With what a Redis URL begins: for whoever judges one before its client is imported."""

from __future__ import annotations

from enum import Enum


class Topology(Enum):
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


_SCHEMES = {
    "redis": ("redis", Topology.SINGLE),
    "rediss": ("rediss", Topology.SINGLE),
    "unix": ("unix", Topology.SINGLE),
    "redis+sentinel": ("redis", Topology.SENTINEL),
    "rediss+sentinel": ("rediss", Topology.SENTINEL),
    "redis+cluster": ("redis", Topology.CLUSTER),
    "rediss+cluster": ("rediss", Topology.CLUSTER),
}


def scheme_of(url: str) -> tuple[str, Topology]:
    """The scheme that redis-py knows, and what answers there. ValueError says which there are, without the URL."""
    scheme, separator, _ = url.partition("://")
    known = _SCHEMES.get(scheme.replace("valkey", "redis"))
    if known is None or not separator:
        raise ValueError(f"a Redis URL begins with one of {', '.join(f'{s}://' for s in _SCHEMES)}")
    return known
