"""What keys in Redis begin with, and of which schema they are: gateways of neighbouring schemas share them.

A schema is what is kept, under which keys, and what the scripts of gateways that run side by side make of it. A version
that changes any of it has the next number, and still shares with gateways of the number before: they run beside it
during an upgrade, and again where that is taken back. Which schemas gateways have that are here, or were last, stands
under one key (schema.lua).
"""

from __future__ import annotations

DEFAULT_PREFIX = "gateway:"

SCHEMA = 2
"""Ours."""

SILENT_SECONDS = 60
"""A schema that no gateway has named for so long counts no longer, once another one is there."""


def schema_key(prefix: str) -> str:
    """Where the schemas stand."""
    return f"{prefix}schema"


def sentence_of(prefix: str, other: int) -> str:
    """What is wrong where gateways of another schema are or were, and what helps."""
    step = 1 if other < SCHEMA else -1
    first, last = other + step, SCHEMA - step
    by = (
        f"a version of schema {first}"
        if first == last
        else f"versions of schemas {first} to {last}, one after another"
    )
    return (
        f"what is kept under {prefix} is of schema {other}, and this version has {SCHEMA}, which shares with its "
        f"neighbours alone; go by {by}, until none of the one before has run for {SILENT_SECONDS} s, or set another "
        "redis_prefix, under which everything is counted and revoked anew"
    )
