"""`gateway upstream`: a project of its own at the upstream for each tenant, made, renewed and ended there.

Which project is whose is written nowhere but in its name, so nothing of this machine has to survive but the key. What
is there is looked at first, and what is missing is done: to run a command again is always right.
"""
