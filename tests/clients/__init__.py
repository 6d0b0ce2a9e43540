"""Clients that are no Python of this repository, each with its own runtime and its own requirements.

`python -m tests.clients.run` runs them; README.md beside this file says how. Neither pytest nor CI does.
"""
