"""What stands behind a client's connection: something that answers requests, and what is put around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gateway.proxy.answer import Answer
from gateway.proxy.request import Request

Handler = Callable[[Request], Awaitable[Answer]]
Middleware = Callable[[Handler], Handler]
"""Puts something around a handler, once."""
