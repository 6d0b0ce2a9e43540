"""`gateway bench`: what a gateway costs with one's own configuration, measured by `gateway/bench/`."""
