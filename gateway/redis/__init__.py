"""Lua scripts on one Redis server, behind Sentinels or in a cluster, whatever becomes of connections.

Every room above may ask; the stores in `limits`, `usage` and `credentials` do. Nothing here knows
what a script is for.
"""
