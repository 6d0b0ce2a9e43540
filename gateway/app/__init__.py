"""All wiring: from settings to something that serves, the gateway's own paths, the private listener.

What is remembered of upstream accounts is kept here: with the settings it decides what is open to the tenants in
force. Only `cli` stands above and may ask. Rules, arithmetic and bytes live further down.
"""
