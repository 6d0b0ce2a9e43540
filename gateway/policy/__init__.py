"""What a caller may ask for: tenants, models, stored objects. Pure.

Every room above may ask, mostly `middleware` and `proxy`, about a caller, an operation, a target or a body; it
answers, or raises the refusal. A body that has to change it returns changed; it never writes to an exchange.
"""
