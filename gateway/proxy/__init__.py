"""Towards clients, towards upstreams, and the bytes between.

Every room above may ask; mostly `middleware`, and `app`, which wires it. The only room that touches aiohttp's
insides. What may pass is decided in `policy`; nothing here changes a byte but by a change that somebody else
chose.
"""
