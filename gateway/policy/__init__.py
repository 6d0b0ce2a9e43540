"""What a caller may ask for: tenants, models, stored objects. Pure.

Asked by the middlewares and by `proxy`, about a caller, an operation, a target or a body; it answers, or raises
the refusal. It never sees an exchange and changes nothing.
"""
