"""What a request is going to cost, what its answer used, and where that is counted.

Every room above may ask; mostly `middleware.limit` and `middleware.meter`, the gateway's own paths and the
commands. Whether a cost is granted is decided in `limits`.
"""
