"""All wiring: from settings to something that serves, the gateway's own paths, the private listener.

Asked by the commands and by tests. Rules, arithmetic and bytes live further down.
"""
