"""Bytes in, decisions out: heads, frames, events, forms, JSON.

Every room may ask. Nothing here knows aiohttp, waits, or performs I/O; what needs a connection lives in `proxy`.
"""
