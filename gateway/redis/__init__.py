"""Lua scripts on one Redis server, behind Sentinels or in a cluster, whatever becomes of connections.

Asked by the stores in `limits`, `usage` and `credentials`. Nothing here knows what a script is for.
"""
