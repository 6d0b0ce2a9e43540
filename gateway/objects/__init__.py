"""Who has made what of all that an upstream keeps for everybody behind one key: the registry, and what waits for it.

Asked by `policy` (whose a tenant's objects are), `middleware` (before something is named, and when something is made),
`proxy` (lists), `app` (wiring) and `cli`. What a request names is found in `wire` and judged in `policy`; which kinds
there are is data of `operations`. Nothing of an object is kept but its id, or a digest of that.
"""
