"""All wiring: from settings to something that serves, the gateway's own paths, the private listener.

Only `cli` stands above and may ask. Rules, arithmetic and bytes live further down.
"""
