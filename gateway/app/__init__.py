"""All wiring: from settings to something that serves, the gateway's own paths, the private listener,
and what is remembered of upstream accounts, which decides with the settings which tenants are in force.

Only `cli` stands above and may ask. Rules, arithmetic and bytes live further down.
"""
