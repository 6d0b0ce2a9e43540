"""Why somebody elsewhere could not be asked, in words that quote nothing of what was answered: it may hold a secret."""

from __future__ import annotations

import aiohttp


def unasked(error: Exception) -> str:
    """The words for what an attempt raised. Those of aiohttp quote whatever an answer holds that is no HTTP, be it what
    was shown there or what was granted."""
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answers {error.status}"
    if isinstance(error, aiohttp.ClientResponseError | aiohttp.ClientPayloadError):
        return "what it answers is no HTTP, or ends early"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closes the connection without an answer"
    return str(error).replace(" ssl:default", "") or type(error).__name__
