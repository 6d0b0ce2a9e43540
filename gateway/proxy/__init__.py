"""Towards clients, towards upstreams, and the bytes between.

Wired in `app`, asked by `middleware`. The only room that touches aiohttp's insides. What may pass is decided
in `policy`; nothing here changes a byte but by a change that somebody else chose.
"""
