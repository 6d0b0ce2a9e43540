"""Waiting for what nobody tells: asked often, for so long and no longer."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

_PAUSE_SECONDS = 0.005
PATIENCE_SECONDS = 12.0
"""For what happens at once on a machine that has nothing else to do."""

T = TypeVar("T")


async def until(condition: Callable[[], object], within_seconds: float = PATIENCE_SECONDS) -> None:
    """Return as soon as the condition holds; fails when that takes longer."""
    async with asyncio.timeout(within_seconds):
        while not condition():
            await asyncio.sleep(_PAUSE_SECONDS)


async def found(look: Callable[[], Awaitable[T]], within_seconds: float = PATIENCE_SECONDS) -> T:
    """What a look finds as soon as it finds something; fails when that takes longer."""
    async with asyncio.timeout(within_seconds):
        while not (seen := await look()):
            await asyncio.sleep(_PAUSE_SECONDS)
        return seen


async def comes_to(
    expected: T, look: Callable[[], Awaitable[T]], within_seconds: float = PATIENCE_SECONDS
) -> None:
    """Return as soon as a look shows what is expected; fails with what it showed last."""
    seen = None
    try:
        async with asyncio.timeout(within_seconds):
            while (seen := await look()) != expected:
                await asyncio.sleep(_PAUSE_SECONDS)
    except TimeoutError:
        raise AssertionError(f"still {seen}, not {expected}") from None


async def stays(expected: T, look: Callable[[], Awaitable[T]], for_seconds: float) -> None:
    """It is so now and for so long: proves that nothing more comes."""
    end = asyncio.get_running_loop().time() + for_seconds
    while asyncio.get_running_loop().time() < end:
        assert await look() == expected
        await asyncio.sleep(_PAUSE_SECONDS)
