"""What keys in Redis begin with."""

from __future__ import annotations

DEFAULT_PREFIX = "gateway:"
